"""The daemon as an operator meets it: configuration and its errors, reload, manifests, certificates, health, logs, a full disk, what is never written down."""
import http.server
import json
import os
import pathlib
import pty
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request

import openai
import pytest

from cloud import GROUP, ROOT, SEKID, SLOW, ApiError, Cloud, wait_for

MAN = (ROOT / "packaging" / "man" / "sekid.8").read_text().replace("\\-", "-")


def sekid(*args):
    return subprocess.run([str(SEKID), *map(str, args)], capture_output=True, text=True, timeout=30 * SLOW)


def get(url, timeout=10):
    """Status and text, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=timeout * SLOW) as r:
            return r.status, r.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def log_lines(cloud):
    return [json.loads(line) for line in cloud.log.read_text(errors="replace").splitlines() if line.startswith("{") and line.endswith("}")]


def logged(cloud, message, **facts):
    return [e for e in log_lines(cloud) if e["msg"] == message and all(e.get(k) == v for k, v in facts.items())]


# ---- command line and configuration ----

def test_help_and_reference_name_every_option():
    text = sekid("--help").stdout
    flags = re.findall(r"^ +--([\w-]+)=VALUE", text, re.M)
    reference = sekid("--config-reference").stdout
    section, names = "", []
    for line in reference.splitlines():
        if m := re.match(r"\[(\w+)\]", line):
            section = m[1] + "-"
        elif m := re.match(r"#([\w-]+) = ", line):
            names.append(section + m[1])
    assert names == flags and len(flags) > 20
    assert all(f"--{word}" in text for word in ("config", "role", "check-config", "config-reference", "stop-engines", "version", "help"))


def test_help_fits_a_terminal():
    assert max(map(len, sekid("--help").stdout.splitlines())) <= 100


def test_the_reference_is_a_valid_configuration(tmp_path):
    lines = sekid("--config-reference").stdout.splitlines()
    (tmp_path / "seki.conf").write_text("\n".join(re.sub(r"^#([\w-]+ = )", r"\1", line) for line in lines))
    p = sekid("--config", tmp_path / "seki.conf", "--check-config")
    assert p.returncode == 0 and p.stdout == "configuration is valid\n", p.stderr


@pytest.mark.parametrize("text, line, said", [
    ("[gateway]\nthreads = many\n", 2, "gateway.threads: expected an integer from 0 to 256, got \"many\""),
    ("[gateway]\n\nthreads = 257\n", 3, "expected an integer from 0 to 256"),
    ("[gateway]\nmax-body = 1\n", 2, "gateway.max-body: expected a size such as 64K, 10M or 2G from 1K to 1G, got"),
    ("[store]\nretain = 1s\n", 2, "store.retain: expected a duration such as 250ms, 90s or 1h30m from 5m to 24h, got"),
    ("log-level = loud\n", 1, "log-level: expected one of debug|info|warn|error, got \"loud\""),
    ("# hi\nnope = 1\n", 2, "unknown option \"nope\""),
    ("[nope]\n", 1, "unknown section [nope]"),
    ("[gateway]\nlisten\n", 2, "expected \"key = value\""),
    ("[gateway]\nthreads = 1\nthreads = 2\n", 3, "gateway.threads is set twice, first in line 2"),
])
def test_errors_name_line_option_and_range(tmp_path, text, line, said):
    conf = tmp_path / "seki.conf"
    conf.write_text(text)
    p = sekid("--check-config", "-c", conf)
    assert p.returncode == 2 and f"{conf}:{line}: " in p.stderr and said in p.stderr, p.stderr


@pytest.mark.parametrize("args, said", [
    (["--nope=1"], "unknown option --nope"),
    (["extra"], "unexpected argument extra"),
    (["--role=king"], "--role=king: expected all, control or gateway"),
    (["--gateway-threads"], "--gateway-threads needs a value"),
    (["--data", "--check-config"], "--data needs a value"),
    (["-c"], "-c needs a value: FILE"),
    (["--config", "--check-config"], "--config needs a value: FILE"),
    (["--role"], "--role needs a value: ROLE"),
    (["--configuration=x"], "unknown option --configuration"),
    (["-x"], "unknown option -x"),
    (["--gateway-threads=x"], "--gateway-threads: gateway.threads: expected an integer from 0 to 256"),
    (["--gateway-listen=0.0.0.0:8000"], "gateway-listen: 0.0.0.0:8000 is not a loopback address"),
    (["--gateway-listen=0.0.0.0:8000"], "gateway-tls-cert and gateway-tls-key"),
    (["--metrics-listen=0.0.0.0:1"], "metrics-listen: 0.0.0.0:1 is not a loopback address"),
    (["--api-listen=localhost"], "api-listen:"),
    (["--gateway-tls-cert=/nonexistent"], "must be given together"),
    (["--manifests=/nonexistent"], "manifests: cannot read /nonexistent"),
    (["--config=/nonexistent"], "/nonexistent"),
    (["--data=/" + "x" * 71], "data: /xxx"),
    (["--data=/" + "x" * 71], "is too long by 1 bytes"),
    (["--data="], "data: expected a directory"),
])
def test_wrong_command_lines_are_refused(args, said):
    p = sekid("--check-config", *args)
    assert p.returncode == 2 and said in p.stderr and len(p.stderr.splitlines()) == 1, p.stderr


def test_manual_page_has_every_option_of_the_command_line():
    own = re.findall(r"(--[\w-]+)", sekid("--help").stdout.split("Options of seki.conf")[0])
    assert len(own) >= 6 and all(name in MAN for name in own)
    for name in re.findall(r"^ +(--[\w-]+)=VALUE", sekid("--help").stdout, re.M):
        assert name in MAN, f"sekid.8 lacks {name}"
    assert all(s in MAN for s in ("SIGTERM", "SIGINT", "SIGHUP"))


@pytest.mark.parametrize("page", ["seki.1", "sekid.8"])
def test_manual_pages_are_well_formed(page):
    p = subprocess.run(["man", "--warnings", "-l", str(ROOT / "packaging" / "man" / page)], capture_output=True, text=True,
                       env={**os.environ, "MANPAGER": "cat", "LC_ALL": "C.UTF-8", "MANWIDTH": "120"})
    assert p.returncode == 0 and p.stderr == "" and "EXIT STATUS" in p.stdout, p.stderr


# ---- reload ----

def test_reload(own_cloud, tmp_path):
    """What takes effect while running does; what does not says so; a bad file changes nothing."""
    conf = tmp_path / "seki.conf"
    conf.write_text("log-level = info\n")
    cloud = own_cloud(options={"log-level": None, "log-format": "json"}, args=["--config", str(conf)])
    pids = cloud.role_pid("control"), cloud.role_pid("gateway")

    def reload(text):
        conf.write_text(text)
        cloud.process.send_signal(signal.SIGHUP)
    reload("log-level = warn\n[store]\nretain = 10m\n[gateway]\nidle-timeout = 1m\n")
    for component in ("supervisor", "control", "gateway"):
        found = wait_for(lambda: logged(cloud, "changed options need a restart to take effect", component=component), what=f"{component}'s word")
        assert found[0]["options"] == "gateway.idle-timeout, store.retain"
    reload("log-level = debug\n[gateway]\nthreads = 1000\n")
    refused = wait_for(lambda: logged(cloud, "the configuration is refused; everything stays as it was"), what="the refusal")
    assert f"{conf}:3: gateway.threads: expected an integer from 0 to 256" in refused[0]["error"] and refused[0]["component"] == "supervisor"
    assert not logged(cloud, "configuration reloaded"), "warn was in force: information is not logged"
    reload("log-level = info\n")
    wait_for(lambda: len(logged(cloud, "configuration reloaded")) == 3, what="all three processes")
    assert (cloud.role_pid("control"), cloud.role_pid("gateway")) == pids
    cloud.wait_ready()


def make_certificate(directory, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(directory / "tls.key"), "-out", str(directory / "tls.crt")], check=True, capture_output=True)
    os.chmod(directory / "tls.key", 0o600)


def test_changed_certificates_swap(own_cloud, tmp_path):
    """Connections that run stay; those that begin see the new certificate; a bad one is refused and the old one kept."""
    make_certificate(tmp_path, "first")
    cloud = own_cloud(options={"gateway-tls-cert": tmp_path / "tls.crt", "gateway-tls-key": tmp_path / "tls.key"})
    host, port = cloud.address("gateway").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect():
        return context.wrap_socket(socket.create_connection((host, int(port)), timeout=10 * SLOW))

    def subject():
        with connect() as s:
            text = ssl.DER_cert_to_PEM_cert(s.getpeercert(True))
        return subprocess.run(["openssl", "x509", "-noout", "-subject"], input=text, capture_output=True, text=True, check=True).stdout

    def alive(s):
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return s.recv(4096).startswith(b"HTTP/1.1 200")
    old = connect()
    assert "first" in subject() and alive(old)
    make_certificate(tmp_path, "second")
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "second" in subject(), what="the new certificate")
    assert alive(old), "a connection was cut"
    (tmp_path / "tls.crt").write_text("nonsense")
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: logged(cloud, "the gateway keeps its certificate: the new one is refused"), what="the refusal")
    assert "second" in subject() and alive(old)
    old.close()


def test_the_api_s_certificate_is_renewed_while_running(own_cloud):
    """One that is gone (or near its end) is made anew on reload, and clients go on with the kubeconfig."""
    cloud = own_cloud()
    before = (cloud.data / "pki" / "apiserver.crt").read_text()
    (cloud.data / "pki" / "apiserver.crt").unlink()
    cloud.process.send_signal(signal.SIGHUP)

    def presented():
        host, port = cloud.address("api").split(":")
        return ssl.get_server_certificate((host, int(port)))
    wait_for(lambda: presented().split() != before.split(), what="another certificate")
    assert presented().split() == (cloud.data / "pki" / "apiserver.crt").read_text().split()
    cloud.kubectl("get", "namespaces")


# ---- manifests ----

ENDPOINT = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {seki.cloud/tenant: shop}}
---
apiVersion: seki.cloud/v1alpha1
kind: ModelEndpoint
metadata: {name: chat, namespace: shop}
spec:
  replicas: 1
  engine: {driver: fake, options: {tokens: "3"}}
"""
KEY = """
apiVersion: seki.cloud/v1alpha1
kind: APIKey
metadata: {name: app, namespace: shop}
spec: {endpoints: [chat]}
"""


def versions(cloud):
    return {p: cloud.api("GET", p)["metadata"]["resourceVersion"] for p in
            ("/api/v1/namespaces/shop", f"{GROUP}/namespaces/shop/apikeys/app")} | {
            "spec": json.dumps(cloud.get("modelendpoints", "shop", "chat")["spec"], sort_keys=True),
            "generation": cloud.get("modelendpoints", "shop", "chat")["metadata"]["generation"]}


def test_a_gateway_with_endpoints_and_keys_is_one_command(own_cloud, tmp_path):
    # The key's file comes before its project's: the order of files does not matter for that.
    (tmp_path / "10-key.yaml").write_text(KEY)
    (tmp_path / "20-endpoint.yaml").write_text(ENDPOINT)
    (tmp_path / "notes.txt").write_text("not a manifest")
    cloud = own_cloud(options={"manifests": tmp_path})
    secret_file = cloud.data / "keys" / "shop" / "app"
    secret = secret_file.read_text().strip()
    assert secret_file.stat().st_mode & 0o777 == 0o600 and secret.startswith("sk-seki-")

    def answer():
        try:
            r = openai.OpenAI(base_url=cloud.base_url, api_key=secret, max_retries=0).chat.completions.create(model="chat", messages=[{"role": "user", "content": "hi"}])
            return r.choices[0].message.content
        except openai.APIStatusError:
            return None
    assert wait_for(answer, 30, "an answer").split() == ["tok0", "tok1", "tok2"]

    # A restart and a reload change nothing.
    before = versions(cloud)
    cloud.stop()
    cloud.start()
    assert versions(cloud) == before and secret_file.read_text().strip() == secret
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(logged(cloud, "manifests applied")) == 3, what="the reload")
    assert versions(cloud) == before

    # A changed file is applied.
    (tmp_path / "20-endpoint.yaml").write_text(ENDPOINT.replace("replicas: 1", "replicas: 2"))
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: cloud.get("modelendpoints", "shop", "chat")["spec"]["replicas"] == 2, what="the change")

    # A bad one is not: not even the good file beside it.
    (tmp_path / "10-key.yaml").write_text(KEY.replace("app", "second"))
    (tmp_path / "20-endpoint.yaml").write_text(ENDPOINT.replace("replicas: 1", "replicas: lots"))
    cloud.process.send_signal(signal.SIGHUP)
    status, text = wait_for(lambda: (lambda r: r if r[0] == 503 else None)(get(f"http://{cloud.address('metrics')}/readyz")), what="readyz to tell")
    assert "[-]manifests failed" in text and "20-endpoint.yaml: document 2: ModelEndpoint chat" in text and "spec.replicas" in text, text
    with pytest.raises(ApiError) as e:
        cloud.api("GET", f"{GROUP}/namespaces/shop/apikeys/second")
    assert e.value.status == 404
    assert cloud.get("modelendpoints", "shop", "chat")["spec"]["replicas"] == 2

    # A key whose secret was lost is made again when it was revoked.
    (tmp_path / "10-key.yaml").write_text(KEY)
    (tmp_path / "20-endpoint.yaml").write_text(ENDPOINT)
    secret_file.unlink()
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: any("its secret is in no file" in e["msg"] for e in log_lines(cloud)), what="a word on the lost secret")
    cloud.seki("-n", "shop", "key", "revoke", "app")
    cloud.process.send_signal(signal.SIGHUP)
    wait_for(lambda: secret_file.exists() and secret_file.read_text().strip() != secret, what="another secret")
    cloud.wait_ready()


@pytest.mark.parametrize("text, said", [
    ("a: [1", "bad.yaml"),
    ("kind: ModelEndpoint\n", "expected an object with apiVersion and kind"),
    ("apiVersion: v2\nkind: Namespace\nmetadata: {name: x}\n", "no such kind here: Namespace in v2; it is in v1"),
    ("apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n", "no such kind here: Nothing in v1"),
    ("apiVersion: v1\nkind: Namespace\nmetadata: {name: UPPER}\n", "metadata.name"),
    ("apiVersion: v1\nkind: Namespace\nmetadata: {}\n", "name"),
    (ENDPOINT.replace("replicas: 1", "replicas: -1"), "document 2: ModelEndpoint chat: spec.replicas"),
    (ENDPOINT.replace("replicas: 1", "replics: 1"), "replics"),
    (ENDPOINT.replace("driver: fake", "driver: warp"), "spec.engine.driver"),
    (ENDPOINT.replace("driver: fake", "driver: llamacpp"), "spec.model"),
])
def test_a_bad_manifest_is_named_before_anything_is_made(tmp_path, text, said):
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a-good.yaml").write_text(ENDPOINT.replace("shop", "other"))
    (directory / "bad.yaml").write_text(text)
    p = sekid("--check-config", "--manifests", directory)
    assert p.returncode == 2 and str(directory / "bad.yaml") in p.stderr and said in p.stderr and "a-good" not in p.stderr, p.stderr
    data = pathlib.Path(tempfile.mkdtemp()) / "data"
    p = sekid("--manifests", directory, "--data", data)
    assert p.returncode == 2 and "bad.yaml" in p.stderr and not data.exists()
    data.parent.rmdir()


# ---- health and metrics ----

@pytest.mark.parametrize("role, parts", [("metrics", ["store", "controllers", "manifests", "audit", "issuers"]), ("metrics-gateway", ["gateway", "serving"])])
def test_health_and_metrics_of_both_roles(cloud, role, parts):
    base = f"http://{cloud.address(role)}"
    assert get(base + "/livez") == (200, "ok\n") and get(base + "/readyz") == (200, "ok\n")
    assert get(base + "/readyz?verbose") == (200, "".join(f"[+]{p} ok\n" for p in parts) + "ok\n")
    status, text = get(base + "/metrics")
    assert status == 200 and re.search(r"^# TYPE \w+ (counter|gauge|histogram)$", text, re.M)
    assert get(base + "/")[0] == 404
    request = urllib.request.Request(base + "/metrics", data=b"x")
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(request, timeout=10)
    assert e.value.code == 405


def test_health_of_the_listeners(cloud):
    assert cloud.kubectl("get", "--raw", "/readyz?verbose").stdout.splitlines()[-1] == "readyz check passed"
    assert get(f"http://{cloud.address('gateway')}/readyz") == (200, "ok\n")


def test_a_draining_gateway_is_not_ready(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "slow", tokens=100000, tokens_per_second=20)
    secret = cloud.key("demo")
    wait_for(lambda: cloud.gateway_status("/models/slow", secret) == 200, what="the model")
    stream = openai.OpenAI(base_url=cloud.base_url, api_key=secret, max_retries=0).chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "x"}], stream=True)
    next(stream)
    os.kill(cloud.role_pid("gateway"), signal.SIGTERM)
    status, text = wait_for(lambda: (lambda r: r if r[0] == 503 else None)(get(f"http://{cloud.address('metrics-gateway')}/readyz")), what="readyz to tell")
    assert "[-]serving failed: draining" in text
    next(stream)  # it goes on
    cloud.stop(signal.SIGINT, timeout=10)  # asked again, it does not wait for the stream
    with pytest.raises(Exception):
        list(stream)


# ---- logs ----

def test_logs_are_json_or_for_people(tmp_path):
    """On a terminal for people, JSON otherwise, and as the option says."""
    args = [str(SEKID), "--data", "/proc/nonexistent"]
    p = subprocess.run(args, capture_output=True, text=True, timeout=30 * SLOW)
    line = json.loads(p.stderr.splitlines()[0])
    assert p.returncode == 1 and line["level"] == "error" and line["component"] == "supervisor" and line["data"] == "/proc/nonexistent"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["ts"])
    p = subprocess.run([*args, "--log-format=human"], capture_output=True, text=True, timeout=30 * SLOW)
    assert re.match(r"\S+Z ERROR supervisor: cannot use the data directory data=/proc/nonexistent", p.stderr), p.stderr
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(args[0], args)
    text = b""
    while True:
        try:
            text += os.read(fd, 4096)
        except OSError:
            break
    os.waitpid(pid, 0)
    os.close(fd)
    assert b" ERROR supervisor: cannot use" in text


def test_no_core_files(cloud):
    for pid in (cloud.process.pid, cloud.role_pid("control"), cloud.role_pid("gateway")):
        limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits), limits


# ---- what is written down nowhere ----

class Echo(http.server.BaseHTTPRequestHandler):
    """A server that answers with what it was asked, in every bad way that the model's name says."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer(200, b'{"object":"list","data":[]}')

    def answer(self, status, body, content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        model = json.loads(body)["model"]
        if model.startswith("status-"):
            self.answer(int(model[7:]), json.dumps({"error": {"message": f"bad prompt: {body.decode()}"}}).encode())
        elif model == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) + 1000))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True
        elif model == "head":
            self.wfile.write(b"HTTP/1.1 200 " + body + b"\r\nBad Header: " + body + b"\r\n\r\n")
            self.close_connection = True
        else:  # an event stream of what is no event
            self.answer(200, b"data: {" + body + b"\n\ndata: " + body + b"\n\nevent: error\ndata: " + body + b"\n\n", "text/event-stream")


BAD_WAYS = ["status-400", "status-422", "status-500", "status-503", "cut", "head", "stream"]


def test_a_prompt_is_found_nowhere_on_bad_ways_out(own_cloud):
    """Engine errors that echo the prompt, broken answers, aborted requests, refused bodies; all at log level debug."""
    canary = "canary-" + os.urandom(12).hex()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cloud = own_cloud(options={"log-level": "debug"})
    try:
        cloud.project("demo")
        for name in BAD_WAYS:
            cloud.create("modelendpoints", "demo", name, {"engine": {"driver": "openai", "url": f"http://127.0.0.1:{server.server_address[1]}/v1"}})
        cloud.fake_endpoint("demo", "slow", tokens=100000, tokens_per_second=20)
        for name in BAD_WAYS:
            cloud.wait_condition("modelendpoints", "demo", name)
        secret = cloud.key("demo")
        client = openai.OpenAI(base_url=cloud.base_url, api_key=secret, max_retries=0, timeout=30 * SLOW)
        wait_for(lambda: len(client.models.list().data) == len(BAD_WAYS) + 1, what="the models")
        said = [{"role": "user", "content": canary}]
        for name in BAD_WAYS:
            for stream in (False, True):
                try:
                    answer = client.chat.completions.create(model=name, messages=said, stream=stream, user=canary)
                    list(answer) if stream else answer
                except (openai.OpenAIError, ValueError):
                    pass
        stream = client.chat.completions.create(model="slow", messages=said, stream=True)
        next(stream)
        stream.close()
        for body in (f'{{"model": "{canary}", "messages": []}}', f'{{"model": "slow", "messages": ["{canary}"', f'{{"{canary}": 1}}', canary):
            request = urllib.request.Request(cloud.base_url + "/chat/completions", data=body.encode(), headers={"Authorization": f"Bearer {secret}"})
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=10 * SLOW)
        wait_for(lambda: "seki_gateway_requests_active 0" in cloud.metrics("metrics-gateway"), what="the requests to be settled")
        exposition = cloud.metrics("metrics-gateway") + cloud.metrics()
        objects = cloud.kubectl("get", "seki,events", "-A", "-o", "yaml").stdout
        cloud.stop()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert canary not in exposition and canary not in objects
    found = [path for path in pathlib.Path(cloud.dir).rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert not found, [(str(p), [line for line in p.read_text(errors="replace").splitlines() if canary in line][:2]) for p in found]


# ---- a full disk ----

class SmallDisk(Cloud):
    """Its data directory is a tmpfs in a mount namespace of its own, seen from here through /proc."""

    def command(self, role=None):
        os.makedirs(self.options["data"], exist_ok=True)
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", 'mount -t tmpfs -o size=72m none "$0" && exec "$@"', str(self.options["data"]), *super().command(role)]

    def start(self, wait=True):
        super().start(wait=False)
        self.data = pathlib.Path(f"/proc/{self.process.pid}/root{self.options['data']}")
        if wait:
            self.wait_ready()
        return self


def may_mount():
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def fill(path):
    with open(path, "ab", buffering=0) as f:
        with pytest.raises(OSError):
            while True:
                f.write(b"x" * 65536)
        with pytest.raises(OSError):
            while True:
                f.write(b"x" * 4096)


@pytest.mark.skipif(not may_mount(), reason="a mount namespace needs privileges")
def test_what_was_answered_on_a_full_disk_is_billed_though_the_gateway_is_killed():
    """The journal has room ahead. When somebody takes that too, what was answered is counted yet; the gateway starts on the full disk, refuses, and says why."""
    with SmallDisk() as cloud:
        cloud.project("demo")
        cloud.fake_endpoint("demo", "fake", tokens=3)
        client = openai.OpenAI(base_url=cloud.base_url, api_key=cloud.key("demo", "buyer"), max_retries=0, timeout=30 * SLOW)
        wait_for(lambda: len(client.models.list().data) == 1, what="the model")
        wait_for(lambda: b"buyer" in (cloud.data / "run/gateway.snapshot").read_bytes(), what="the key to be in what the gateway starts with")
        asked = 0

        def knows_the_key():
            try:
                return len(client.models.list().data) == 1
            except openai.APIError:
                return False

        def ask():
            return client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}]).choices[0].message.content
        filler, journal = cloud.data / "filler", cloud.data / "ledger/usage-gateway.000001"
        fill(filler)
        for _ in range(5):
            assert ask().startswith("tok0")
            asked += 1
        cloud.kill_role("gateway")  # it finds its room again
        wait_for(lambda: cloud.is_ready("gateway"), what="the gateway on the full disk")
        wait_for(knows_the_key, what="the key to be known")
        assert ask().startswith("tok0")
        asked += 1
        os.truncate(journal, journal.stat().st_size)  # what lies ahead goes back to the disk, and somebody takes it
        fill(filler)
        for _ in range(100):
            try:
                assert ask().startswith("tok0")
                asked += 1
            except openai.InternalServerError as e:
                assert e.status_code == 503 and e.body["code"] == "usage_not_recordable" and "full" in e.body["message"]
                break
        else:
            pytest.fail("nothing was refused")
        status, text = get(f"http://{cloud.address('metrics-gateway')}/readyz?verbose")
        assert status == 503 and "usage cannot be recorded" in text and "No space left on device" in text and "bytes are free" in text, text
        cloud.kill_role("gateway")
        wait_for(knows_the_key, what="the gateway to start on the full disk")
        with pytest.raises(openai.InternalServerError) as e:
            ask()
        assert e.value.body["code"] == "usage_not_recordable"
        filler.unlink()
        wait_for(lambda: cloud.is_ready("gateway"), what="the gateway to be ready")
        assert ask().startswith("tok0")
        asked += 1

        def billed():
            reports = cloud.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports")["items"]
            items = [item for r in reports for item in r.get("status", {}).get("items", [])]
            return sum(i["requests"] for i in items), sum(i["completionTokens"] for i in items)
        wait_for(lambda: billed() == (asked, 3 * asked), 30, "what was answered to be counted, once")
    cloud.process.wait(60)


@pytest.mark.skipif(not may_mount(), reason="a mount namespace needs privileges")
def test_full_disk():
    """readyz says why, writes are refused with a Status, reads and inference's answers go on; freed space is noticed by itself."""
    with SmallDisk() as cloud:
        cloud.project("demo")
        name = "/api/v1/namespaces/demo/configmaps"

        def configmap(i):
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i}"}, "data": {"k": "v" * 20000}}
        cloud.api("POST", name, configmap(0))
        cloud.fake_endpoint("demo", "fake", tokens=3)
        client = openai.OpenAI(base_url=cloud.base_url, api_key=cloud.key("demo"), max_retries=0, timeout=30 * SLOW)
        wait_for(lambda: len(client.models.list().data) == 1, what="the model")

        def ask():
            return client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}]).choices[0].message.content
        filler = cloud.data / "filler"
        with open(filler, "wb", buffering=0) as f:
            with pytest.raises(OSError):
                while True:
                    f.write(b"x" * 65536)
        refused = None
        for i in range(1, 200):
            try:
                cloud.api("POST", name, configmap(i))
            except ApiError as e:
                refused = e
                break
        assert refused is not None, "nothing was refused"
        assert (refused.status, refused.body["kind"], refused.body["reason"]) == (503, "Status", "ServiceUnavailable"), refused
        assert "full" in refused.body["message"], refused
        status, text = wait_for(lambda: (lambda r: r if r[0] == 503 else None)(get(f"http://{cloud.address('metrics')}/readyz")), what="readyz to tell")
        assert "[-]store failed" in text and "full" in text, text
        with pytest.raises(ApiError) as e:
            cloud.api("GET", "/readyz")
        assert e.value.status == 503 and b"[-]store failed" in e.value.body
        assert get(f"http://{cloud.address('metrics')}/livez") == (200, "ok\n")
        assert len(cloud.api("GET", name)["items"]) == i
        with pytest.raises(ApiError):
            cloud.api("GET", f"{name}/c{i}")  # what was refused is not there
        for _ in range(20):
            assert ask().startswith("tok0")
        filler.unlink()
        cloud.wait_ready()
        cloud.api("POST", name, configmap(i))

        def billed():
            reports = cloud.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports")["items"]
            return sum(item["requests"] for r in reports for item in r.get("status", {}).get("items", []))
        wait_for(lambda: billed() == 20, 30, "what was used while the disk was full to be counted, once")
        cloud.kill_role("control")
        cloud.wait_ready()
        assert len(cloud.api("GET", name)["items"]) == i + 1
