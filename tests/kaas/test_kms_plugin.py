"""seki-kms alone, as API servers see it: with the Go module k8s.io/kms, and with what no client sends."""
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import pathlib

import pytest

from cloud import BUILD, ROOT, wait_for

MAGIC = b"SEKIKMS1"
SEED = b"0123456789abcdef0123456789abcdef".hex()


def key(n):
    return bytes([n]) * 16, bytes([100 + n]) * 32


class Plugin:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="seki-kms-"))
        self.socket, self.control = self.dir / "s", self.dir / "c"
        self.log = open(self.dir / "log", "w+b")
        self.start()

    def start(self):
        self.process = subprocess.Popen([BUILD / "src" / "seki-kms", self.socket, self.control, "a-cluster"], stderr=self.log, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        wait_for(self.listens, 30, "the plugin to listen")

    def listens(self):
        try:
            return self.tell() is not None
        except OSError:
            return False

    def ask(self, raw):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(self.control))
            s.sendall(raw)
            answer = b""
            while len(answer) < 33 or len(answer) < 33 + 16 * answer[8]:
                piece = s.recv(4096)
                if not piece:
                    break
                answer += piece
            return answer

    def tell(self, *keys):
        a = self.ask(MAGIC + bytes([len(keys)]) + b"".join(i + k for i, k in keys))
        assert a.startswith(MAGIC)
        return {"ids": [a[33 + 16 * i:49 + 16 * i] for i in range(a[8])], **dict(zip(("sealed", "opened", "refused"), struct.unpack(">QQQ", a[9:33])))}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.log.seek(0)
        said = self.log.read().decode()
        shutil.rmtree(self.dir)
        assert code == 0 and "ERROR" not in said and "runtime error" not in said, said


@pytest.fixture
def plugin():
    p = Plugin()
    yield p
    p.stop()


@pytest.fixture(scope="module")
def client():
    if not shutil.which("go"):
        pytest.skip("Go is not there to build tools/kms-client")
    p = subprocess.run([ROOT / "scripts" / "kms-client"], capture_output=True, text=True, timeout=1200)
    assert p.returncode == 0, p.stderr
    return p.stdout.strip()


def speak(client, plugin, *lines):
    p = subprocess.run([client, str(plugin.socket)], input="\n".join(lines), capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    return [json.loads(line) for line in p.stdout.splitlines()]


@pytest.mark.full
def test_as_api_servers_speak_to_it(client, plugin):
    first, second = speak(client, plugin, "status", f"encrypt {SEED}")
    assert first["version"] == "v2" and first["healthz"] == "no key was given yet"
    assert second == {"code": "Unavailable", "error": "no key was given yet"}
    plugin.tell(key(1))
    status, sealed = speak(client, plugin, "status", f"encrypt {SEED}")
    assert status == {"code": "OK", "version": "v2", "healthz": "ok", "key": "01" * 16}
    assert sealed["key"] == "01" * 16 and SEED not in sealed["text"] and len(sealed["text"]) < 2048
    # Another key in front: new texts are under it, older ones open.
    plugin.tell(key(2), key(1))
    status, old, new = speak(client, plugin, "status", f"decrypt {'01' * 16} {sealed['text']}", f"encrypt {SEED}")
    assert status["key"] == new["key"] == "02" * 16 and old == {"code": "OK", "text": SEED}
    assert plugin.tell()["sealed"] == 1
    # The first is gone.
    plugin.tell(key(2))
    gone, changed, good = speak(client, plugin, f"decrypt {'01' * 16} {sealed['text']}", f"decrypt {'02' * 16} {sealed['text']}", f"decrypt {'02' * 16} {new['text']}")
    assert gone == {"code": "NotFound", "error": f"key {'01' * 16} is none of this cluster's keys"}
    assert changed["code"] == "InvalidArgument" and "does not open" in changed["error"] and good == {"code": "OK", "text": SEED}


@pytest.mark.full
def test_many_calls_and_large_ones(client, plugin):
    plugin.tell(key(1))
    assert speak(client, plugin, "many 3000") == [{"code": "OK", "pairs": 3000}]
    fits, long, huge = speak(client, plugin, f"encrypt {'00' * 960}", f"encrypt {'00' * 961}", f"encrypt {'00' * 70000}")
    assert (fits["code"], long["code"], huge["code"]) == ("OK", "InvalidArgument", "ResourceExhausted")
    assert plugin.tell()["opened"] == 3000


def test_what_nobody_sends(plugin):
    plugin.tell(key(1))
    wrong = [b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678" * 20000]
    for raw in wrong:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(str(plugin.socket))
            try:
                s.sendall(raw)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass
    for raw in (b"SEKIKMS2\x00", MAGIC + b"\xff", MAGIC + b"\x01" + b"x" * 49, b"\n"):
        try:
            assert plugin.ask(raw) == b""
        except OSError:
            pass
    assert plugin.tell()["ids"] == [key(1)[0]]


def test_more_connections_than_it_takes(plugin):
    held = []
    for _ in range(100):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(plugin.socket))
        held.append(s)
    assert plugin.tell(key(3))["ids"] == [key(3)[0]]
    for s in held:
        s.close()


def test_another_in_its_place(plugin):
    """Started again while the first one runs, which nobody remembers: the first one leaves."""
    first = plugin.process
    plugin.tell(key(1))
    plugin.start()
    assert first.wait(30) == 0
    assert wait_for(lambda: plugin.tell()["ids"] == [], what="the second one's answer")


def test_keys_are_not_in_the_process_for_others_to_see(plugin):
    plugin.tell(key(1))
    status = pathlib.Path(f"/proc/{plugin.process.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Max core file size        0                    0" in pathlib.Path(f"/proc/{plugin.process.pid}/limits").read_text()
    assert os.stat(f"/proc/{plugin.process.pid}/mem").st_uid == 0
