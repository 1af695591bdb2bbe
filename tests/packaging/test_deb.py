"""The Debian package, in a throw-away root with a systemd of its own: install, upgrade, remove, install again, purge. The tests tell one story, in order.

The root is made by mmdebstrap once and kept in the cache. It runs in namespaces of its own: the machine's packages, services, ports and processes are not touched.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import threading

import pytest

from cloud import CACHE, FAKE_ENGINE, KUBECTL, ROOT, wait_for

HERE = pathlib.Path(__file__).parent
PACKAGES = "systemd,systemd-sysv,dbus,adduser,procps,curl,iproute2,openssl,libuv1,libssl3,libsqlite3-0,libjansson4,libcurl4,libyaml-0-2,libnghttp2-14,zlib1g"
TARBALL = CACHE / f"debian-root-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}.tar"
ENV = ["env", "-i", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"]
UNITS = ("seki-control", "seki-gateway")
WORDS = 1000  # of an answer: 50 seconds
MANIFESTS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo", "labels": {"seki.cloud/tenant": "demo"}}},
    {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": "chat", "namespace": "demo"}, "spec": {"engine": {"driver": "fake", "options": {"tokens": str(WORDS), "tokensPerSecond": "20"}}}},
    {"apiVersion": "seki.cloud/v1alpha1", "kind": "APIKey", "metadata": {"name": "key", "namespace": "demo"}, "spec": {}},
]
WANTED = [shutil.which(t) for t in ("dpkg-buildpackage", "dh", "lintian", "mmdebstrap", "unshare", "nsenter", "pivot_root")]
pytestmark = [pytest.mark.skipif(os.getuid() != 0, reason="a root with a systemd of its own needs root"),
              pytest.mark.skipif(not all(WANTED), reason="needs debhelper, lintian and mmdebstrap")]


def run(*args, check=True, **kwargs):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=kwargs.pop("timeout", 300), **kwargs)
    assert not check or p.returncode == 0, f"{args}: {p.stdout}{p.stderr}"
    return p


@pytest.fixture(scope="module")
def deb():
    """The package of this tree, or the one that SEKI_DEB names."""
    if os.environ.get("SEKI_DEB"):
        return pathlib.Path(os.environ["SEKI_DEB"])
    run(ROOT / "scripts" / "deb", timeout=1500)
    found = [p for p in (ROOT / "build" / "deb").glob("seki_*.deb")]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def older(deb, tmp_path_factory):
    """The same package under an earlier version."""
    top = tmp_path_factory.mktemp("older")
    run("dpkg-deb", "-R", deb, top / "tree")
    control = top / "tree" / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 0.0.9", control.read_text(), flags=re.M))
    run("dpkg-deb", "--root-owner-group", "-b", top / "tree", top / "seki_0.0.9.deb")
    return top / "seki_0.0.9.deb"


def unpack(top):
    if not TARBALL.exists():
        part = TARBALL.with_suffix(".part.tar")
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", part, timeout=900)
        part.rename(TARBALL)
    run("tar", "-C", top, "-xf", TARBALL)


class Machine:
    """A root that runs."""

    def __init__(self, top):
        self.top = top
        unpack(top)
        self.add_fake_engine()
        shutil.copy(KUBECTL, top / "usr" / "local" / "bin" / "kubectl")
        self.log = open(top.parent / "boot.log", "w")
        self.process = subprocess.Popen([str(HERE / "boot-root"), str(top)], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.pid = wait_for(self.find_init, what="systemd to be started")
        wait_for(lambda: self("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"), 30, "systemd to have started everything")

    def find_init(self):
        assert self.process.poll() is None, pathlib.Path(self.log.name).read_text()
        for pid in pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            if os.readlink(f"/proc/{pid}/exe").endswith("/systemd"):
                return int(pid)
        return None

    def close(self):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the first of its process namespace: all others end with it
        self.process.wait(30)
        self.log.close()

    def __call__(self, *args, check=True, timeout=120):
        return run("nsenter", "-t", self.pid, "-a", *ENV, *args, check=check, timeout=timeout)

    def dpkg(self, *args):
        p = self("dpkg", *args)
        return p.stdout + p.stderr

    def put(self, path):
        shutil.copy(path, self.top / "root")
        return f"/root/{path.name}"

    def add_fake_engine(self):
        """With the libraries of its sanitizers, if it has any."""
        (self.top / "opt" / "seki").mkdir(parents=True)
        shutil.copy(FAKE_ENGINE, self.top / "opt" / "seki" / "fake_engine")
        for name, path in re.findall(r"(\S+) => (/\S+)", run("ldd", FAKE_ENGINE).stdout):
            if not (self.top / "usr" / "lib" / "x86_64-linux-gnu" / name).exists():
                shutil.copy(path, self.top / "usr" / "lib" / "x86_64-linux-gnu" / name)

    def fetch(self, url):
        return run("nsenter", "-t", self.pid, "-n", "curl", "-s", url, check=False).stdout

    def ready(self):
        return all(self.fetch(f"http://127.0.0.1:{port}/readyz") == "ok\n" for port in (9440, 9441))

    def ask(self, *args):
        """Starts curl at the gateway, with the key of the manifests."""
        key = (self.top / "var/lib/seki/keys/demo/key").read_text().strip()
        return subprocess.Popen(["nsenter", "-t", str(self.pid), "-n", "curl", "-sN", "-H", f"Authorization: Bearer {key}", *args], stdout=subprocess.PIPE, text=True)

    def active(self, unit):
        return self("systemctl", "is-active", unit, check=False).stdout.strip()

    def main_pid(self, unit):
        return int(self("systemctl", "show", "-P", "MainPID", unit).stdout)

    def gateways(self):
        """Process ids of the gateways that the unit's main process runs."""
        return self("pgrep", "-P", str(self.main_pid("seki-gateway")), check=False).stdout.split()

    def engines(self):
        """Process ids of engines, as the root has them."""
        p = self("sh", "-c", 'for p in /proc/[0-9]*; do case $(readlink $p/exe) in /opt/seki/fake_engine) echo ${p#/proc/};; esac; done')
        return sorted(int(x) for x in p.stdout.split())

    def endpoint_ready(self):
        return "Ready" in self("seki", "--kubeconfig", "/var/lib/seki/admin.kubeconfig", "-n", "demo", "status", check=False).stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    top = tmp_path_factory.mktemp("machine") / "root"
    top.mkdir()
    m = Machine(top)
    yield m
    m.close()
    run("rm", "-rf", "--one-file-system", top)


def test_the_version_is_the_projects(deb):
    version = re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text())[1]
    assert re.match(r"seki \(([^)]+)\)", (ROOT / "debian" / "changelog").read_text())[1] == version
    assert deb.name.startswith(f"seki_{version}_")


def test_lintian_finds_nothing(deb):
    p = run("lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", next(deb.parent.glob("*.changes")), check=False)
    assert p.returncode == 0 and not p.stdout, p.stdout + p.stderr


def test_it_installs_where_no_systemd_runs(deb, tmp_path):
    unpack(tmp_path)
    try:
        shutil.copy(deb, tmp_path / "root")
        run("chroot", tmp_path, *ENV, "dpkg", "-i", f"/root/{deb.name}")
        assert (tmp_path / "var/lib/seki").stat().st_mode & 0o777 == 0o700
        assert run("chroot", tmp_path, "/usr/bin/sekid", "--config=/etc/seki/seki.conf", "--check-config").returncode == 0
        assert "seki is kept" in run("chroot", tmp_path, *ENV, "dpkg", "--purge", "seki").stdout
        assert not (tmp_path / "var/lib/seki").exists()
    finally:
        run("rm", "-rf", "--one-file-system", *tmp_path.iterdir())


def test_install(machine, older):
    machine.dpkg("-i", machine.put(older))
    wait_for(machine.ready, 60, "both services to be ready")
    for unit in UNITS:
        assert machine("systemctl", "is-enabled", unit).stdout.strip() == "enabled" and machine.active(unit) == "active"
    assert machine("stat", "-c", "%a %U:%G", "/var/lib/seki", "/etc/seki/seki.conf").stdout.split("\n")[:2] == ["700 seki:seki", "644 root:root"]
    assert machine("id", "-un", "seki").stdout.strip() == "seki"
    assert machine("sh", "-c", "stat -c %U /proc/$(systemctl show -P MainPID seki-control)").stdout.strip() == "seki"
    assert "seki.conf" in machine("dpkg-query", "-W", "-f", "${Conffiles}", "seki").stdout
    assert machine("bash", "-c", "source /usr/share/bash-completion/completions/seki && complete -p seki").stdout.strip().endswith("_seki seki")


def test_units_are_accepted(machine):
    p = machine("systemd-analyze", "verify", *(f"/lib/systemd/system/{u}.service" for u in UNITS), check=False)
    said = [line for line in (p.stdout + p.stderr).splitlines() if "seki" in line and "man " not in line]
    assert not said, said


def test_an_engine_runs(machine):
    (machine.top / "etc/seki/manifests").mkdir()
    (machine.top / "etc/seki/manifests/demo.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": MANIFESTS}))
    (machine.top / "etc/seki/seki.conf").write_text("manifests = /etc/seki/manifests\n[engine]\nfake = /opt/seki/fake_engine\n")
    machine("systemctl", "restart", *UNITS)
    wait_for(machine.endpoint_ready, 60, "the endpoint to be ready")
    assert len(machine.engines()) == 1


def test_an_upgrade_restarts_both_services_and_no_engine(machine, deb):
    """The gateway without that anybody is refused, or a stream cut."""
    before, old = {u: machine.main_pid(u) for u in UNITS}, machine.gateways()
    machine("systemctl", "reload", *UNITS)
    engines, conf = machine.engines(), (machine.top / "etc/seki/seki.conf").read_text()
    stream = machine.ask("http://127.0.0.1:8000/v1/completions", "-d", json.dumps({"model": "chat", "prompt": "hi", "stream": True, "max_tokens": WORDS}))
    assert stream.stdout.readline().startswith("data: ")
    codes, upgraded = [], threading.Event()

    def knock():
        while not upgraded.wait(0.05):
            codes.append(machine.ask("http://127.0.0.1:8000/v1/models", "-o", "/dev/null", "-w", "%{http_code}").communicate(timeout=30)[0])
    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        machine.dpkg("-i", machine.put(deb))
        wait_for(lambda: set(machine.gateways()) - set(old), 60, "another gateway")
        wait_for(machine.ready, 60, "both services to be ready again")
    finally:
        upgraded.set()
        knocking.join()
    assert machine.main_pid("seki-control") not in (0, before["seki-control"]) and machine.main_pid("seki-gateway") == before["seki-gateway"]
    assert set(codes) == {"200"}, codes
    assert stream.poll() is None and len(machine.gateways()) == 2
    events = [line for line in stream.communicate(timeout=120)[0].splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]" and len([e for e in events if '"text"' in e]) >= WORDS - 1
    wait_for(lambda: len(machine.gateways()) == 1, 120, "the old one to leave")
    wait_for(machine.endpoint_ready, 60, "the endpoint to be ready")
    assert machine.engines() == engines
    assert (machine.top / "etc/seki/seki.conf").read_text() == conf


def test_a_downgrade_leaves_both_services_and_every_engine_running(machine, deb, older):
    engines = machine.engines()
    said = machine.dpkg("-i", f"/root/{older.name}")
    assert "downgrading" in said and "rollback" not in said
    wait_for(lambda: machine.ready() and machine.endpoint_ready(), 60, "both services to be ready again")
    assert machine.engines() == engines
    machine.dpkg("-i", f"/root/{deb.name}")
    wait_for(lambda: machine.ready() and machine.endpoint_ready(), 60, "both services to be ready again")


def set_format(machine, number):
    with contextlib.closing(sqlite3.connect(machine.top / "var/lib/seki/seki.db")) as db:
        before = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute(f"PRAGMA user_version = {number}")
    for left in ("seki.db-shm", "seki.db-wal"):  # of whom this runs as, who is not the daemon's user
        (machine.top / "var/lib/seki" / left).unlink(missing_ok=True)
    return before


def test_a_downgrade_beneath_a_store_of_a_later_format_is_refused_by_name(machine, deb, older):
    """With a hint of the way back before, when there is one. The gateway serves on meanwhile, and nothing is changed."""
    machine("systemctl", "stop", "seki-control")
    before = set_format(machine, 99)
    machine("sh", "-c", "install -d -o seki -g seki -m 0700 /var/lib/seki/rollback && touch /var/lib/seki/rollback/seki.db")
    said = machine.dpkg("-i", f"/root/{older.name}")
    assert "seki rollback" in said
    wait_for(lambda: "newer release (format 99" in machine("journalctl", "-u", "seki-control", "-n", "50", "--no-pager").stdout, 60, "the refusal")
    assert machine.active("seki-gateway") == "active"
    machine("systemctl", "stop", "seki-control")
    assert set_format(machine, before) == 99
    machine("rm", "-r", "/var/lib/seki/rollback")
    machine.dpkg("-i", f"/root/{deb.name}")
    machine("systemctl", "reset-failed", "seki-control")
    machine("systemctl", "start", *UNITS)
    wait_for(lambda: machine.ready() and machine.endpoint_ready(), 60, "both services to be ready again")


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs/operate/runbooks").glob("*.md")), ROOT / "docs/operate/support.md"], ids=lambda p: p.stem)
def test_the_commands_of_runbooks_work(machine, page):
    """As they stand, where everything is well: that they are accepted and find what they look for."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)
    script = "set -eo pipefail; export KUBECONFIG=/var/lib/seki/admin.kubeconfig HOME=/root\n" + "".join(blocks)
    p = machine("bash", "-c", script, check=False)
    assert p.returncode == 0, p.stdout + p.stderr
    wait_for(lambda: machine.ready() and machine.endpoint_ready(), 60, "everything to be well again")


def test_a_support_bundle_has_the_journal(machine):
    with tarfile.open(machine.top / "root" / "case-1234.tar.gz") as t:
        lines = [json.loads(line) for line in t.extractfile("logs/sekid.jsonl").read().splitlines()]
    assert {"control", "gateway"} <= {line["component"] for line in lines}


def test_a_removal_stops_everything_and_keeps_the_data(machine):
    said = machine.dpkg("--remove", "seki")
    assert "/var/lib/seki is kept" in said
    assert machine.active("seki-control") != "active" and machine.active("seki-gateway") != "active"
    assert machine.engines() == []
    assert (machine.top / "var/lib/seki/seki.db").exists() and (machine.top / "etc/seki/seki.conf").exists()
    assert not (machine.top / "usr/bin/sekid").exists()
    assert not machine("sh", "-c", "ls /run/systemd/system/seki-control.service.d 2>/dev/null", check=False).stdout


def test_a_later_install_takes_the_data_up(machine, deb):
    uid = (machine.top / "var/lib/seki/pki/ca.crt").read_bytes()
    machine.dpkg("-i", f"/root/{deb.name}")
    wait_for(lambda: machine.engines() and machine.endpoint_ready(), 60, "the endpoint to be ready")
    assert (machine.top / "var/lib/seki/pki/ca.crt").read_bytes() == uid
    # This time SIGTERM leaves engines: what the removal had changed is gone.
    engines = machine.engines()
    machine("systemctl", "restart", "seki-control")
    wait_for(machine.endpoint_ready, 60, "the endpoint to be ready")
    assert machine.engines() == engines


def page_block(number):
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/operate/backup.md").read_text(), re.M | re.S)[number]


def test_backups_are_set_up_by_the_page(machine):
    machine("bash", "-ec", page_block(0))
    assert len(list((machine.top / "var/backups/seki").iterdir())) == 1
    assert machine("bash", "-ec", "mkdir /root/kept && cd /root/kept\n" + page_block(1)).returncode == 0
    assert sorted(p.name for p in (machine.top / "root/kept").iterdir()) == ["backup.key", "root.key", "seki.backup"]
    assert re.search(r"^seki_backup_last_success_timestamp_seconds 1", machine.fetch("http://127.0.0.1:9440/metrics"), re.M)


def test_a_purge_removes_the_data_and_says_so(machine):
    said = machine.dpkg("--purge", "seki")
    assert "removing /var/lib/seki" in said and "the account seki is kept" in said
    assert not (machine.top / "var/lib/seki").exists() and not (machine.top / "etc/seki/seki.conf").exists()
    assert (machine.top / "etc/seki/manifests/demo.json").exists()  # not the package's
    assert machine.engines() == []
    assert machine("dpkg-query", "-W", "seki", check=False).returncode != 0


def test_a_backup_is_restored_on_an_empty_machine_by_the_page(machine, deb):
    """The package is installed as on any new machine, which starts it; then the page's commands as they stand."""
    machine.dpkg("-i", f"/root/{deb.name}")
    wait_for(machine.ready, 60, "both services to be ready")
    said = machine("bash", "-ec", "cd /root/kept\n" + page_block(2)).stdout
    assert "is restored" in said and "none is changed or missing" in said
    wait_for(machine.ready, 60, "both services to be ready with the restored data")
    got = machine("kubectl", "--kubeconfig=/var/lib/seki/admin.kubeconfig", "-n", "demo", "get", "modelendpoint", "chat", "-o", "name").stdout
    assert got.strip() == "modelendpoint.seki.cloud/chat"
