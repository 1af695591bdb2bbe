"""One hop through the gateway beside other gateways: drives the harness that GWBENCH names (a directory with `run`); without it, says so and ends.

The gateway runs alone, with one loop, from the snapshot of a cloud that was set up before and has ended: one endpoint of two replicas on the harness's first mock server, a key whose
limits are high but counted, prefix routing, the durable journal (synced every 100 ms). Arguments go to the harness: --peers nginx,haproxy --phases c1,c64 --rounds 5.

With --tls, all of peers-tls.toml and the gateway end TLS 1.3. The harness's client speaks none: an HAProxy on its core, which does nothing else, wraps each of its connections.
That costs all the same and none of it is counted as theirs, but less load fits onto that core: what tells is processor time, not requests a second.
"""
import http.server
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

MOCK, PORT = 19001, 18000  # the harness's
TLS = pathlib.Path("/tmp/seki-bench-tls")  # as peers-tls.toml says
WRAPPED = {18301: 18201, 18302: 18202, 18303: 18203, 18304: 18204, PORT + 1: PORT}  # in the clear: TLS


class Models(http.server.BaseHTTPRequestHandler):
    """What the controllers ask of a server before they send anybody there."""

    def do_GET(self):
        body = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def wrap():
    """A certificate for all, and what wraps the client's connections; returns the latter."""
    TLS.mkdir(mode=0o700)
    cert, key, config = TLS / "cert.crt", TLS / "cert.key", TLS / "haproxy.cfg"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    (TLS / "cert.pem").write_text(cert.read_text() + key.read_text())
    pairs = "".join(f"listen p{clear}\n  bind 127.0.0.1:{clear} backlog 4096\n  server s 127.0.0.1:{tls} ssl verify none ciphersuites TLS_AES_128_GCM_SHA256\n"
                    for clear, tls in WRAPPED.items())
    config.write_text("global\n  nbthread 1\n  cpu-map 1 0\n  maxconn 6500\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n" + pairs)
    return subprocess.Popen(["haproxy", "-db", "-f", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def prepare(directory):
    from cloud import Cloud, wait_for
    server = http.server.ThreadingHTTPServer(("127.0.0.1", MOCK), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    c = Cloud(options={"gateway-threads": 1, "gateway-listen": f"127.0.0.1:{PORT}", "log-level": "warn"}, directory=directory)
    try:
        c.start()
        c.project("bench")
        c.create("modelendpoints", "bench", "m", {"replicas": 2, "engine": {"driver": "openai", "url": f"http://127.0.0.1:{MOCK}/v1"}})
        c.wait_condition("modelendpoints", "bench", "m")
        secret = c.key("bench", limits={"requestsPerMinute": 10**9, "tokensPerMinute": 10**10, "concurrentRequests": 10**6})
        wait_for(lambda: c.get("modelendpoints", "bench", "m")["status"].get("readyReplicas") == 2, what="both replicas")
        wait_for(lambda: secret and c.gateway_status("/models/m", secret) == 200, what="the snapshot")
        c.stop(signal.SIGTERM)  # writes the snapshot
    finally:
        if c.process and c.process.poll() is None:
            c.stop()
        server.shutdown()
        server.server_close()
    return c.command("gateway"), secret


def main():
    harness = os.environ.get("GWBENCH")
    if not harness:
        print("GWBENCH names no directory of the harness: skipped")
        return 0
    arguments, tls, wrapper, port = sys.argv[1:], "--tls" in sys.argv, None, PORT
    directory = tempfile.mkdtemp(prefix="seki-bench-")
    try:
        command, secret = prepare(directory)
        if tls:
            wrapper = wrap()
            command += [f"--gateway-tls-cert={TLS}/cert.crt", f"--gateway-tls-key={TLS}/cert.key"]
            port = PORT + 1
            arguments.remove("--tls")
            arguments += ["--extra", str(ROOT / "tests" / "bench" / "peers-tls.toml"), "--ref", "nginx-tls"]
        # Only the first of the harness's mock servers is used: {m1} is a literal port here.
        return subprocess.run([str(pathlib.Path(harness) / "run"), "--ours", " ".join(command), "--url", f"http://127.0.0.1:{port}", "--header", f"Authorization: Bearer {secret}",
                               "--model", "m", "--name", "seki", *arguments], check=False).returncode
    finally:
        if wrapper:
            wrapper.terminate()
            wrapper.wait(10)
            shutil.rmtree(TLS, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
