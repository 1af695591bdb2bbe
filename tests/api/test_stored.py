"""What earlier releases stored: every form loads, secrets are sealed in the background, everything goes on, and there is a way back. The archives are made by tests/upgrade/make-stored."""
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import tarfile

import pytest

import ocsf
from cloud import ROOT, SEKI, ApiError, Cloud, wait_for

sys.path.insert(0, str(ROOT / "tests" / "upgrade"))
import data  # noqa: E402

STORED = pathlib.Path(__file__).parent / "stored"
NAMES = sorted(p.stem for p in STORED.glob("*.json"))
RUNTIME = ("events", "leases.coordination.k8s.io", "modelreplicas.seki.cloud", "usagereports.seki.cloud", "modelendpoints.seki.cloud", "models.seki.cloud", "tenants.seki.cloud")  # controllers write them


def run(*args, check=True):
    p = subprocess.run([str(SEKI), *map(str, args)], capture_output=True, text=True, timeout=300)
    assert not check or p.returncode == 0, p.stdout + p.stderr
    return p


def unpacked(name):
    """A cloud, not started, whose data directory is the archive's; and what is known of it."""
    c = Cloud()
    c.data.mkdir(mode=0o700)
    with tarfile.open(STORED / f"{name}.tar.xz") as t:
        t.extractall(c.data)
    for path in c.data.rglob("*"):
        os.chmod(path, 0o700 if path.is_dir() else 0o600)
    return c, json.loads((STORED / f"{name}.json").read_text())


def path_of(key):
    """The API's path of a stored object: "roles.rbac.authorization.k8s.io/demo/reader"."""
    kind, ns, name = key.split("/", 2)
    plural, _, group = kind.partition(".")
    versions = {"seki.cloud": "v1alpha1"}
    base = f"/apis/{group}/{versions.get(group, 'v1')}" if group else "/api/v1"
    return f"{base}/namespaces/{ns}/{plural}/{name}" if ns else f"{base}/{plural}/{name}"


def is_within(part, whole):
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and is_within(v, whole[k]) for k, v in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(is_within, part, whole))
    return part == whole


def files_with(directory, text):
    """Relative paths of the files that hold the text, plain or in base64 as it is stored."""
    needles = (text.encode(), data.base64.b64encode(text.encode()))
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and any(n in p.read_bytes() for n in needles))


def records(directory):
    return [json.loads(line) for line in run("audit", "export", directory / "ledger", "--format", "json").stdout.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_stored_loads_and_goes_on(name):
    c, before = unpacked(name)
    old_usage = int((c.data / "ledger" / "usage.000001").exists())
    with c:
        # Every object is as it was; those of controllers are there.
        for key, doc in before["objects"].items():
            if key.startswith("seki:"):
                continue
            got = c.api("GET", path_of(key))
            assert got["metadata"]["uid"] == doc["metadata"]["uid"], key
            if "seki.cloud/made-as" in got["metadata"].get("annotations", {}):
                continue  # a Limit that nobody has changed follows what a tenant has by default now
            if key.split("/")[0] not in RUNTIME and not key.startswith("clusterroles.") and "$sealed" not in doc:
                assert is_within({k: v for k, v in doc.items() if k not in ("metadata", "status")}, got), (key, doc, got)
                assert is_within({k: doc["metadata"].get(k, {}) for k in ("labels", "annotations")}, {"labels": {}, "annotations": {}, **got["metadata"]}), key
        assert data.password(c) == data.PASSWORD
        with pytest.raises(ApiError) as e:
            c.api("GET", f"/api/v1/namespaces/{data.NS}/configmaps/gone")
        assert e.value.status == 404
        # Revisions go on, also of what is read in between.
        made = c.api("POST", f"/api/v1/namespaces/{data.NS}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}})
        assert int(made["metadata"]["resourceVersion"]) > before["revision"]
        assert c.kubectl("get", "configmap", "-n", data.NS, "settings", "-o", "jsonpath={.data.a}").stdout == "1"
        # The old key answers, through an engine that is started anew; usage goes on counting.
        wait_for(lambda: data.answers(c, before["key"]), 60, "an answer with the old key")
        wait_for(lambda: data.requests_counted(c) == old_usage + 1, what="usage to go on")
        if any(key.startswith("prices.") for key in before["objects"]):
            charged = sum(cost["amountMicros"] for key, doc in before["objects"].items() if key.startswith("usagereports.") for line in doc["status"]["items"] for cost in line["cost"])
            assert charged and wait_for(lambda: data.micros_charged(c) > charged, what="money to go on from what was charged")
        assert run("audit", "verify", c.data / "ledger").returncode == 0
        if before["format"] == 1:
            # The way back is there, with what it holds; the store itself has no secret that is not sealed.
            wait_for(lambda: "all secrets are sealed" in c.log.read_text(), what="secrets to be sealed")
            assert (c.data / "rollback" / "seki.db").stat().st_mode & 0o777 == 0o600
            status = json.loads(run("upgrade", "status", "--data", c.data, "-o", "json").stdout)
            assert (status["format"], status["formatNow"], status["revision"]) == (1, 2, before["revision"])
            run("upgrade", "finish", "--data", c.data)
            assert not (c.data / "rollback").exists()
        wait_for(lambda: data.password(c) == data.PASSWORD, what="the secret")


@pytest.fixture
def upgraded():
    """A cloud on data of format 1, upgraded and stopped, with something written since."""
    c, before = unpacked("format-1-b273417")
    try:
        c.start()
        late = c.api("POST", f"/api/v1/namespaces/{data.NS}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}})
        c.api("POST", f"/api/v1/namespaces/{data.NS}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"x": "y"}})
        wait_for(lambda: data.answers(c, before["key"]), 60, "an answer")
        wait_for(lambda: data.requests_counted(c) == 2, what="two requests counted")
        p = run("rollback", "--yes", "--data", c.data, check=False)
        assert p.returncode == 1 and "a sekid runs on" in p.stderr
        c.stop()
        yield c, before, int(late["metadata"]["resourceVersion"])
    finally:
        c.__exit__(None, None, None)


def test_the_way_back(upgraded):
    c, before, lost = upgraded
    assert "rollback/seki.db" in files_with(c.data, data.PASSWORD)  # as it was: not sealed
    now = data.stored(c.data / "seki.db")
    p = run("rollback", "--data", c.data, check=False)
    assert p.returncode == 2 and "--yes" in p.stderr and data.stored(c.data / "seki.db") == now
    said = run("rollback", "--yes", "--data", c.data).stdout
    assert "in format 1" in said and f"{now[1] - before['revision']} revisions" in said and "install the earlier release" in said
    # The store is, to the byte of each object, what the earlier release left; what replaced it is kept apart.
    form, rev, objects = data.stored(c.data / "seki.db")
    assert (form, rev) == (1, before["revision"]) and {k: json.loads(v) for k, v in objects.items()} == before["objects"]
    assert not (c.data / "seki.db-wal").exists() and data.stored(c.data / "rollback" / "replaced.db") == now
    # The ledgers are not put back: they tell of it.
    assert run("audit", "verify", c.data / "ledger").returncode == 0
    undone = records(c.data)[-1]
    assert (undone["type"], undone["rev"]) == ("undone", before["revision"] + 1) and undone["last_rev"] >= lost
    assert undone["name"].startswith("rollback ") and undone["user"]
    assert "undone" in ocsf.judge(json.loads(line) for line in run("audit", "export", c.data / "ledger").stdout.splitlines())
    p = run("rollback", "--yes", "--data", c.data, check=False)
    assert p.returncode == 1 and "rolled back already" in p.stderr
    # And forward again: nobody sees a revision twice, usage was counted once and stays.
    c.start()
    assert data.password(c) == data.PASSWORD
    listed = c.api("GET", f"/api/v1/namespaces/{data.NS}/configmaps")
    assert int(listed["metadata"]["resourceVersion"]) > undone["last_rev"] and "late" not in {o["metadata"]["name"] for o in listed["items"]}
    watched = c.api("GET", f"/api/v1/namespaces/{data.NS}/configmaps?watch=1&resourceVersion={lost}&timeoutSeconds=2", raw=True)
    assert json.loads(watched.splitlines()[0])["object"]["code"] == 410
    wait_for(lambda: data.answers(c, before["key"]), 60, "an answer")
    wait_for(lambda: data.requests_counted(c) == 3, what="usage to go on where it was")
    c.stop()
    assert run("audit", "verify", c.data / "ledger").returncode == 0


def test_a_rollback_that_cannot_be_changes_nothing(upgraded):
    c, before, _ = upgraded
    kept = c.data / "rollback" / "seki.db"
    good, now = kept.read_bytes(), data.stored(c.data / "seki.db")
    at = good.index(b'"metadata"') + 12
    flipped = good[:at] + bytes([good[at] ^ 1]) + good[at + 1:]  # a bit within an object, where SQLite looks at nothing
    digest, changed = c.data / "rollback" / "seki.db.sha256", "not what was kept"
    noted = digest.read_text()
    for bad, word, with_digest in ((flipped, changed, True), (good[:len(good) // 2], changed, True), (good[:len(good) // 2], "malformed", False),
                                   (good[:100] + b"\xff" * 400 + good[500:], "malformed", False), (b"no database", "not a database", False)):
        digest.write_text(noted) if with_digest else digest.unlink(missing_ok=True)  # of an earlier release's there is none
        kept.write_bytes(bad)
        p = run("rollback", "--yes", "--data", c.data, check=False)
        assert p.returncode == 1 and "nothing was rolled back" in p.stderr and word in p.stderr, p.stderr
        assert data.stored(c.data / "seki.db") == now
    kept.write_bytes(good)
    # Killed after the store got its second name and before it was replaced: then that name is removed without its bytes.
    os.link(c.data / "seki.db", c.data / "rollback" / "replaced.db")
    run("upgrade", "finish", "--data", c.data)
    assert data.stored(c.data / "seki.db") == now and not (c.data / "rollback").exists()
    p = run("rollback", "--yes", "--data", c.data, check=False)
    assert p.returncode == 1 and "nothing is kept" in p.stderr
    p = run("upgrade", "status", "--data", c.data / "nowhere", check=False)
    assert p.returncode == 1 and "there is no Seki in this directory" in p.stderr


def test_what_is_kept_goes_after_a_while_and_is_in_no_backup(upgraded, tmp_path):
    c, _, _ = upgraded
    key = tmp_path / "backup.key"
    run("backup", "keygen", key)
    run("backup", tmp_path / "x.backup", "--key", key, "--data", c.data)
    manifest = json.loads(run("backup", "verify", tmp_path / "x.backup", "--key", key, "-o", "json").stdout)
    assert not [f["path"] for f in manifest["files"] if f["path"].startswith("rollback")]
    c.start()
    assert (c.data / "rollback" / "seki.db").exists()
    c.stop()
    os.utime(c.data / "rollback", (0, os.stat(c.data / "rollback").st_mtime - 8 * 86400))
    c.start()
    assert not (c.data / "rollback").exists() and "kept no longer" in c.log.read_text()


def test_a_store_of_this_release_needs_no_way_back(own_cloud):
    c = own_cloud()
    p = run("upgrade", "status", "--data", c.data, check=False)
    assert p.returncode == 1 and "no upgrade has changed" in p.stderr
    assert json.loads(run("upgrade", "status", "--data", c.data, "-o", "json").stdout) == {"kept": False}
    c.stop(signal.SIGTERM)
    c.start()
    assert not (c.data / "rollback").exists()
    # A database of a later format is refused by name, and is as it was.
    c.stop()
    with contextlib.closing(sqlite3.connect(c.data / "seki.db")) as db:
        db.execute("PRAGMA user_version = 99")
    before = (c.data / "seki.db").read_bytes()
    c.start(wait=False)
    wait_for(lambda: "newer release" in c.log.read_text(), what="the refusal")
    c.stop()
    assert (c.data / "seki.db").read_bytes() == before
