"""How the gateway starts: addresses and certificates, and the snapshot it serves from when the API is away."""
import json
import os
import socket
import ssl
import stat
import subprocess
import time
import warnings

import pytest

from cloud import SEKID, Cloud, wait_for
from exposition import parse
from wire import OK_BODY, RawClient, Upstream


def certificate(directory):
    """A self-made authority's certificate for localhost and 127.0.0.1; returns (certificate, key)."""
    cert, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8000", "10.0.0.1:80"])
def test_plain_text_off_loopback_is_refused(tmp_path, address):
    p = subprocess.run([SEKID, f"--data={tmp_path}/d", f"--gateway-listen={address}", "--check-config"], capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "gateway-listen" in p.stderr and "loopback" in p.stderr, p.stderr
    p = subprocess.run([SEKID, f"--data={tmp_path}/d", f"--gateway-listen={address}"], capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "gateway-listen" in p.stderr, p.stderr
    assert not (tmp_path / "d" / "seki.db").exists(), "nothing half-begun"


def test_half_a_pair_is_refused(tmp_path):
    cert, _ = certificate(tmp_path)
    p = subprocess.run([SEKID, f"--data={tmp_path}/d", f"--gateway-tls-cert={cert}", "--check-config"], capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "gateway-tls-key" in p.stderr


def test_tls_on_any_address(own_cloud, tmp_path):
    cert, key = certificate(tmp_path)
    c = own_cloud(options={"gateway-listen": "0.0.0.0:0", "gateway-tls-cert": cert, "gateway-tls-key": key})
    c.project("demo")
    secret = c.create("apikeys", "demo", "key", {})["status"]["key"]
    c.fake_endpoint("demo", "fake", tokens=50)
    address = "127.0.0.1:" + c.address("gateway").rsplit(":", 1)[1]
    context = ssl.create_default_context(cafile=str(cert))
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
    text = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def ask():
        with RawClient(address, context) as client:
            assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
            client.send(text)
            return client.response()
    response = wait_for(lambda: (lambda r: r if r.status == 200 else None)(ask()), what="an answer over TLS")
    assert response.body.endswith(b"data: [DONE]\n\n") and b"tok49" in response.body
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        RawClient(address, old)
    with RawClient(address) as plain:  # a plain request gets no plain answer
        plain.send(text)
        try:
            data = plain.sock.recv(100)
        except ConnectionResetError:
            data = b""
        assert not data.startswith(b"HTTP")


# ---- the snapshot ----

@pytest.fixture(scope="module")
def stopped():
    """A cloud that has run and left its snapshot; its upstream lives on, the control process does not."""
    with Cloud() as c:
        c.upstream = Upstream()
        c.secret = c.serve(c.upstream.url)
        c.limited = c.key("demo", "limited", limits={"requestsPerMinute": 5})
        c.snapshot = c.data / "run" / "gateway.snapshot"
        wait_for(lambda: c.snapshot.exists() and b'"m-0"' in c.snapshot.read_bytes() and c.upstream.url.encode()[:-3] in c.snapshot.read_bytes()
                 and b'"hash"' in c.snapshot.read_bytes() and b'"limited"' in c.snapshot.read_bytes(), what="the snapshot")
        c.stop()
        c.good = c.snapshot.read_bytes()
        yield c
        c.upstream.stop()


class Gateway(Cloud):
    """Only the gateway's process, on a cloud's data."""

    def command(self, role=None):
        return super().command("gateway")

    def start(self, wait=True):
        for name in ("gateway", "metrics-gateway"):
            (self.data / "run" / f"{name}.addr").unlink(missing_ok=True)
        super().start(wait=False)
        wait_for(lambda: self.alive() and (self.data / "run" / "gateway.addr").exists() and (self.data / "run" / "metrics-gateway.addr").exists(), what="the gateway")
        return self

    def stop(self, *_, **__):
        self.process.terminate()
        self.process.wait(60)


def status_of(c, secret):
    body = b'{"model":"m","messages":[]}'
    with RawClient(c.address("gateway")) as client:
        client.send(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return client.response()


def age_of(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_snapshot_age_seconds", ()]


def test_serves_from_the_snapshot_with_the_api_down(stopped):
    assert stat.S_IMODE(os.stat(stopped.snapshot).st_mode) == 0o600
    os.utime(stopped.snapshot, (os.stat(stopped.snapshot).st_mtime - 1000,) * 2)
    with Gateway(directory=stopped.dir) as g:
        assert g.is_ready("metrics-gateway")
        assert status_of(g, stopped.secret).body == OK_BODY
        assert status_of(g, "sk-seki-wrong").status == 401
        assert 1000 <= age_of(g) < 2000, "as old as the file"
        assert stopped.secret.encode() not in stopped.good


def test_limits_hold_at_once_with_the_api_down(stopped):
    """By what this gateway had of them before: nobody waits for a control that is not there."""
    with Gateway(directory=stopped.dir) as g:
        began = time.monotonic()
        statuses = [status_of(g, stopped.limited).status for _ in range(6)]
        assert time.monotonic() - began < 2  # who waits for control waits for 3 s
        assert statuses == [200] * 5 + [429]
        assert parse(g.metrics("metrics-gateway"))["seki_gateway_rate_parts", ()] == 1


@pytest.mark.parametrize("name,content,mode,says", [
    ("missing", None, 0o600, None),
    ("empty", lambda good: b"", 0o600, "gateway.snapshot"),
    ("cut", lambda good: good[:len(good) // 2], 0o600, "gateway.snapshot"),
    ("noise", lambda good: os.urandom(5000), 0o600, "gateway.snapshot"),
    ("another version", lambda good: good.replace(b'"version":1', b'"version":7'), 0o600, "version 7"),
    ("another shape", lambda good: b'{"version":1,"keys":{},"endpoints":[],"replicas":[],"namespaces":[]}', 0o600, "keys: expected a list"),
    ("readable by others", lambda good: good, 0o644, "0644"),
], ids=lambda v: v if isinstance(v, str) and " " not in v else None)
def test_starts_without_a_snapshot_that_cannot_be_used(stopped, name, content, mode, says):
    """It is named in the log, nothing of it is served, and the gateway waits for the API."""
    stopped.snapshot.unlink(missing_ok=True)
    if content:
        stopped.snapshot.write_bytes(content(stopped.good))
        stopped.snapshot.chmod(mode)
    at = stopped.log.stat().st_size
    try:
        with Gateway(directory=stopped.dir) as g:
            response = status_of(g, stopped.secret)
            assert response.status == 503 and response.json()["error"]["code"] == "not_ready"
            assert not g.is_ready("metrics-gateway") and age_of(g) == -1
            log = stopped.log.read_bytes()[at:].decode(errors="replace")
            assert says is None or ("snapshot cannot be used" in log and says in log), log
    finally:
        stopped.snapshot.unlink(missing_ok=True)
        stopped.snapshot.write_bytes(stopped.good)
        stopped.snapshot.chmod(0o600)


@pytest.mark.parametrize("host,status", [("localhost", 200), ("127.0.0.1", 200), ("127.0.0.2", 502)])
def test_an_engine_behind_tls_on_a_port_of_its_own(stopped, tmp_path, monkeypatch, host, status):
    """The name is checked, without the port; one that the certificate has not is refused."""
    cert, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    upstream = Upstream(host="127.0.0.2" if host == "127.0.0.2" else "127.0.0.1")
    serve = upstream._serve

    def over_tls(sock):
        try:
            serve(context.wrap_socket(sock, server_side=True))
        except OSError:
            sock.close()
    upstream._serve = over_tls
    port = upstream.url.rsplit(":", 1)[1].removesuffix("/v1")
    stopped.snapshot.write_bytes(stopped.good.replace(stopped.upstream.url.removesuffix("/v1").encode(), f"https://{host}:{port}".encode()))
    try:
        with Gateway(directory=stopped.dir) as g:
            assert status_of(g, stopped.secret).status == status
            assert len(upstream.requests) == (status == 200)
    finally:
        stopped.snapshot.write_bytes(stopped.good)
        upstream.stop()


def test_port_in_use(stopped):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        g = Gateway(directory=stopped.dir, options={"gateway-listen": f"127.0.0.1:{port}"})
        p = subprocess.run(g.command(), capture_output=True, text=True, timeout=60)
        assert p.returncode != 0 and f"127.0.0.1:{port}" in p.stderr and "in use" in p.stderr, p.stderr
