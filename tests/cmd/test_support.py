"""seki support-bundle: what is in it, and that nothing of a customer is: canaries in every place where content, keys and Secrets are."""
import base64
import json
import os
import subprocess
import tarfile
import urllib.error
import urllib.request

import pytest

from cloud import SEKI, Cloud, wait_for

CANARY = "canary9f27"


def bundle(c, name, *args, check=True):
    path = c.dir / f"{name}.tar.gz"
    p = c.seki("support-bundle", f"--data={c.data}", f"--log={c.log}", *args, str(path), check=check)
    return path, p


def files(path):
    """Name to bytes; and Python's tar has no complaints."""
    with tarfile.open(path) as t:
        assert all(m.isfile() and m.mode == 0o600 and not m.name.startswith(("/", "..")) for m in t.getmembers())
        return {m.name: t.extractfile(m).read() for m in t.getmembers()}


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """A cloud in which somebody has worked: prompts, keys, Secrets, tokens, a broken manifest, annotations, an engine that fails loudly."""
    top = tmp_path_factory.mktemp("lived")
    manifests = top / "manifests"
    manifests.mkdir()
    with Cloud(options={"manifests": manifests}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=5)
        c.secrets = {"api key": c.key("demo", "first")}
        data = json.dumps({"model": "fake", "messages": [{"role": "user", "content": f"prompt {CANARY}"}], "user": CANARY}).encode()
        for model in ("fake", f"no-such-{CANARY}"):
            request = urllib.request.Request(f"{c.base_url}/chat/completions?x={CANARY}", data=data.replace(b'"fake"', f'"{model}"'.encode()),
                                             headers={"Authorization": f"Bearer {c.secrets['api key']}", "Content-Type": "application/json", "X-Request-Id": CANARY})
            try:
                urllib.request.urlopen(request, timeout=30).read()
            except urllib.error.HTTPError as e:
                assert e.code == 404
        meta = {"name": "mine", "namespace": "demo", "annotations": {"note": CANARY}, "labels": {"note": CANARY}}
        c.api("POST", "/api/v1/namespaces/demo/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"apiKey": CANARY}})
        c.api("POST", "/api/v1/namespaces/demo/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {CANARY: CANARY}})
        c.secrets["token"] = c.api("POST", "/api/v1/namespaces/demo/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
        c.kubectl("-n", "demo", "annotate", "modelendpoint", "fake", f"note={CANARY}")
        c.create("modelendpoints", "demo", "far", {"servedName": CANARY, "engine": {"driver": "openai", "url": f"http://127.0.0.1:1/{CANARY}", "secret": "mine", "remoteModel": CANARY}})
        c.wait_condition("modelendpoints", "demo", "far", status="False")
        (manifests / "broken.yaml").write_text(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: x, namespace: demo}}\ndata: {{apiKey: '{CANARY}!'}}\nunknown-{CANARY}: {CANARY}\n")
        c.process.send_signal(1)
        wait_for(lambda: b"manifests" in readyz(c), what="the manifest to be refused")
        with open(c.data / "log" / "mr-demo-loud-0-00000000.log", "w") as f:
            f.write(f"llama_model_loader: - kv 3: tokenizer.chat_template str = \"{CANARY}\"\nslot launch: prompt {CANARY}\n{CANARY}\nggml_cuda_init: out of memory\n")
        for key in ("ca.key", "apiserver.key", "admin.key", "gateway.key", "service-accounts.key"):
            lines = (c.data / "pki" / key).read_text().splitlines()
            c.secrets[key] = lines[1]
        c.secrets["pepper"] = base64.b64encode((c.data / "pki" / "pepper").read_bytes()).decode()
        yield c


def readyz(c):
    try:
        return urllib.request.urlopen(f"http://{c.address('metrics')}/readyz", timeout=10).read()
    except urllib.error.HTTPError as e:
        return e.read()


def test_nothing_of_a_customer_is_in_it(lived):
    parts = files(bundle(lived, "canaries")[0])
    whole = b"".join(parts.values())
    assert len(parts) > 15
    for what, secret in {**lived.secrets, "content": CANARY, "content in base64": base64.b64encode(CANARY.encode()).decode()}.items():
        for name, text in parts.items():
            assert secret.encode() not in text, f"{what} is in {name}"
    # The first characters of a key and its hash tell nobody anything, and are left out too.
    stored = lived.get("apikeys", "demo", "first")["status"]
    assert stored["hash"].encode() not in whole and stored["prefix"].encode() not in whole
    assert b"BEGIN" not in whole and b"PRIVATE" not in whole and (lived.data / "pki" / "pepper").read_bytes() not in whole
    assert CANARY in lived.log.read_text(errors="replace") or CANARY.encode() in readyz(lived)  # the canary did sing


def test_what_a_case_needs_is_in_it(lived):
    parts = files(bundle(lived, "case")[0])
    manifest = json.loads(parts["manifest.json"])
    assert {p["name"] for p in manifest["parts"]} >= {"system.txt", "config.txt", "disk.txt", "cgroups.txt", "ledgers.jsonl", "control/readyz.txt", "control/metrics.txt", "gateway/metrics.txt",
                                                     "objects/modelendpoints.jsonl", "logs/sekid.jsonl"}
    assert not [p for p in manifest["parts"] if "missing" in p], manifest
    assert manifest["seki"] and b"kernel Linux" in parts["system.txt"] and b"seki_store_writable 1" in parts["control/metrics.txt"]
    assert b"[-]manifests failed (the message is left out)" in parts["control/readyz.txt"] and b"[+]store ok" in parts["control/readyz.txt"]
    endpoints = {e["metadata"]["name"]: e for e in map(json.loads, parts["objects/modelendpoints.jsonl"].splitlines())}
    assert endpoints["fake"]["status"]["readyReplicas"] == 1
    assert {c["type"]: c["reason"] for c in endpoints["far"]["status"]["conditions"]}["Ready"] == lived.condition("modelendpoints", "demo", "far")["reason"]
    assert "objects/secrets.jsonl" not in parts and b'"mine"' in parts["objects/configmaps.jsonl"]
    lines = [json.loads(line) for line in parts["logs/sekid.jsonl"].splitlines()]
    assert any(line["msg"] == "control is ready" for line in lines) and any(line.get("request", line.get("id", "")).startswith("req-") for line in lines)
    assert parts["logs/mr-demo-loud-0-00000000.log"] == b'llama_model_loader: - kv 3: tokenizer.chat_template str = ""\nggml_cuda_init: out of memory\n# 2 of the last 4 lines\n'
    ledgers = {x["ledger"]: x for x in map(json.loads, parts["ledgers.jsonl"].splitlines())}
    assert ledgers["usage-gateway"]["lastSequence"] >= 1 and len(ledgers["usage-gateway"]["lastHash"]) == 64
    assert b"gateway.drain = 600000 ms" in parts["config.txt"]


def test_texts_are_in_it_when_asked_for(lived):
    parts = files(bundle(lived, "texts", "--texts")[0])
    assert b'"message":' in parts["objects/modelendpoints.jsonl"] and b'"error":' in parts["logs/sekid.jsonl"]
    assert json.loads(parts["manifest.json"])["texts"] is True
    assert all(s.encode() not in b"".join(parts.values()) for s in lived.secrets.values())


def test_the_file_is_its_owners_and_overwrites_nothing(lived):
    path, p = bundle(lived, "once")
    assert path.stat().st_mode & 0o777 == 0o600 and p.stdout.strip() == str(path)
    assert "control/metrics.txt" in p.stderr and "KiB" in p.stderr  # progress
    before = path.read_bytes()
    again = bundle(lived, "once", check=False)[1]
    assert again.returncode == 1 and "nothing is overwritten" in again.stderr and path.read_bytes() == before
    assert not list(path.parent.glob("*.part"))


def test_it_is_made_when_nothing_runs(lived, tmp_path):
    """From a copy of the data directory, as after a crash: what cannot be had is named."""
    copy = tmp_path / "data"
    subprocess.run(["cp", "-a", str(lived.data), str(copy)], check=True)
    for name in ("metrics", "metrics-gateway"):
        (copy / "run" / f"{name}.addr").write_text("127.0.0.1:1\n")
    text = (copy / "admin.kubeconfig").read_text()
    (copy / "admin.kubeconfig").write_text(text.replace(lived.address("api"), "127.0.0.1:1"))
    p = subprocess.run([str(SEKI), "support-bundle", f"--data={copy}", f"--log={lived.log}", str(tmp_path / "b.tar.gz"), "-o", "json"], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0 and json.loads(p.stdout)["bytes"] > 0, p.stderr
    missing = {x["name"] for x in json.loads(files(tmp_path / "b.tar.gz")["manifest.json"])["parts"] if "missing" in x}
    assert missing >= {"control/metrics.txt", "gateway/readyz.txt", "objects/models.jsonl"} and "ledgers.jsonl" not in missing


def test_a_wrong_directory_is_named(tmp_path):
    p = subprocess.run([str(SEKI), "support-bundle", "--data=/nonexistent", str(tmp_path / "b.tar.gz")], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "cannot read /nonexistent" in p.stderr and not list(tmp_path.iterdir())


def test_a_large_log_is_cut(lived, tmp_path):
    """Its last lines stay."""
    log = tmp_path / "large.log"
    os.makedirs(tmp_path / "data" / "run")
    (tmp_path / "data" / "run" / "metrics.addr").write_text("192.0.2.1:80\n")  # asked by nobody
    line = '{"ts":"2026-01-01T00:00:00.000000Z","level":"info","component":"control","msg":"%s","n":%d}\n'
    with open(log, "w") as f:
        for n in range(200000):
            f.write(line % ("a sentence of some length that is in the sources", n))
    p = subprocess.run([str(SEKI), "support-bundle", f"--data={tmp_path}/data", f"--log={log}", str(tmp_path / "b.tar.gz")], capture_output=True, text=True, timeout=240)
    assert p.returncode == 0, p.stderr
    parts = files(tmp_path / "b.tar.gz")
    kept, why = parts["logs/sekid.jsonl"], {p["name"]: p.get("missing", "") for p in json.loads(parts["manifest.json"])["parts"]}
    assert "no loopback address" in why["control/metrics.txt"]
    assert len(kept) <= 8 << 20 and json.loads(kept.splitlines()[-1])["n"] == 199999
