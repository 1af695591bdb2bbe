"""make install: what lands where with which mode, units that systemd accepts, and a daemon that serves from the installed tree."""
import gzip
import json
import os
import re
import shutil
import subprocess

import pytest

import cloud as lib
from cloud import BUILD, ROOT, Cloud, wait_for

FILES = {
    "bin/seki": 0o755, "bin/sekid": 0o755, "bin/seki-kms": 0o755, "share/seki/llamacpp-launcher.py": None, "share/seki/prometheus/seki.rules.yaml": 0o644, "share/seki/grafana/seki.json": 0o644, "share/man/man1/seki.1": 0o644, "share/man/man8/sekid.8": 0o644, "share/man/man8/seki-kms.8": 0o644,
    "share/bash-completion/completions/seki": 0o644, "lib/systemd/system/seki-control.service": 0o644, "lib/systemd/system/seki-gateway.service": 0o644,
    "lib/systemd/system/seki-backup.service": 0o644, "lib/systemd/system/seki-backup.timer": 0o644,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree below PREFIX."""
    top = tmp_path_factory.mktemp("dest dir")
    p = subprocess.run(["meson", "install", "-C", str(BUILD), "--no-rebuild", "--quiet", "--destdir", str(top)], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stdout + p.stderr
    prefix = top / "usr" / "local"
    yield prefix
    shutil.rmtree(top)


def test_files_and_modes(installed):
    found = {str(p.relative_to(installed)): p for p in installed.rglob("*") if p.is_file()}
    for name, mode in FILES.items():
        path = found.pop(name, None) or found.pop(name + ".gz", None)
        assert path, f"{name} is not installed"
        assert mode is None or path.stat().st_mode & 0o777 == mode, f"{name}: {path.stat().st_mode:o}"
    assert not found, f"installed and not known here: {sorted(found)}"


def test_manual_pages_are_whole(installed):
    for name in ("man1/seki.1", "man8/sekid.8"):
        path = installed / "share" / "man" / name
        text = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
        assert text == (ROOT / "packaging" / "man" / path.name).read_bytes()


@pytest.mark.parametrize("unit, must", [
    ("seki-control", ["KillMode=process", "ExecReload=/bin/kill -HUP $MAINPID", "NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "Restart=always", "User=seki", "Delegate=yes"]),
    ("seki-gateway", ["ExecReload=/bin/kill -HUP $MAINPID", "NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "TimeoutStopSec=11min", "User=seki", "KillMode=mixed"]),
])
def test_units(installed, tmp_path, unit, must):
    text = (installed / "lib" / "systemd" / "system" / f"{unit}.service").read_text()
    lines = text.splitlines()
    assert all(line in lines for line in must)
    role = unit.removeprefix("seki-")
    supervise = " --supervise" if role == "gateway" else ""
    assert f"ExecStart=/usr/local/bin/sekid --role={role}{supervise} --config=/etc/seki/seki.conf" in lines
    if not shutil.which("systemd-analyze"):
        return
    (tmp_path / "sekid").symlink_to(installed / "bin" / "sekid")
    for name in ("seki-control", "seki-gateway"):  # one names the other
        one = (installed / "lib" / "systemd" / "system" / f"{name}.service").read_text()
        # The page is looked for where man looks; what is checked here is the unit.
        one = re.sub(r"^Documentation=.*\n", "", one.replace("/usr/local/bin/sekid", str(tmp_path / "sekid")), flags=re.M)
        (tmp_path / f"{name}.service").write_text(one)
    p = subprocess.run(["systemd-analyze", "verify", str(tmp_path / f"{unit}.service")], capture_output=True, text=True, timeout=60)
    said = [line for line in (p.stdout + p.stderr).splitlines() if "seki" in line]
    assert not said, said


def test_completion_is_loaded_from_the_installed_tree(installed):
    script = f'PATH="{installed}/bin:$PATH"; source "{installed}/share/bash-completion/completions/seki"; complete -p seki'
    p = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=30)
    assert "complete -F _seki seki" in p.stdout, p.stderr


def test_a_daemon_serves_from_the_installed_tree(installed, monkeypatch):
    """Its launcher is found below its own prefix, so that a model needs no option but the engine's environment."""
    monkeypatch.setattr(lib, "SEKID", installed / "bin" / "sekid")
    monkeypatch.setattr(lib, "SEKI", installed / "bin" / "seki")
    with Cloud(options={"engine-launcher": None}) as c:
        assert os.readlink(f"/proc/{c.process.pid}/exe") == str(installed / "bin" / "sekid")
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=2)
        secret = c.key("demo")
        env = {"OPENAI_BASE_URL": c.base_url, "OPENAI_API_KEY": secret, "SEKI_MODEL": "fake"}
        wait_for(lambda: c.seki("chat", "hi", env=env, check=False).stdout == "tok0 tok1\n", what="an answer")
        facts = (lib.CACHE / "models" / "gemma3-270m" / "manifest.json").read_text()
        facts = json.loads(facts)
        c.create("models", "demo", "gemma", {"source": f"file://{lib.CACHE}/models/gemma3-270m", "format": "GGUF", "files": facts["files"], "license": facts["license"]})
        c.create("modelendpoints", "demo", "gemma", {"model": "gemma", "engine": {"contextLength": 256, "parallel": 1}})
        c.wait_condition("modelendpoints", "demo", "gemma", timeout=120)
        pid = c.get("modelreplicas", "demo", "gemma-0")["status"]["pid"]
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            assert f"{installed}/share/seki/llamacpp-launcher.py".encode() in f.read()
