"""Engines as replicas: elsewhere, changed, gone, hung; and models that are not what they should be."""
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.request

import pytest

from cloud import BUILD, FAKE_ENGINE, GROUP, SLOW, ApiError, wait_for


def replica(cloud, name, ns="demo"):
    return cloud.get("modelreplicas", ns, name)


def pid_of(cloud, name):
    return replica(cloud, name).get("status", {}).get("pid")


def argv_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().decode().split("\0")
    except FileNotFoundError:
        return []


def patch(cloud, plural, name, spec, ns="demo"):
    cloud.api("PATCH", f"{GROUP}/namespaces/{ns}/{plural}/{name}", {"spec": spec}, content_type="application/merge-patch+json")


def ask(cloud, secret, model="fake"):
    body = json.dumps({"model": model, "prompt": "one two", "max_tokens": 2}).encode()
    request = urllib.request.Request(cloud.base_url + "/completions", data=body, method="POST",
                                     headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30 * SLOW) as r:
            return r.status
    except urllib.error.HTTPError as e:
        return e.code


def own_directory(cloud, ns="demo"):
    """Where the files of a project's Models lie."""
    directory = cloud.data / "models" / ns
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def put_model(cloud, directory, name="m", content=b"GGUF", size=None, file="m.gguf", digest=None, write=True, ns="demo"):
    if write:
        (directory / file).write_bytes(content)
    return cloud.create("models", ns, name, {
        "source": f"file://{directory}", "format": "GGUF", "license": {"id": "test"},
        "files": [{"name": file, "digest": "sha256:" + (digest or hashlib.sha256(content).hexdigest()), "sizeBytes": size or len(content)}]})


@pytest.fixture
def stand_in(tmp_path):
    """A llama-server that writes down how it was called, and serves as the fake engine."""
    script = tmp_path / "llama-server"
    script.write_text(f"""#!/bin/sh
printf '%s\\n' "$@" >>{tmp_path}/argv
while [ $# -gt 0 ]; do [ "$1" = --host ] && sock=$2; shift; done
exec {FAKE_ENGINE} --listen "unix:$sock" --model m
""")
    script.chmod(0o755)
    return script


def test_configured_llama_server_is_used_and_follows_its_options(own_cloud, tmp_path, stand_in):
    cloud = own_cloud(options={"engine-llama-server": stand_in, "model-dirs": tmp_path})
    cloud.project("demo")
    put_model(cloud, tmp_path)
    cloud.create("modelendpoints", "demo", "chat", {"model": "m"})
    cloud.wait_condition("modelendpoints", "demo", "chat")
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[argv.index("--model") + 1] == str(tmp_path / "m.gguf")
    assert argv[argv.index("--ctx-size") + 1] == "8192"
    pid = pid_of(cloud, "chat-0")
    patch(cloud, "modelendpoints", "chat", {"engine": {"parallel": 2}})
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 30, "another engine, with other options, to take its place")
    wait_for(lambda: "4096" in (tmp_path / "argv").read_text().splitlines(), what="the new option")
    cloud.wait_condition("modelendpoints", "demo", "chat")
    # Deleting the Model ends what serves it.
    pid = pid_of(cloud, "chat-1")
    cloud.api("DELETE", f"{GROUP}/namespaces/demo/models/m")
    cloud.wait_condition("modelendpoints", "demo", "chat", status="False", reason="ModelNotFound")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the engine to end")


def test_scaling_and_deletion_while_loading(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", replicas=3)
    pids = [pid_of(cloud, f"fake-{i}") for i in range(3)]
    patch(cloud, "modelendpoints", "fake", {"replicas": 1})
    wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids[1:]), what="the two others to end")
    assert pid_of(cloud, "fake-0") == pids[0]
    wait_for(lambda: len(cloud.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"]) == 1, what="one replica")
    patch(cloud, "modelendpoints", "fake", {"replicas": 2})
    wait_for(lambda: cloud.get("modelendpoints", "demo", "fake")["status"].get("readyReplicas") == 2, what="two replicas")
    assert pid_of(cloud, "fake-0") == pids[0]
    cloud.fake_endpoint("demo", "slow", wait=False, load_delay_ms=600000)
    cloud.wait_condition("modelendpoints", "demo", "slow", status="False", reason="Loading")
    pid = pid_of(cloud, "slow-0")
    files = {p.name for p in (cloud.data / "run" / "engines").iterdir()}
    cloud.api("DELETE", f"{GROUP}/namespaces/demo/modelendpoints/slow")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the loading engine to end")
    wait_for(lambda: {i["metadata"]["name"] for i in cloud.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"]} == {"fake-0", "fake-1"}, what="its replica to go")
    assert len({p.name for p in (cloud.data / "run" / "engines").iterdir()}) < len(files)


def test_replica_stays_when_the_spec_says_the_same(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", tokens=5)
    before = replica(cloud, "fake-0")
    cloud.api("PATCH", f"{GROUP}/namespaces/demo/modelendpoints/fake", {"metadata": {"labels": {"a": "b"}}, "spec": {"startTimeoutSeconds": 299}},
              content_type="application/merge-patch+json")
    wait_for(lambda: replica(cloud, "fake-0")["spec"]["startTimeoutSeconds"] == 299, what="the replica to follow")
    wait_for(lambda: replica(cloud, "fake-0")["status"].get("observedGeneration") == replica(cloud, "fake-0")["metadata"]["generation"], what="it to be observed")
    assert replica(cloud, "fake-0")["status"]["pid"] == before["status"]["pid"]
    patch(cloud, "modelendpoints", "fake", {"engine": {"options": {"tokens": "6"}}})
    # What needs another process gets one beside the old one, which leaves when that serves; what serves nobody is changed where it is.
    wait_for(lambda: not os.path.exists(f"/proc/{before['status']['pid']}"), 30, "another engine to take its place")
    wait_for(lambda: names(cloud) == ["fake-1"], what="its replica to go")
    assert argv_of(pid_of(cloud, "fake-1"))[-2] == "6"
    patch(cloud, "modelendpoints", "fake", {"engine": {"options": {"loadDelayMs": "600000"}}})
    loading = wait_for(lambda: "fake-0" in names(cloud) and pid_of(cloud, "fake-0"), what="one that does not come up")
    assert cloud.wait_condition("modelendpoints", "demo", "fake", reason="Replacing")["message"].startswith("1 of 1 replicas serve")
    patch(cloud, "modelendpoints", "fake", {"engine": {"options": {"loadDelayMs": None, "tokens": "6"}}})
    cloud.wait_condition("modelendpoints", "demo", "fake", reason="Serving")
    wait_for(lambda: names(cloud) == ["fake-1"] and not os.path.exists(f"/proc/{loading}"), what="it to be given up")


def test_without_room_for_one_more_engines_are_replaced_in_their_places(own_cloud):
    cloud = own_cloud(options={"engine-memory-reserve": "1048576G"})
    cloud.project("demo")
    cloud.create("modelendpoints", "demo", "fake", {"replicas": 2, "engine": {"driver": "fake", "options": {"tokens": "5"}}})
    wait_for(lambda: cloud.get("modelendpoints", "demo", "fake").get("status", {}).get("readyReplicas") == 2, what="two replicas")
    patch(cloud, "modelendpoints", "fake", {"engine": {"options": {"tokens": "6"}}})
    said = cloud.wait_condition("modelendpoints", "demo", "fake", "RoomToReplace", status="False", reason="NoRoom")["message"]
    assert re.search(r"needs \d+ MiB, and \d+ MiB of memory are free", said), said
    seen = set()

    def done():
        seen.update(names(cloud))
        return all(argv_of(pid_of(cloud, n))[-2:-1] == ["6"] for n in ("fake-0", "fake-1") if pid_of(cloud, n)) and cloud.get("modelendpoints", "demo", "fake")["status"]["readyReplicas"] == 2
    wait_for(done, 60, "both to be replaced")
    assert seen == {"fake-0", "fake-1"}  # never a third one
    cloud.wait_condition("modelendpoints", "demo", "fake", "RoomToReplace", reason="Replaced")


def names(c):
    return [r["metadata"]["name"] for r in c.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"]]


# ---- engines elsewhere ----

class Remote:
    """A second fake engine, standing for a server elsewhere."""

    def __init__(self, tmp_path, name="remote", **options):
        self.events = tmp_path / f"{name}.events"
        flags = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", str(v))]
        self.process = subprocess.Popen([FAKE_ENGINE, "--listen", "127.0.0.1:0", "--model", "big", "--event-log", self.events, *flags],
                                        stdout=subprocess.PIPE, text=True, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        self.address = self.process.stdout.readline().split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def served(self):
        return self.events.read_text().count(" done ") if self.events.exists() else 0


def secret_object(cloud, name, value, method="POST"):
    path = "/api/v1/namespaces/demo/secrets" + (f"/{name}" if method == "PATCH" else "")
    body = {"stringData": {"apiKey": value}}
    if method == "POST":
        body.update(apiVersion="v1", kind="Secret", metadata={"name": name})
    return cloud.api(method, path, body, content_type="application/merge-patch+json" if method == "PATCH" else "application/json")


def test_remote_engine_as_a_replica(own_cloud, tmp_path):
    cloud = own_cloud()
    cloud.project("demo")
    with Remote(tmp_path, api_key="first-secret-key") as remote:
        cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "openai", "url": f"http://{remote.address}/v1", "remoteModel": "big"}})
        cond = cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="ServerUnavailable")
        assert "401" in cond["message"] and "spec.engine.secret" in cond["message"]
        patch(cloud, "modelendpoints", "fake", {"engine": {"secret": "key"}})
        cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="SecretMissing")
        secret_object(cloud, "key", "wrong")
        cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="ServerUnavailable")
        secret_object(cloud, "key", "first-secret-key", "PATCH")
        cloud.wait_condition("modelendpoints", "demo", "fake")
        key = cloud.key("demo")
        wait_for(lambda: ask(cloud, key) == 200, what="an answer from elsewhere")
        assert remote.served() >= 1
        tokens = list((cloud.data / "run" / "engines").glob("*.token"))
        wait_for(lambda: len(list((cloud.data / "run" / "engines").glob("*.token"))) == 1, what="the old key's file to go")
        assert all(stat.S_IMODE(t.stat().st_mode) == 0o600 for t in tokens if t.exists())
        assert "first-secret-key" not in json.dumps(replica(cloud, "fake-0")) and "first-secret-key" not in cloud.log.read_text()
        # The key leaves with the reference to it, before the next server could get it.
        with Remote(tmp_path, "other") as other:
            patch(cloud, "modelendpoints", "fake", {"engine": {"secret": None, "url": f"http://{other.address}/v1"}})
            wait_for(lambda: other.address in replica(cloud, "fake-0")["status"].get("address", ""), what="the other server")
            assert "secretVersion" not in replica(cloud, "fake-0")["status"]
            wait_for(lambda: not list((cloud.data / "run" / "engines").glob("*.token")), what="the key's file to go")
            wait_for(lambda: ask(cloud, key) == 200 and other.served() >= 1, what="an answer from the other")
        cond = cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="ServerUnavailable", timeout=60)
        assert ask(cloud, key) in (502, 503)


def test_a_server_without_the_model(own_cloud, tmp_path):
    """It says which model was asked for and which there are, and is Ready once that is mended; a server that loses its model is not Ready any more, one that has it unlisted is."""
    cloud = own_cloud(options={"engine-probe-interval": "200ms"})
    cloud.project("demo")
    with Remote(tmp_path) as remote:
        for driver in ("openai", "vllm", "sglang"):
            cloud.create("modelendpoints", "demo", driver, {"servedName": driver, "engine": {"driver": driver, "url": f"http://{remote.address}/v1", "remoteModel": "org/small v2"}})
        for driver in ("openai", "vllm", "sglang"):
            cond = cloud.wait_condition("modelendpoints", "demo", driver, status="False", reason="ModelNotServed")
            assert '"org/small v2"' in cond["message"] and "it has big" in cond["message"] and "spec.engine.remoteModel" in cond["message"]
        told = [e for e in cloud.api("GET", "/api/v1/namespaces/demo/events")["items"] if e["reason"] == "ModelNotServed" and e["involvedObject"]["kind"] == "ModelReplica"]
        assert len(told) == 3 and all(e.get("count", 1) == 1 for e in told)
        key = cloud.key("demo")
        wait_for(lambda: ask(cloud, key, "openai") == 503, what="the endpoint")
        patch(cloud, "modelendpoints", "openai", {"engine": {"remoteModel": "big"}})
        cloud.wait_condition("modelendpoints", "demo", "openai")
        wait_for(lambda: ask(cloud, key, "openai") == 200, what="an answer")
    with Listing() as server:
        server.models[:] = ["a/b", "more*"]
        cloud.create("modelendpoints", "demo", "loses", {"engine": {"driver": "openai", "url": f"http://{server.address}/v1", "remoteModel": "a/b"}})
        cloud.wait_condition("modelendpoints", "demo", "loses")
        server.models[0] = "c\x1b[2J\n"
        cond = cloud.wait_condition("modelendpoints", "demo", "loses", status="False", reason="ModelNotServed")
        assert "it has c?[2J?, more*" in cond["message"]
        assert "/v1/models/a/b" in server.asked
        server.unlisted.append("a/b")
        cloud.wait_condition("modelendpoints", "demo", "loses")


def test_several_servers_behind_one_name(own_cloud, tmp_path):
    cloud = own_cloud()
    cloud.project("demo")
    with Remote(tmp_path, "one") as one, Remote(tmp_path, "two") as two:
        urls = [f"http://{r.address}/v1" for r in (one, two)]
        cloud.create("modelendpoints", "demo", "fake", {"replicas": 2, "engine": {"driver": "openai", "remoteModel": "big"}, "servers": [{"url": u} for u in urls]})
        cloud.wait_condition("modelendpoints", "demo", "fake")
        assert [replica(cloud, f"fake-{i}")["spec"]["engine"]["url"] for i in range(2)] == urls
        key = cloud.key("demo")
        wait_for(lambda: ask(cloud, key) == 200 and one.served() and two.served(), what="answers of both")
        for spec, field in (({"engine": {"driver": "fake"}, "servers": [{"url": urls[0]}]}, "spec.servers"),
                            ({"engine": {"driver": "openai", "url": urls[0]}, "servers": [{"url": urls[1]}]}, "spec.servers"),
                            ({"engine": {"driver": "openai"}, "servers": [{"url": "ftp://x"}]}, "spec.servers[0].url")):
            body = {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": "bad"}, "spec": spec}
            with pytest.raises(ApiError) as e:
                cloud.api("POST", "/apis/seki.cloud/v1alpha1/namespaces/demo/modelendpoints", body)
            assert e.value.status == 422 and field in [c["field"] for c in e.value.body["details"]["causes"]]


class Listing:
    """A server elsewhere that only lists models: below /moved it redirects, below /long the list is 2 MiB; below /v1 it has `models`, and more that it does not list."""

    def __init__(self):
        self.asked, self.models, self.unlisted = asked, models, unlisted = [], [], []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                moved, body = self.path.startswith("/moved"), b"x" * (2 << 20) if self.path.startswith("/long") else b"{}"
                if self.path == "/v1/models":
                    body = json.dumps({"object": "list", "data": [{"id": m} for m in models]}).encode()
                missing = self.path.startswith("/v1/models/") and self.path[len("/v1/models/"):] not in models + unlisted
                self.send_response(302 if moved else 404 if missing else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def keys_on_disk(cloud):
    return {p.name: p.stat() for p in (cloud.data / "run" / "engines").glob("*.token")}


def test_a_remote_key_is_written_once_and_goes_with_its_replica(own_cloud):
    cloud = own_cloud(options={"engine-probe-interval": "20ms"})
    cloud.project("demo")
    secret_object(cloud, "key", "first")
    with Listing() as remote:
        remote.models.append("big")
        spec = {"engine": {"driver": "openai", "url": f"http://{remote.address}/v1", "remoteModel": "big", "secret": "key"}}
        cloud.create("modelendpoints", "demo", "fake", spec)
        cloud.wait_condition("modelendpoints", "demo", "fake")
        (name, first), = keys_on_disk(cloud).items()
        assert stat.S_IMODE(first.st_mode) == 0o600 and stat.S_IMODE((cloud.data / "run" / "engines").stat().st_mode) == 0o700
        probes = len(remote.asked)
        wait_for(lambda: len(remote.asked) > probes + 10, what="some more looks at it")
        now = keys_on_disk(cloud)[name]
        assert (now.st_ino, now.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
        cloud.api("DELETE", f"{GROUP}/namespaces/demo/modelendpoints/fake")
        wait_for(lambda: not keys_on_disk(cloud), what="the key to go with its endpoint")
        wait_for(lambda: not cloud.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"], what="the replica to go")
        cloud.create("modelendpoints", "demo", "fake", spec)
        cloud.wait_condition("modelendpoints", "demo", "fake")
        cloud.api("PATCH", f"{GROUP}/namespaces/demo/modelendpoints/fake", {"spec": {"replicas": 0}}, content_type="application/merge-patch+json")
        wait_for(lambda: not keys_on_disk(cloud), what="the key to go with its replica")
        # And what was left while nobody looked is found at the next start.
        (cloud.data / "run" / "engines" / "99999999-0000-4000-8000-000000000000.token").write_text("http://x\nk")
        cloud.stop()
        cloud.start()
        wait_for(lambda: not keys_on_disk(cloud), what="the stray key to go")


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "https://localhost:{port}/v1", "https://169.254.169.254/latest", "https://10.0.0.1", "unix:/run/docker.sock", "unix:{dir}/s", "http://example.com"])
def test_only_public_servers_without_the_operators_word(own_cloud, tmp_path, url):
    cloud = own_cloud(options={"engine-remote-allow": None})
    cloud.project("demo")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(0)
        url = url.format(port=s.getsockname()[1], dir=tmp_path)
        cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "openai", "url": url}})
        cond = cloud.wait_condition("modelendpoints", "demo", "fake", kind="EngineStarted", status="False", reason="EngineInvalid")
        assert "spec.engine.url" in cond["message"] and "engine-remote-allow" in cond["message"]
        with pytest.raises(BlockingIOError):
            s.accept()


def test_a_name_that_leads_to_this_machine(own_cloud):
    """Known only when it is looked up: numbers in spellings of their own."""
    cloud = own_cloud(options={"engine-remote-allow": None})
    cloud.project("demo")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(0)
        cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "openai", "url": f"https://2130706433:{s.getsockname()[1]}/v1"}})
        cond = cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="ServerUnavailable")
        assert "spec.engine.url" in cond["message"] and "engine-remote-allow" in cond["message"]
        with pytest.raises(BlockingIOError):
            s.accept()


@pytest.mark.parametrize("status", [{"tokenFile": "/etc/passwd"}, {"address": "ADDRESS"}])
def test_a_forged_status_sends_nothing_anywhere(own_cloud, tmp_path, status):
    cloud = own_cloud()
    cloud.project("demo")
    secret_object(cloud, "key", "first")
    with Remote(tmp_path, api_key="first") as remote, socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(0)
        forged = {k: v.replace("ADDRESS", f"http://127.0.0.1:{s.getsockname()[1]}") for k, v in status.items()}
        cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "openai", "url": f"http://{remote.address}/v1", "remoteModel": "big", "secret": "key"}})
        cloud.wait_condition("modelendpoints", "demo", "fake")
        key = cloud.key("demo")
        wait_for(lambda: ask(cloud, key) == 200, what="an answer")
        for _ in range(20):
            try:
                cloud.api("PATCH", f"{GROUP}/namespaces/demo/modelreplicas/fake-0/status", {"status": forged}, content_type="application/merge-patch+json")
            except ApiError as e:
                assert e.status in (400, 409)  # no such field any more; the controller was faster
            assert ask(cloud, key) in (200, 503)
        wait_for(lambda: ask(cloud, key) == 200, what="an answer once its controller has looked")
        with pytest.raises(BlockingIOError):
            s.accept()


def test_redirects_and_long_lists_of_models(own_cloud):
    """A redirect is no engine, and where it leads is not asked; a list that is too long to be read is an answer."""
    cloud = own_cloud()
    cloud.project("demo")
    with Listing() as server:
        for name in ("moved", "long"):
            cloud.create("modelendpoints", "demo", name, {"engine": {"driver": "openai", "url": f"http://{server.address}/{name}"}})
        cond = cloud.wait_condition("modelendpoints", "demo", "moved", status="False", reason="ServerUnavailable")
        assert "302" in cond["message"]
        cloud.wait_condition("modelendpoints", "demo", "long")
        assert "/elsewhere" not in server.asked


def test_local_engine_ends_when_it_is_moved_elsewhere(own_cloud, tmp_path):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    pid = pid_of(cloud, "fake-0")
    with Remote(tmp_path) as remote:
        patch(cloud, "modelendpoints", "fake", {"engine": {"driver": "openai", "url": f"http://{remote.address}", "remoteModel": "big", "options": None}})
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 30, "the engine here to end")
        wait_for(lambda: remote.address in replica(cloud, "fake-1")["status"].get("address", ""), what="the one elsewhere")
        cloud.wait_condition("modelendpoints", "demo", "fake")


def test_another_tenants_engine_cannot_be_named(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.project("rival")
    cloud.fake_endpoint("demo", "fake")
    address = replica(cloud, "fake-0")["status"]["address"]
    cloud.create("modelendpoints", "rival", "mine", {"engine": {"driver": "openai", "url": address}})
    cond = cloud.wait_condition("modelendpoints", "rival", "mine", kind="EngineStarted", status="False", reason="EngineInvalid")
    assert "spec.engine.url" in cond["message"]


class Silent:
    """Accepts, and never says a word."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(4096)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Refusing(threading.Thread):
    """Accepts, counts, and hangs up."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen()
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.asked = 0
        self.start()

    def run(self):
        try:
            while True:
                self.socket.accept()[0].close()
                self.asked += 1
        except OSError:
            pass  # closed

    def stop(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self.socket.close()


def test_a_server_that_is_away_is_asked_less_and_less(own_cloud, tmp_path):
    cloud = own_cloud()
    cloud.project("demo")
    away = Refusing()
    try:
        with Remote(tmp_path) as remote:
            cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "openai", "url": f"http://{away.address}/v1", "remoteModel": "big"}})
            cloud.wait_condition("modelendpoints", "demo", "fake", status="False", reason="ServerUnavailable")
            wait_for(lambda: re.match("waiting (5|10) s", cloud.condition("modelreplicas", "demo", "fake-0").get("message", "")), 60, "five seconds to have passed")
            assert 3 <= away.asked <= 12, "not five times a second"
            # The next look there would come seconds later: another server is asked at once.
            begun = time.monotonic()
            patch(cloud, "modelendpoints", "fake", {"engine": {"url": f"http://{remote.address}/v1"}})
            cloud.wait_condition("modelendpoints", "demo", "fake")
            assert time.monotonic() - begun < 2.5 * SLOW
    finally:
        away.stop()


def test_one_projects_silent_engines_hold_up_nobody_else(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.project("slow")
    with Silent() as silent:
        for i in range(20):
            cloud.create("modelendpoints", "slow", f"e{i}", {"replicas": 5, "engine": {"driver": "openai", "url": f"http://{silent.address}/v1"}})
        for i in range(20):
            cloud.wait_condition("modelendpoints", "slow", f"e{i}", status="False", reason="ServerUnavailable", timeout=60)
        begun = time.monotonic()
        cloud.fake_endpoint("demo", "fake")
        assert time.monotonic() - begun < 2.5 * SLOW, "as long as some of the silent ones are waited for"


# ---- liveness ----

def test_an_idle_engine_that_answers_nothing_is_found(own_cloud):
    """It says that it is well, accepts, and never makes a token: nobody need ask it for that to be noticed."""
    cloud = own_cloud(options={"engine-idle-probe-interval": "300ms", "engine-stall-timeout": "2s"})
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", mode="hang", hang_after=0)
    pid = pid_of(cloud, "fake-0")
    wait_for(lambda: pid_of(cloud, "fake-0") not in (None, pid), 60, "the hung engine to be replaced")
    events = cloud.api("GET", "/api/v1/namespaces/demo/events")["items"]
    assert any(e["reason"] == "EngineHung" for e in events)


def test_a_fresh_engine_is_not_measured_by_the_age_of_the_hung_one(own_cloud):
    """A killed process is there for a moment more: it is not a loading one that is late."""
    cloud = own_cloud()
    cloud.project("demo")
    late = 4 * SLOW
    cloud.create("modelendpoints", "demo", "fake", {"replicas": 8, "engine": {"driver": "fake"}, "startTimeoutSeconds": late})
    cloud.wait_condition("modelendpoints", "demo", "fake")
    names = [f"fake-{i}" for i in range(8)]
    wait_for(lambda: all(cloud.condition("modelreplicas", "demo", n).get("status") == "True" for n in names), 60, "all of them to serve")
    pids = {n: pid_of(cloud, n) for n in names}
    wait_for(lambda: all(time.time() - os.stat(f"/proc/{p}").st_ctime > late + 1 for p in pids.values()), 60, "the engines to be older than their start may take")
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: all(pid_of(cloud, n) not in (None, pids[n]) for n in names), 60, "them to be replaced")
    cloud.wait_condition("modelendpoints", "demo", "fake")
    events = [e["reason"] for e in cloud.api("GET", "/api/v1/namespaces/demo/events")["items"]]
    assert "EngineHung" in events and "DeadlineExceeded" not in events
    assert all(cloud.get("modelreplicas", "demo", n)["status"]["restarts"] == 1 for n in names)


def test_an_engine_whose_program_is_being_replaced_serves_on(own_cloud, tmp_path):
    """It cannot be started again meanwhile, which is told; that is no reason to send it nothing."""
    program, away = tmp_path / "engine", tmp_path / "engine.away"
    shutil.copy2(FAKE_ENGINE, program)
    cloud = own_cloud(options={"engine-fake": program})
    cloud.project("demo")
    cloud.fake_endpoint("demo", "m", tokens=2)
    secret = cloud.key("demo")
    wait_for(lambda: ask(cloud, secret, "m") == 200, what="an answer")
    program.rename(away)
    wait_for(lambda: any(e["reason"] == "EngineMissing" for e in cloud.api("GET", "/api/v1/namespaces/demo/events")["items"]), what="it to be told")
    assert ask(cloud, secret, "m") == 200
    assert cloud.condition("modelendpoints", "demo", "m")["status"] == "True"
    os.kill(cloud.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"][0]["status"]["pid"], signal.SIGKILL)
    cloud.wait_condition("modelendpoints", "demo", "m", status="False")
    away.rename(program)
    cloud.wait_condition("modelendpoints", "demo", "m")
    wait_for(lambda: ask(cloud, secret, "m") == 200, what="it to serve again")


def test_a_stopped_engine_is_found(own_cloud):
    """Its kernel accepts connections; it does nothing."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    pid = pid_of(cloud, "fake-0")
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: pid_of(cloud, "fake-0") not in (None, pid), 60, "it to be replaced")
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the stopped one to end")
    cloud.wait_condition("modelendpoints", "demo", "fake")


def test_a_busy_engine_is_not_probed(own_cloud):
    cloud = own_cloud(options={"engine-idle-probe-interval": "1s", "engine-probe-interval": "50ms"})
    cloud.project("demo")
    events = cloud.dir / "events"
    cloud.fake_endpoint("demo", "fake", event_log=str(events), tokens=200, tokens_per_second=50)
    secret = cloud.key("demo")
    body = json.dumps({"model": "fake", "prompt": "go"}).encode()
    request = urllib.request.Request(cloud.base_url + "/completions", data=body, headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60 * SLOW) as r:
        json.loads(r.read())
    lines = [line.split() for line in events.read_text().splitlines()]
    mine = {}
    for when, what, number in lines:
        mine.setdefault(number, {})[what] = int(when)
    long_one = max((e for e in mine.values() if "done" in e), key=lambda e: e["done"] - e["request"])
    during = [e for e in mine.values() if long_one["first_byte"] < e["request"] < long_one["done"]]
    assert not during, "the engine was probed while it worked"


def test_an_engine_that_crashes_again_and_again(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.create("modelendpoints", "demo", "fake", {"engine": {"driver": "fake", "options": {"noSuchOption": "1"}}})
    cond = cloud.wait_condition("modelendpoints", "demo", "fake", kind="EngineStarted", status="False", reason="CrashLoopBackOff", timeout=60)
    assert "exit code 2" in cond["message"] and "no-such-option" in cond["message"]


# ---- models ----

def test_file_changed_after_verification(own_cloud, tmp_path, stand_in):
    cloud = own_cloud(options={"engine-llama-server": stand_in})
    cloud.project("demo")
    own = own_directory(cloud)
    put_model(cloud, own, content=b"GGUF-good")
    cloud.create("modelendpoints", "demo", "chat", {"model": "m"})
    cloud.wait_condition("modelendpoints", "demo", "chat")
    pid = pid_of(cloud, "chat-0")
    (own / "m.gguf").write_bytes(b"GGUF-evil")
    # Well before the minute after which files are looked at anyway.
    cloud.wait_condition("models", "demo", "m", kind="Verified", status="False", reason="DigestMismatch", timeout=10)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the engine to end")
    assert [p.read_bytes() for p in own.glob("m.gguf.rejected-*")] == [b"GGUF-evil"]
    (own / "m.gguf").write_bytes(b"GGUF-good")
    cloud.wait_condition("modelendpoints", "demo", "chat")


@pytest.mark.parametrize("case", ["missing", "short", "long", "directory", "link-into-data", "data"])
def test_what_is_wrong_with_a_file_is_said(own_cloud, tmp_path, case):
    cloud = own_cloud(options={"model-dirs": tmp_path})
    cloud.project("demo")
    reasons = {"missing": "FileMissing", "short": "FileIncomplete", "long": "SizeMismatch", "directory": "FileMissing", "link-into-data": "SourceForbidden", "data": "SourceForbidden"}
    directory, file, size = tmp_path, "m.gguf", 10
    if case == "short":
        (tmp_path / file).write_bytes(b"x")
    elif case == "long":
        (tmp_path / file).write_bytes(b"x" * 11)
    elif case == "directory":
        (tmp_path / file).mkdir()
    elif case == "link-into-data":
        (tmp_path / file).symlink_to(cloud.data / "pki" / "ca.key")
    elif case == "data":
        directory, file = cloud.data, "pki/ca.key"
    if "data" in case:
        size = (cloud.data / "pki" / "ca.key").stat().st_size
    put_model(cloud, directory, file=file, size=size, digest="0" * 64, write=False)
    cond = cloud.wait_condition("models", "demo", "m", kind="Verified", status="False", reason=reasons[case])
    assert file in cond["message"]
    assert cond["reason"] != "SourceForbidden" or "model-dirs" in cond["message"]
    assert (cloud.data / "pki" / "ca.key").exists()
    assert not list(tmp_path.glob("*.rejected-*"))


def test_the_end_does_not_wait_for_a_hash(own_cloud, tmp_path):
    """A file that would be hashed for many minutes; it takes no room."""
    cloud = own_cloud(options={"model-dirs": tmp_path})
    cloud.project("demo")
    with open(tmp_path / "m.gguf", "wb") as f:
        f.truncate(1 << 40)
    put_model(cloud, tmp_path, size=1 << 40, write=False)
    cloud.wait_condition("models", "demo", "m", kind="Verified", status="Unknown", reason="Verifying")
    cloud.stop(timeout=10)


def test_what_all_use_is_not_moved_by_a_manifest(own_cloud, tmp_path):
    """Nor hashed again and again. One project's wrong manifest does nothing to another's right one."""
    cloud = own_cloud(options={"model-dirs": tmp_path})
    cloud.project("demo")
    cloud.project("rival")
    put_model(cloud, tmp_path, "right", content=b"GGUF")
    cloud.wait_condition("models", "demo", "right", kind="Verified")
    put_model(cloud, tmp_path, "wrong", content=b"GGUF", digest="0" * 64, write=False, ns="rival")
    cloud.wait_condition("models", "rival", "wrong", kind="Verified", status="False", reason="DigestMismatch")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    found, = cloud.get("models", "rival", "wrong")["status"]["verified"]
    assert found["digest"] == "sha256:" + hashlib.sha256(b"GGUF").hexdigest()
    # What is right then is seen.
    (tmp_path / "m.gguf").write_bytes(b"GGUX")
    cloud.api("PATCH", f"{GROUP}/namespaces/demo/models/right", {"metadata": {"labels": {"look": "again"}}}, content_type="application/merge-patch+json")
    cloud.wait_condition("models", "demo", "right", kind="Verified", status="False", reason="DigestMismatch")
    assert (tmp_path / "m.gguf").read_bytes() == b"GGUX"


def test_files_of_the_host_and_of_other_projects_are_nobodys_business(own_cloud, tmp_path):
    """Without a word of the operator: what exists and what does not look the same, and nothing is read or moved."""
    cloud = own_cloud(options={"model-dirs": None})
    cloud.project("demo")
    cloud.project("rival")
    (tmp_path / "there.gguf").write_bytes(b"GGUF")
    (own_directory(cloud, "rival") / "there.gguf").write_bytes(b"GGUF")
    (own_directory(cloud) / "mine.gguf").write_bytes(b"GGUF")
    messages = set()
    for n, directory in enumerate((tmp_path, cloud.data / "models" / "rival", cloud.data / "models" / "nobody", cloud.data / "pki", f"{cloud.data}/models/demo/../rival", "/etc")):
        for file in ("there.gguf", "gone.gguf"):
            name = f"m{n}-{file[0]}"
            put_model(cloud, directory, name, content=b"GGUF", file=file, digest="0" * 64, write=False)
            cond = cloud.wait_condition("models", "demo", name, kind="Verified", status="False", reason="SourceForbidden")
            messages.add(cond["message"].replace(str(directory), "DIR").replace(file, "FILE"))
    assert len(messages) == 1, messages
    assert (tmp_path / "there.gguf").exists() and [p.name for p in own_directory(cloud, "rival").iterdir()] == ["there.gguf"]
    put_model(cloud, own_directory(cloud), "mine", content=b"GGUF", file="mine.gguf", write=False)
    cloud.wait_condition("models", "demo", "mine", kind="Verified")


def test_paths_that_leave_the_source_are_refused(own_cloud, tmp_path):
    cloud = own_cloud()
    cloud.project("demo")
    for name in ("../x", "/etc/passwd", "a/../../x", "a//b", ".", "a/"):
        with pytest.raises(ApiError) as e:
            put_model(cloud, tmp_path, file=name, digest="0" * 64, write=False)
        assert e.value.status == 422 and "spec.files[0].name" in json.dumps(e.value.body)
    for source in ("file://relative", "http://x/y", "/abs"):
        with pytest.raises(ApiError) as e:
            cloud.create("models", "demo", "m", {"source": source, "license": {"id": "t"}, "files": [{"name": "a", "digest": "sha256:" + "0" * 64, "sizeBytes": 1}]})
        assert e.value.status == 422 and "spec.source" in json.dumps(e.value.body)


def test_huge_sizes(own_cloud, tmp_path):
    cloud = own_cloud(options={"model-dirs": tmp_path})
    cloud.project("demo")
    files = [{"name": f"{n}.gguf", "digest": "sha256:" + "0" * 64, "sizeBytes": 2**63 - 1} for n in "abc"]
    (tmp_path / "a.gguf").write_bytes(b"x")
    cloud.create("models", "demo", "m", {"source": f"file://{tmp_path}", "license": {"id": "t"}, "files": files})
    cond = cloud.wait_condition("models", "demo", "m", kind="Verified", status="False", reason="FileIncomplete")
    assert str(2**63 - 1) in cond["message"]
    assert cloud.get("models", "demo", "m")["status"]["totalBytes"] == 2**63 - 1


def test_model_dirs_say_where_models_may_lie(own_cloud, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    cloud = own_cloud(options={"model-dirs": tmp_path / "in"})
    cloud.project("demo")
    put_model(cloud, tmp_path / "in", "good")
    put_model(cloud, tmp_path / "out", "bad")
    (tmp_path / "in" / "link.gguf").symlink_to(tmp_path / "out" / "m.gguf")
    put_model(cloud, tmp_path / "in", "link", file="link.gguf", write=False)
    cloud.wait_condition("models", "demo", "good", kind="Verified")
    for name in ("bad", "link"):
        cond = cloud.wait_condition("models", "demo", name, kind="Verified", status="False", reason="SourceForbidden")
        assert "model-dirs" in cond["message"]
