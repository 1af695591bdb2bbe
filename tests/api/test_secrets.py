"""Secrets are in no file that can be stolen: sealed per tenant, with a root key in a file or in a token; rotation under kill -9; starts with the wrong root key."""
import base64
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import threading
import time

import pytest

from cloud import GROUP, ApiError, wait_for
from raw import context

MODULE = "/usr/lib/softhsm/libsofthsm2.so"


def b64(text):
    return base64.b64encode(text.encode()).decode()


def make(cloud, ns, name, value, **meta):
    return cloud.api("POST", f"/api/v1/namespaces/{ns}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, **meta}, "stringData": {"password": value}})


def value(cloud, ns, name):
    return base64.b64decode(cloud.api("GET", f"/api/v1/namespaces/{ns}/secrets/{name}")["data"]["password"]).decode()


def files_with(cloud, canary):
    """Files of the data directory that hold the canary in any of the forms that it is written in; engines' own key files are below run/ and asked for on purpose."""
    needles = [canary.encode()]
    for cut in range(3):  # base64 of the middle, at each alignment
        needles.append(base64.b64encode(canary.encode()[cut:cut + (len(canary) - cut) // 3 * 3]))
    found = []
    for path in [*cloud.data.rglob("*"), cloud.log]:
        if path.is_file() and not path.is_socket():
            blob = path.read_bytes()
            found += [str(path)] if any(n in blob for n in needles) else []
    return found


def canary():
    return "canary-" + secrets.token_hex(12)


def keys(cloud, tenant=None):
    return json.loads(cloud.seki("secrets", "status", "-o", "json", *(["--tenant", tenant] if tenant else [])).stdout)


def test_a_stolen_data_directory_has_no_secret(own_cloud):
    cloud = own_cloud()
    word = canary()
    cloud.project("red", tenant="acme")
    make(cloud, "red", "db", word)
    # As kubectl does it: the whole object in an annotation; then server-side, then a patch.
    path = "/api/v1/namespaces/red/secrets/applied"
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "applied", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"stringData": {"a": word}})}}, "data": {"a": b64(word)}}
    cloud.api("PATCH", path + "?fieldManager=me", body, content_type="application/apply-patch+yaml")
    cloud.api("PATCH", path, {"data": {"b": b64(word)}}, content_type="application/merge-patch+json")
    cloud.api("DELETE", path)
    assert value(cloud, "red", "db") == word
    assert any(b"secrets/red/db" in f.read_bytes() for f in cloud.data.glob("seki.db*")), "the secret is where we look"
    assert files_with(cloud, word) == []
    cloud.kill_role("control")
    assert files_with(cloud, word) == []
    cloud.wait_ready()
    assert value(cloud, "red", "db") == word
    cloud.stop(signal.SIGTERM)
    assert files_with(cloud, word) == []
    copy = cloud.dir / "stolen"  # with the root key the same files are everything: it is what is not to be stolen with them
    shutil.copytree(cloud.data, copy, ignore=lambda d, names: [n for n in names if n.endswith(".sock")])
    assert (copy / "secrets" / "root.key").stat().st_mode & 0o777 == 0o600


def test_clients_see_secrets_as_before(cloud):
    cloud.project("plain")
    made = make(cloud, "plain", "s", "one", labels={"app": "x"}, annotations={"note": "kept"})
    path = "/api/v1/namespaces/plain/secrets"
    got = cloud.api("GET", f"{path}/s")
    assert got == made and got["data"] == {"password": b64("one")} and got["metadata"]["annotations"] == {"note": "kept"}
    listed = cloud.api("GET", f"{path}?labelSelector=app%3Dx")["items"]
    assert [{**i, "apiVersion": "v1", "kind": "Secret"} for i in listed] == [got]
    # No-op writes are no writes.
    assert cloud.api("PUT", f"{path}/s", got)["metadata"]["resourceVersion"] == got["metadata"]["resourceVersion"]
    assert cloud.api("PATCH", f"{path}/s", {"data": {"password": b64("one")}}, content_type="application/merge-patch+json")["metadata"]["resourceVersion"] == got["metadata"]["resourceVersion"]
    # Server-side apply: fields have owners, and conflicts are seen.
    applied = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"more": b64("two")}}
    merged = cloud.api("PATCH", f"{path}/s?fieldManager=a", applied, content_type="application/apply-patch+yaml")
    assert merged["data"] == {"password": b64("one"), "more": b64("two")}
    applied["data"]["more"] = b64("three")
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", f"{path}/s?fieldManager=b", applied, content_type="application/apply-patch+yaml")
    assert e.value.status == 409 and "data.more" in json.dumps(e.value.body)
    # A table, metadata alone, a JSON patch.
    table = cloud.api("GET", path, headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
    assert [row["cells"][:3] for row in table["rows"]] == [["s", "Opaque", 2]]
    assert cloud.api("PATCH", f"{path}/s", [{"op": "test", "path": "/data/more", "value": b64("two")}, {"op": "remove", "path": "/data/more"}], content_type="application/json-patch+json")["data"] == {"password": b64("one")}


def test_a_watch_shows_secrets(cloud):
    import http.client
    import urllib.parse
    cloud.project("watched")
    make(cloud, "watched", "s", "one")
    address = urllib.parse.urlsplit(cloud.api_url)
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=context(cloud))
    connection.request("GET", "/api/v1/namespaces/watched/secrets?watch=true&timeoutSeconds=30")
    stream = connection.getresponse()
    first = json.loads(stream.readline())
    assert first["type"] == "ADDED" and first["object"]["data"] == {"password": b64("one")}
    cloud.api("PATCH", "/api/v1/namespaces/watched/secrets/s", {"stringData": {"password": "two"}}, content_type="application/merge-patch+json")
    second = json.loads(stream.readline())
    assert second["type"] == "MODIFIED" and second["object"]["data"] == {"password": b64("two")}
    cloud.api("DELETE", "/api/v1/namespaces/watched/secrets/s")
    third = json.loads(stream.readline())
    assert third["type"] == "DELETED" and third["object"]["data"] == {"password": b64("two")}
    connection.close()


def test_rotation_by_tenant(cloud):
    for ns, tenant in (("left-one", "left"), ("left-two", "left"), ("right", None)):
        cloud.project(ns, tenant=tenant)
        for i in range(30):
            make(cloud, ns, f"s{i}", f"{ns}-{i}")
    p = cloud.seki("secrets", "rotate", "--tenant", "left")
    assert "left" in p.stdout and "right" not in p.stdout
    state = {(k["tenant"], k["version"]): (k["state"], k["objects"]) for k in keys(cloud)}
    assert state[("left", 1)] == ("Retired", 0) and state[("left", 2)] == ("Current", 60) and state[("right", 1)][0] == "Current"
    assert all(value(cloud, ns, f"s{i}") == f"{ns}-{i}" for ns in ("left-one", "left-two", "right") for i in range(30))
    assert "seki_secrets_outdated_objects 0" in cloud.metrics()
    # Who did it is in the ledger, for the tenant too; a dry run makes no keys.
    lines = cloud.seki("audit", "export", str(cloud.data / "ledger"), "--format", "json", "--tenant", "left").stdout.splitlines()
    (r,) = [r for r in map(json.loads, lines) if r["resource"] == "keyrotations"]
    assert r["type"] == "write" and r["name"] == "left" and r["user"] == "admin"
    cloud.api("POST", f"{GROUP}/keyrotations?dryRun=All", {"apiVersion": "seki.cloud/v1alpha1", "kind": "KeyRotation", "spec": {"tenant": "left"}})
    assert max(k["version"] for k in keys(cloud, "left")) == 2
    bad = cloud.seki("secrets", "rotate", "--tenant", "nobody", check=False)
    assert bad.returncode == 1 and "no keys" in bad.stderr


def test_kill_9_in_the_middle_of_a_rotation_loses_nothing(own_cloud):
    cloud = own_cloud()
    cloud.project("red", tenant="acme")
    wanted = {f"s{i}": canary() for i in range(120)}
    for name, word in wanted.items():
        make(cloud, "red", name, word)
    writing = threading.Event()
    written = {}

    def write():
        """Somebody writes all the time; what is acknowledged counts."""
        i = 0
        while not writing.is_set() and i < 5000:
            word = f"{i}-{canary()}"
            try:
                cloud.api("PATCH", "/api/v1/namespaces/red/secrets/s0", {"stringData": {"password": word}}, content_type="application/merge-patch+json")
                written["s0"] = word
            except (OSError, ApiError):
                written.pop("s0", None)  # it may have reached the disk or not
            i += 1
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(4):
            try:
                cloud.api("POST", f"{GROUP}/keyrotations", {"apiVersion": "seki.cloud/v1alpha1", "kind": "KeyRotation", "spec": {"tenant": "acme"}})
            except (OSError, ApiError):
                pass
            cloud.kill_role("control")
            cloud.wait_ready()
    finally:
        writing.set()
        thread.join()
    wanted.update(written)
    if "s0" not in written:
        wanted.pop("s0")
    wait_for(lambda: sum(k["objects"] for k in keys(cloud, "acme") if k["state"] == "Current") == 120, what="all objects under the current key")
    assert {name: value(cloud, "red", name) for name in wanted} == wanted
    assert all(files_with(cloud, word) == [] for word in list(wanted.values())[:3])


def refusal(cloud):
    """What a sekid that does not start says; it is ended."""
    cloud.process = None
    p = subprocess.run(cloud.command("control"), capture_output=True, text=True, timeout=60)
    assert p.returncode == 1, p.stderr[-2000:]
    return p.stderr


def test_without_the_right_root_key_nothing_is_served(own_cloud):
    cloud = own_cloud()
    word = canary()
    cloud.project("red")
    make(cloud, "red", "db", word)
    cloud.stop(signal.SIGTERM)
    root = cloud.data / "secrets" / "root.key"
    good = root.read_bytes()
    root.unlink()
    said = refusal(cloud)
    assert str(root) in said and "root-key" in said and not root.exists()
    root.write_bytes(secrets.token_hex(32).encode() + b"\n")
    root.chmod(0o600)
    assert "not the root key of this store" in refusal(cloud)
    root.write_bytes(good)
    root.chmod(0o640)
    assert "chmod 600" in refusal(cloud)
    root.chmod(0o600)
    assert root.read_bytes() == good
    cloud.start()
    assert value(cloud, "red", "db") == word


@pytest.mark.skipif(not os.path.exists(MODULE) or not shutil.which("softhsm2-util"), reason="no softhsm2 here")
def test_the_root_key_moves_from_a_file_into_a_token(own_cloud, tmp_path, monkeypatch):
    conf, tokens, pin = tmp_path / "softhsm2.conf", tmp_path / "tokens", tmp_path / "pin"
    tokens.mkdir()
    conf.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin.write_text("1234\n")
    pin.chmod(0o600)
    key = tmp_path / "key"
    key.write_text(secrets.token_hex(16))  # text: the tool stops at some bytes of others
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "seki", "--so-pin", "5678", "--pin", "1234"], check=True, capture_output=True)
    subprocess.run(["softhsm2-util", "--import", str(key), "--aes", "--token", "seki", "--label", "root", "--id", "01", "--pin", "1234"], check=True, capture_output=True)
    uri = f"pkcs11:token=seki;object=root?module-path={MODULE}&pin-source=file:{pin}"
    cloud = own_cloud()
    word = canary()
    cloud.project("red")
    make(cloud, "red", "db", word)
    cloud.stop(signal.SIGTERM)
    root = cloud.data / "secrets" / "root.key"
    cloud.options["secrets-root-key"] = uri
    assert "not the root key of this store" in refusal(cloud)
    cloud.options["secrets-old-root-key"] = root
    cloud.start()
    assert value(cloud, "red", "db") == word
    cloud.stop(signal.SIGTERM)
    cloud.options["secrets-old-root-key"] = None
    root.unlink()
    cloud.start()
    assert value(cloud, "red", "db") == word
    make(cloud, "red", "later", word)
    cloud.seki("secrets", "rotate")
    assert value(cloud, "red", "later") == word and "1234" not in cloud.log.read_text()
    cloud.stop(signal.SIGTERM)
    pin.write_text("4321\n")
    said = refusal(cloud)
    assert "PIN is wrong" in said and "4321" not in said


def test_a_pin_in_the_configuration_is_refused(tmp_path):
    from cloud import SEKID
    p = subprocess.run([str(SEKID), f"--data={tmp_path}", "--secrets-root-key=pkcs11:object=root?module-path=/x.so&pin-value=9876", "--check-config"], capture_output=True, text=True)
    assert p.returncode == 2 and "pin-value is refused" in p.stderr and "9876" not in p.stderr
    assert not any(pathlib.Path(tmp_path).iterdir())


def test_what_a_get_costs(cloud):
    """No gate: the figure is for people. Sealed secrets and ConfigMaps of the same size, once decoded."""
    cloud.project("cost")
    make(cloud, "cost", "s", "x" * 200)
    cloud.api("POST", "/api/v1/namespaces/cost/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"password": "x" * 200}})
    for path in ("secrets/s", "configmaps/c"):
        start = time.monotonic()
        for _ in range(50):
            cloud.api("GET", f"/api/v1/namespaces/cost/{path}")
        print(f"{path}: {(time.monotonic() - start) / 50 * 1e6:.0f} us a get, connection included")
