"""The servers that benchmarks measure, with one face: Seki, and kube-apiserver with etcd when KUBE_BIN names a directory with both programs.

Each has a name, a URL, an authority's certificate, and the processes whose CPU and memory count. Both keep what they acknowledge on the same disk, by sync.
"""
import hashlib
import http.client
import json
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from cloud import Cloud, wait_for  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
TOKEN = "bench-token-of-no-value"


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mib(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Server:
    """What both have. Subclasses set host, port, ca and start_s."""
    connection, used = None, 0.0

    def cpu(self):
        return sum(cpu(p) for p in self.pids())

    def rss_mib(self):
        return sum(rss_mib(p) for p in self.pids())

    @property
    def url(self):
        return f"https://{self.host}:{self.port}"

    def context(self):
        return ssl.create_default_context(cafile=str(self.ca))

    def ask(self, method, path, body=None):
        """On one connection, while it is in use; the body of the answer."""
        if time.monotonic() - self.used > 5:  # servers end idle ones
            self.connection = None
        self.used = time.monotonic()
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(self.host, self.port, context=self.context(), timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{self.name}: {method} {path} answered {answer.status}: {text[:400]!r}")
        return text


class Seki(Server):
    name = "Seki"

    def __init__(self, directory):
        tokens = directory / "tokens"
        tokens.write_text(f"{hashlib.sha256(TOKEN.encode()).hexdigest()} bench system:masters\n")
        self.cloud = Cloud(directory=directory, options={"api-token-file": tokens, "log-level": "warn", "gateway-threads": 1, "limits-objects-per-project": 0})
        begun = time.monotonic()
        self.cloud.start()
        self.start_s = time.monotonic() - begun
        host, port = self.cloud.address("api").rsplit(":", 1)
        self.host, self.port, self.ca = host, int(port), self.cloud.data / "pki" / "ca.crt"

    def pids(self):
        return [self.cloud.role_pid("control")]

    def stop(self):
        self.cloud.stop()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Kubernetes(Server):
    name = "kube-apiserver + etcd"

    def __init__(self, directory, programs):
        self.dir, self.processes = directory, []
        programs = pathlib.Path(programs)
        directory.mkdir(exist_ok=True)
        self.host, self.port, self.ca = "127.0.0.1", free_port(), directory / "server.crt"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", directory / "server.key", "-out", self.ca], check=True, capture_output=True)
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", directory / "sa.key"], check=True, capture_output=True)
        (directory / "tokens.csv").write_text(f"{TOKEN},bench,bench,system:masters\n")
        (directory / "tokens.csv").chmod(0o600)
        client, peer = free_port(), free_port()
        begun = time.monotonic()
        try:
            self.run("etcd", [programs / "etcd", "--data-dir", directory / "etcd", "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
                              "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"default=http://127.0.0.1:{peer}", "--log-level", "error"])
            self.run("kube-apiserver", [programs / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1", f"--secure-port={self.port}", "--advertise-address=127.0.0.1",
                                        "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16", f"--tls-cert-file={self.ca}", f"--tls-private-key-file={directory}/server.key",
                                        f"--token-auth-file={directory}/tokens.csv", "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--service-account-issuer=https://bench",
                                        f"--service-account-key-file={directory}/sa.key", f"--service-account-signing-key-file={directory}/sa.key", f"--cert-dir={directory}"])
            wait_for(self.ready, 60, f"kube-apiserver to be ready: see {directory}/kube-apiserver.log")
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - begun

    def run(self, name, command):
        with open(self.dir / f"{name}.log", "wb") as log:
            self.processes.append(subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))

    def ready(self):
        if any(p.poll() is not None for p in self.processes):
            raise SystemExit(f"a program ended: see {self.dir}/*.log")
        try:
            c = http.client.HTTPSConnection(self.host, self.port, context=self.context(), timeout=5)
            c.request("GET", "/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
            return c.getresponse().status == 200
        except OSError:
            return False

    def pids(self):
        return [p.pid for p in self.processes]

    def stop(self):
        """The API first: it waits long for a store that went away."""
        for p in reversed(self.processes):
            p.terminate()
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
