"""make run and make stop: detached, in the foreground, twice, beside each other, another model, ports in use, odd paths; and as a user without sudo."""
import os
import pathlib
import pty
import pwd
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from cloud import CACHE, ROOT, wait_for

pytestmark = pytest.mark.timeout(900)
MODEL = CACHE / "models" / "gemma3-270m" / "gemma-3-270m-q4_k_m.gguf"


def free_base():
    """A PORT_BASE whose four ports can be bound now."""
    while True:
        base = random.randrange(20000, 32000, 10)  # below those that the kernel gives to whoever asks for any
        sockets = []
        try:
            for port in range(base, base + 4):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()


class Place:
    """A data directory, with spaces and an apostrophe in its path, and ports of its own."""

    def __init__(self, path):
        self.data = path / "it's a place"
        self.base = free_base()
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "SEKI_", "KUBECONFIG", "MODEL", "MAKE", "MFLAGS"))}
        self.env = {**keep, "SEKI_DATA": str(self.data), "SEKI_CACHE": str(CACHE), "PORT_BASE": str(self.base)}

    def make(self, *args, timeout=600, **env):
        return subprocess.run(["make", "--no-print-directory", *args], cwd=ROOT, env={**self.env, **env}, capture_output=True, text=True, timeout=timeout)

    def processes(self):
        """Every process that has this place in its command line or environment of engines: sekid, its roles, engines."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = path.read_bytes()
            except OSError:
                continue
            if str(self.data).encode() in text and b"sekid" + b"\0" in text.split(b"--")[0] or str(self.data / "run").encode() in text:
                found.append(int(path.parent.name))
        return found

    def shell(self, script):
        """What a person does in a shell after sourcing the facts."""
        text = f'source "$SEKI_DATA"/seki.env && PATH={ROOT}/build/release/src:$PATH && {script}'
        return subprocess.run(["bash", "-c", text], env=self.env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def place():
    # Not pytest's own directory: sockets of engines limit the path's length.
    with tempfile.TemporaryDirectory(prefix="seki-run-") as top:
        p = Place(pathlib.Path(top))
        yield p
        p.make("stop")
        assert not p.processes()


@pytest.mark.parametrize("env, args, said", [
    ({"PORT_BASE": "http"}, [], "PORT_BASE=http: expected a port number"),
    ({"PORT_BASE": "80"}, [], "PORT_BASE=80: expected a port number from 1024 to 65000"),
    ({"PORT_BASE": "99999999999999999999"}, [], "expected a port number"),
    ({"MODEL": "/nonexistent.gguf"}, [], "MODEL=/nonexistent.gguf: cannot read that file"),
    ({"MODEL": "/etc/passwd"}, [], "expected a .gguf file"),
    ({"SEKI_DATA": "/proc/nope"}, [], "cannot make /proc/nope"),
    ({"SEKI_DATA": "/tmp/" + "x" * 80}, [], "is too long by"),
    ({}, ["ARGS=--detatch"], "unknown argument --detatch (there is --detach)"),
])
def test_wrong_use(place, env, args, said):
    p = place.make("run", *args, **env)
    assert p.returncode != 0 and said in p.stderr, p.stdout + p.stderr


def test_detached_twice_and_stopped_twice(place):
    begun = time.monotonic()
    p = place.make("run", "ARGS=--detach")
    assert p.returncode == 0, p.stdout + p.stderr
    assert re.search(r"\[32 tokens, .* tokens/s\]", p.stdout + p.stderr) and "make stop ends it" in p.stdout
    facts = place.data / "seki.env"
    assert facts.stat().st_mode & 0o777 == 0o600
    p = place.shell('printf "%s|" "$OPENAI_BASE_URL" "$OPENAI_API_KEY" "$SEKI_MODEL" "$SEKI_METRICS_URL" "$KUBECONFIG"')
    url, key, model, metrics, kubeconfig, _ = p.stdout.split("|")
    assert url == f"http://127.0.0.1:{place.base + 1}/v1" and key.startswith("sk-seki-") and model == "gemma3-270m" and kubeconfig == str(place.data / "admin.kubeconfig"), p
    p = place.shell('seki -n demo status && curl -fs "$SEKI_METRICS_URL" | head -1 && seki chat --raw --max-tokens 4 "One, two,"')
    assert p.returncode == 0 and "modelendpoint/gemma3-270m" in p.stdout and "# HELP" in p.stdout, p

    p = place.shell("seki audit verify && seki usage verify")
    assert p.returncode == 0 and "each follows on the one before" in p.stdout and "journals that say the same: 1" in p.stdout, p  # usage is collected a moment later

    p = place.make("run")
    assert p.returncode != 0 and "Seki already runs on" in p.stderr and str(place.data) in p.stderr, p.stderr
    p = place.make("run", SEKI_DATA=str(place.data.parent / "other"))
    assert p.returncode != 0 and f"port {place.base}, {place.base + 1}, {place.base + 2}, {place.base + 3}" in p.stderr and "PORT_BASE" in p.stderr, p.stderr

    assert place.processes()
    p = place.make("stop")
    assert p.returncode == 0 and "stopped" in p.stdout and not place.processes(), p.stdout + p.stderr
    p = place.make("stop")
    assert p.returncode == 0 and "nothing runs on" in p.stdout, p.stdout + p.stderr

    # Again: the key is the same, and what the first run made is still there.
    p = place.make("run", "ARGS=--detach")
    assert p.returncode == 0, p.stdout + p.stderr
    assert place.shell('printf %s "$OPENAI_API_KEY"').stdout == key and time.monotonic() - begun < 900


def test_a_start_that_cannot_be_is_told_soon(place):
    (place.data / "secrets").mkdir(parents=True, mode=0o700)
    (place.data / "secrets" / "root.key").write_text("not a key\n")
    (place.data / "secrets" / "root.key").chmod(0o600)
    p = place.make("run", "ARGS=--detach", timeout=90)  # the build in it; not the minutes that a slow start has
    assert p.returncode != 0 and "control cannot start" in p.stderr and "expected 64 hexadecimal digits" in p.stderr and not place.processes(), p.stdout + p.stderr


def test_options_beside_those_of_the_run(place):
    """var/seki.conf is what /etc/seki/seki.conf is elsewhere; the Kubernetes that was built is there by itself, whatever else the file says of Kubernetes."""
    place.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    conf = place.data / "seki.conf"
    conf.write_text("[engine]\nremote-alow = 10.0.0.0/24\n")
    p = place.make("run", "ARGS=--detach")
    assert p.returncode != 0 and str(conf) in p.stderr and "remote-alow" in p.stderr and not place.processes(), p.stdout + p.stderr
    conf.write_text("log-level = debug\n[kubernetes]\nbalancer-addresses = 127.77.0.0/24\n")
    p = place.make("run", "ARGS=--detach")
    assert p.returncode == 0 and '"level":"debug"' in (place.data / "sekid.log").read_text(), p.stdout + p.stderr
    built = list((pathlib.Path(place.env.get("SEKI_CACHE") or pathlib.Path.home() / ".cache" / "seki") / "kubernetes").glob("1.*/kube-apiserver"))
    arguments = pathlib.Path(f"/proc/{(place.data / 'run.pid').read_text().strip()}/cmdline").read_bytes().split(b"\0")
    assert any(a.startswith(b"--kubernetes-dir=") for a in arguments) == bool(built), arguments


def test_the_facts_bring_the_programs(place):
    """Pages say `source var/seki.env`, and then `seki`: in bash, sourced as often as one likes."""
    p = place.make("run", "ARGS=--detach")
    assert p.returncode == 0, p.stdout + p.stderr
    path = os.pathsep.join(d for d in os.environ["PATH"].split(os.pathsep) if not os.path.exists(os.path.join(d, "seki")))
    p = subprocess.run(["bash", "-c", 'source "$SEKI_DATA"/seki.env; source "$SEKI_DATA"/seki.env; echo "$PATH"; command -v seki sekid'], env={**place.env, "PATH": path}, capture_output=True, text=True)
    built = f"{ROOT}/build/release/src"
    assert p.stdout.splitlines() == [f"{built}:{path}", f"{built}/seki", f"{built}/sekid"], p


def test_stop_ends_engines_of_a_killed_sekid(place):
    p = place.make("run", "ARGS=--detach")
    assert p.returncode == 0, p.stdout + p.stderr
    pid = int((place.data / "run.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="sekid to be gone")
    p = place.make("stop")
    assert p.returncode == 0 and "sekid was gone; 2 engines stopped" in p.stdout, p.stdout + p.stderr
    wait_for(lambda: not place.processes(), what="the gateway to have left too")


def test_ctrl_c_ends_everything(place):
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("make", ["make", "--no-print-directory", "run"], place.env)
    text, deadline = "", time.monotonic() + 600

    def read(until):
        nonlocal text
        while until not in text:
            assert time.monotonic() < deadline, text[-2000:]
            if select.select([fd], [], [], 1)[0]:
                try:
                    text += os.read(fd, 65536).decode(errors="replace")
                except OSError:
                    assert until is None or until in text, text[-2000:]
                    return
    read("Ctrl-C ends it")
    assert place.processes()
    os.write(fd, b"\x03")
    read("Stopping")
    while True:
        try:
            if not os.read(fd, 65536):
                break
        except OSError:
            break
    os.close(fd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status != 0 and not place.processes()
    assert not (place.data / "run.pid").exists()


def test_a_model_that_is_none(place, tmp_path):
    (tmp_path / "text.gguf").write_bytes(b"not a model")
    p = place.make("run", "ARGS=--detach", MODEL=str(tmp_path / "text.gguf"))
    assert p.returncode != 0 and "text.gguf: not a GGUF file" in p.stderr and not place.processes(), p.stdout + p.stderr
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(range(256)))
    p = place.make("run", "ARGS=--detach", MODEL=str(tmp_path / "broken.gguf"), timeout=120)  # well before the five minutes that a slow one has
    assert p.returncode != 0 and "CrashLoopBackOff" in p.stderr and "the model did not come up" in p.stderr and not place.processes(), p.stdout + p.stderr


def test_another_model(place, tmp_path):
    (tmp_path / "My Model (v2).gguf").symlink_to(MODEL)
    p = place.make("run", "ARGS=--detach", MODEL=str(tmp_path / "My Model (v2).gguf"))
    assert p.returncode == 0, p.stdout + p.stderr
    assert place.shell('printf %s "$SEKI_MODEL"').stdout == "my-model-v2"
    p = place.shell('seki chat --raw --max-tokens 4 "One, two,"')
    assert p.returncode == 0 and "4 tokens" in p.stderr, p


@pytest.mark.full
def test_the_demo_holds(place):
    """On the release build alone, as whoever just cloned it has it."""
    shutil.rmtree(ROOT / "build" / "release" / "tests", ignore_errors=True)
    p = place.make("demo", timeout=900)
    assert p.returncode == 0 and "every act held" in p.stdout, p.stdout + p.stderr


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="makes a process of another user")
def test_as_a_user_without_sudo(tmp_path_factory):
    """A copy of the tree with a space in its path, built and run by nobody, who may install nothing."""
    top = pathlib.Path(tempfile.mkdtemp(prefix="seki run "))
    nobody = pwd.getpwnam("nobody")
    try:
        tree, cache = top / "my tree", top / "cache"
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        for name in filter(None, names):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
        for name in ("engine", "models"):
            shutil.copytree(CACHE / name, cache / name, symlinks=True)
        subprocess.run(["chown", "-R", f"{nobody.pw_uid}:{nobody.pw_gid}", str(top)], check=True)
        base = free_base()
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(top), "SEKI_CACHE": str(cache), "PORT_BASE": str(base), "LC_ALL": "C.UTF-8"}

        def as_nobody(*command):
            return subprocess.run(["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--no-new-privs", *command],
                                  cwd=tree, env=env, capture_output=True, text=True, timeout=800)
        p = as_nobody("make", "--no-print-directory", "run", "ARGS=--detach")
        try:
            assert p.returncode == 0 and "Seki runs" in p.stdout, p.stdout + p.stderr
            pid = int((tree / "var" / "run.pid").read_text())
            # Its files in /proc are root's, not nobody's: the process is not dumpable, so others of the same user cannot read its memory.
            assert os.stat(f"/proc/{pid}/mem").st_uid == 0
            p = as_nobody("bash", "-c", 'source var/seki.env && build/release/src/seki chat --raw --max-tokens 4 "One, two,"')
            assert p.returncode == 0 and "4 tokens" in p.stderr, p
        finally:
            p = as_nobody("make", "--no-print-directory", "stop")
        assert p.returncode == 0 and "stopped" in p.stdout, p.stdout + p.stderr
    finally:
        shutil.rmtree(top, ignore_errors=True)
