"""Backups of a running Seki and their restoring on an empty machine: nothing acknowledged is lost, nobody goes back in time, and a wrong, cut or altered file is named and harms nothing."""
import base64
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time

import pytest

import ocsf
from cloud import SEKI, SEKID, ApiError, Cloud, wait_for


def run(*args, check=True):
    p = subprocess.run([str(SEKI), *map(str, args)], capture_output=True, text=True, timeout=300)
    if check:
        assert p.returncode == 0, p.stdout + p.stderr
    return p


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def records(directory):
    return [json.loads(line) for line in run("audit", "export", directory / "ledger", "--format", "json").stdout.splitlines()]


def standing(directory):
    """Writes by revision, without those that were undone."""
    found = {}
    for r in records(directory):
        if r["type"] == "undone":
            found = {rev: v for rev, v in found.items() if not r["rev"] <= rev <= r["last_rev"]}
        elif r["type"] == "write":
            found[r["rev"]] = r
    return found


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "backup.key"
    run("backup", "keygen", path)
    return path


@pytest.fixture(scope="module")
def backup(tmp_path_factory, key):
    """A backup of a small cloud that ran meanwhile."""
    path = tmp_path_factory.mktemp("backup") / "seki.backup"
    with Cloud() as c:
        c.project("small")
        c.api("POST", "/api/v1/namespaces/small/configmaps", config_map("kept", canary="canary-in-the-store"))
        run("break-glass", "--reason", "an access that is ended may not come back", "--data", c.data)
        run("backup", path, "--key", key, "--data", c.data, "--with-root-key")
        assert not (c.data / "run" / "backup").exists() and not path.with_suffix(".backup.tmp").exists()
    return path


class Writer(threading.Thread):
    """Writes one object after the other until it is stopped or the daemon is gone; remembers when each was begun and acknowledged."""

    def __init__(self, cloud, ns):
        super().__init__()
        self.cloud, self.ns, self.acknowledged, self.ending = cloud, ns, {}, threading.Event()

    def run(self):
        n = 0
        while not self.ending.is_set():
            n += 1
            begun = time.monotonic()
            try:
                made = self.cloud.api("POST", f"/api/v1/namespaces/{self.ns}/configmaps", config_map(f"w{n}", n=str(n)))
            except (ApiError, OSError):
                return
            self.acknowledged[made["metadata"]["name"]] = (begun, time.monotonic(), made["metadata"])


def ask(cloud, secret, **more):
    import urllib.request
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}).encode()
    request = urllib.request.Request(cloud.base_url + "/chat/completions", data=body, headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as r:
        return json.loads(r.read())


def usage_of(cloud, ns):
    p = cloud.seki("usage", "-n", ns, "-o", "json")
    return json.loads(p.stdout)


def first_event(cloud, rv):
    """What a watch from that revision is told first: its type and code."""
    try:
        text = cloud.api("GET", f"/api/v1/namespaces/drill/configmaps?watch=1&resourceVersion={rv}&timeoutSeconds=2", raw=True)
    except ApiError as e:
        return "ERROR", e.status
    line = text.splitlines()[0] if text.strip() else b"{}"
    doc = json.loads(line)
    return doc.get("type"), doc.get("object", {}).get("code")


def test_drill_backup_under_load_lost_machine_restore(own_cloud, key, tmp_path):
    cloud = own_cloud()
    cloud.project("drill")
    cloud.fake_endpoint("drill")
    secret = cloud.key("drill")
    ask(cloud, secret)
    cloud.api("POST", "/api/v1/namespaces/drill/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "canary-of-the-drill"}})
    writers = [Writer(cloud, "drill")]
    for w in writers:
        w.start()
    wait_for(lambda: len(writers[0].acknowledged) >= 20, what="writes")
    begun = time.monotonic()
    file = tmp_path / "seki.backup"
    run("backup", file, "--key", key, "--data", cloud.data)
    ended = time.monotonic()
    have = len(writers[0].acknowledged)
    wait_for(lambda: len(writers[0].acknowledged) >= have + 20, what="writes after the backup")
    cloud.process.kill()
    lost_at = time.monotonic()
    for w in writers:
        w.join()
    cloud.process.wait()
    run_sekid = subprocess.run([str(SEKID), f"--data={cloud.data}", "--stop-engines"], capture_output=True, text=True, timeout=60)  # they died with the machine
    assert run_sekid.returncode == 0, run_sekid
    # Only the file, its key and a copy of the root key are left.
    root_key = (cloud.data / "secrets" / "root.key").read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600 and b"canary" not in file.read_bytes()
    other = Cloud()
    said = run("restore", file, "--key", key, "--data", other.data).stdout
    assert "goes on behind revision" in said
    before_start = standing(other.data)
    assert "root key" in said and not (other.data / "secrets").exists()
    (other.data / "secrets").mkdir(mode=0o700)
    (other.data / "secrets" / "root.key").write_bytes(root_key)
    os.chmod(other.data / "secrets" / "root.key", 0o600)
    try:
        other.start()
        wait_for(lambda: other.gateway_status("/models", secret) == 200, what="the old key to be known")

        def answers():
            try:
                return ask(other, secret)
            except OSError:
                return None
        wait_for(answers, 60, "an answer")
        back_at = time.monotonic()
        stored = {o["metadata"]["name"]: o["metadata"] for o in other.api("GET", "/api/v1/namespaces/drill/configmaps")["items"]}
        must = {n: m for n, (_, acked, m) in writers[0].acknowledged.items() if acked <= begun}
        gone = {n: m for n, (_, acked, m) in writers[0].acknowledged.items() if n not in stored}
        assert must and {n: (m["uid"], m["resourceVersion"]) for n, m in must.items()}.items() <= {n: (m["uid"], m["resourceVersion"]) for n, m in stored.items()}.items()
        assert gone and all(writers[0].acknowledged[n][1] > begun for n in gone)
        lost_revisions = {int(m["resourceVersion"]) for m in gone.values()}
        # Every object in the store has the record of its write; what was lost has none that stands.
        for name, m in stored.items():
            if name.startswith("w"):
                assert before_start[int(m["resourceVersion"])]["name"] == name
        assert not lost_revisions & set(before_start)
        assert run("audit", "verify", other.data / "ledger").returncode == 0
        (restored,) = [r for r in records(other.data) if r["type"] == "restored"]
        assert restored["rev"] > max(lost_revisions) and restored["last_rev"] < min(lost_revisions)
        # Nobody goes back in time.
        now = int(other.api("GET", "/api/v1/namespaces/drill/configmaps")["metadata"]["resourceVersion"])
        assert now >= restored["rev"]
        for rv in (1, max(int(m["resourceVersion"]) for m in must.values()), max(lost_revisions), max(lost_revisions) + 1000):
            assert first_event(other, rv) == ("ERROR", 410), rv
        # What was sealed in the store can be read; usage of before is there, and counted once.
        got = other.api("GET", "/api/v1/namespaces/drill/secrets/s")
        assert base64.b64decode(got["data"]["password"]) == b"canary-of-the-drill"
        made = other.api("POST", "/api/v1/namespaces/drill/configmaps", config_map("after"))
        assert int(made["metadata"]["resourceVersion"]) > now - 1
        wait_for(lambda: sum(r.get("requests", 0) for r in json_usage(other)) == 2, what="two requests counted")
        print(f"\nRPO: {len(gone)} acknowledged writes of the {lost_at - ended:.1f} s since the backup ended; backup took {ended - begun:.2f} s; "
              f"RTO: {back_at - lost_at:.1f} s from the loss to an answer at the gateway, {len(stored)} objects")
    finally:
        other.__exit__(None, None, None)


def json_usage(cloud):
    items = cloud.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/drill/usagereports")["items"]
    return [line for o in items for line in o.get("status", {}).get("lines", o.get("status", {}).get("items", []))] or [o.get("status", {}) for o in items]


def test_verify_and_what_is_in_it(backup, key, tmp_path):
    assert "is whole" in run("backup", "verify", backup, "--key", key).stdout
    manifest = json.loads(run("backup", "verify", backup, "--key", key, "-o", "json").stdout)
    paths = {f["path"] for f in manifest["files"]}
    assert {"seki.db", "secrets/root.key", "pki/ca.key", "pki/pepper", "ledger/audit.000001", "ledger/usage.000001"} <= paths
    assert not [p for p in paths if p.startswith(("run/", "log/", "models/", "break-glass/")) or p.endswith((".lock", "-wal"))]
    names = [e["name"] for e in manifest["ledgers"]]
    assert names.index("usage") < min(i for i, n in enumerate(names) if "-" in n)
    assert manifest["store"]["revision"] > 0 and manifest["release"]


def test_a_backup_that_was_opened_has_no_secret_without_the_root_key(own_cloud, key, tmp_path):
    """Who has the file and its key has names and configuration, and no secret: that takes the root key, which lies elsewhere."""
    cloud, file, data = own_cloud(), tmp_path / "x.backup", tmp_path / "data"
    cloud.project("sealed")
    cloud.api("POST", "/api/v1/namespaces/sealed/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "named"}, "stringData": {"password": "canary-of-a-secret"}})
    run("backup", file, "--key", key, "--data", cloud.data)
    run("restore", file, "--key", key, "--data", data)
    blob = b"".join(p.read_bytes() for p in data.rglob("*") if p.is_file())
    assert b"secrets/sealed/named" in blob and not (data / "secrets" / "root.key").exists()
    for cut in range(3):
        middle = b"canary-of-a-secret"[cut:]
        assert base64.b64encode(middle[:len(middle) // 3 * 3]) not in blob
    assert b"canary-of-a-secret" not in blob


def expect_refused(words, *args, data):
    before = sorted(str(p) for p in data.rglob("*")) if data.exists() else None
    p = run(*args, check=False)
    assert p.returncode == 1 and all(w in p.stderr for w in words), p.stderr
    assert (sorted(str(x) for x in data.rglob("*")) if data.exists() else None) == before


def test_a_wrong_key_a_cut_and_an_altered_file_are_named(backup, key, tmp_path):
    data, text, bad = tmp_path / "data", backup.read_bytes(), tmp_path / "bad.backup"
    other = tmp_path / "other.key"
    run("backup", "keygen", other)
    expect_refused(["another key"], "restore", backup, "--key", other, "--data", data, data=data)
    assert "another key" in run("backup", "verify", backup, "--key", other, check=False).stderr
    for size in (0, 40, 64, 1000, len(text) // 2, 64 + 65552, len(text) - 1):
        bad.write_bytes(text[:size])
        expect_refused([str(bad)], "restore", bad, "--key", key, "--data", data, data=data)
    assert "cut off" in run("backup", "verify", bad, "--key", key, check=False).stderr
    for at in (30, 100, len(text) // 2, len(text) - 5):
        bad.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1:])
        expect_refused([str(bad)], "restore", bad, "--key", key, "--data", data, data=data)
    bad.write_bytes(text[:8] + b"\x02" + text[9:])
    expect_refused(["newer release"], "restore", bad, "--key", key, "--data", data, data=data)
    bad.write_bytes(b"PK\x03\x04 something else" * 100)
    expect_refused(["no sealed file"], "restore", bad, "--key", key, "--data", data, data=data)
    expect_refused(["No such file"], "restore", tmp_path / "none", "--key", key, "--data", data, data=data)
    os.chmod(other, 0o644)
    expect_refused(["chmod 600"], "restore", backup, "--key", other, "--data", data, data=data)


def test_nothing_is_written_over(backup, key, tmp_path, own_cloud):
    data = tmp_path / "data"
    data.mkdir()
    (data / "mine").write_text("x")
    expect_refused(["not empty", "mine"], "restore", backup, "--key", key, "--data", data, data=data)
    cloud = own_cloud()
    p = run("restore", backup, "--key", key, "--data", cloud.data, check=False)
    assert p.returncode == 1 and "a sekid runs on" in p.stderr
    p = run("backup", backup, "--key", key, "--data", cloud.data, check=False)
    assert p.returncode == 1 and "there already" in p.stderr
    p = run("backup", "keygen", key, check=False)
    assert p.returncode == 1 and "there already" in p.stderr
    p = run("backup", cloud.data / "x.backup", "--key", key, "--data", cloud.data, check=False)
    assert p.returncode == 1 and "elsewhere" in p.stderr


def test_a_restore_that_was_killed_keeps_sekid_away_and_is_repeated(backup, key, tmp_path):
    c = Cloud()
    (c.data / ".restoring" / "new" / "ledger").mkdir(parents=True)
    (c.data / ".restoring" / "moving").write_text("ledger/pki/")
    (c.data / "pki").mkdir()
    (c.data / "pki" / "half").write_text("x")
    c.start(wait=False)
    assert c.process.wait(60) == 2 and "restore that was not finished" in c.tail()
    run("restore", backup, "--key", key, "--data", c.data)
    assert not (c.data / ".restoring").exists() and not (c.data / "pki" / "half").exists()
    try:
        c.start()
        assert c.api("GET", "/api/v1/namespaces/small/configmaps/kept")["data"] == {"canary": "canary-in-the-store"}
    finally:
        c.__exit__(None, None, None)


def test_a_repeated_restore_deletes_nothing_that_somebody_else_has_put_there(backup, key, tmp_path):
    """A restore was killed; whoever finds the root key on the machine then must find it there after the next one, too: it may be the only copy."""
    data = tmp_path / "data"
    (data / ".restoring" / "new" / "secrets").mkdir(parents=True)
    (data / ".restoring" / "moving").write_text("ledger/pki/secrets/")
    (data / "pki").mkdir()
    (data / "secrets").mkdir()
    (data / "secrets" / "root.key").write_text("the only copy")
    p = run("restore", backup, "--key", key, "--data", data, check=False)
    assert p.returncode == 1 and "not empty: secrets is there" in p.stderr, p.stderr
    assert (data / "secrets" / "root.key").read_text() == "the only copy" and not (data / "pki").exists() and (data / ".restoring").exists()
    (data / "secrets").rename(tmp_path / "secrets")
    run("restore", backup, "--key", key, "--data", data)
    assert not (data / ".restoring").exists() and (data / "seki.db").exists()


def test_what_appears_while_a_restore_runs_stays(backup, key, tmp_path):
    """Whatever the instant: either the restore is refused and the file is there, or it was done before."""
    refused = 0
    for i in range(12):
        data = tmp_path / f"data{i}"
        p = subprocess.Popen([str(SEKI), "restore", str(backup), "--key", str(key), "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: (data / ".restoring" / "new").exists() or p.poll() is not None, what="the restore to begin")
        try:
            (data / "secrets").mkdir()
            (data / "secrets" / "root.key").write_text("mine")
        except FileExistsError:
            p.communicate(timeout=60)
            continue
        err = p.communicate(timeout=60)[1]
        assert (data / "secrets" / "root.key").read_text() == "mine", err
        if p.returncode:
            assert "secrets" in err, err
            assert not (data / "seki.db").exists() and not (data / "pki").exists()
            refused += 1
    assert refused


def killed(seconds, *args):
    p = subprocess.Popen([str(SEKI), *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        p.wait(seconds)  # the instant is what is tried, not what is waited for
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()


def test_killed_at_any_instant_there_is_all_or_nothing(own_cloud, key, tmp_path):
    cloud, file, data = own_cloud(), tmp_path / "x.backup", tmp_path / "data"
    began = time.monotonic()
    run("backup", file, "--key", key, "--data", cloud.data)
    took = time.monotonic() - began
    whole = file.rename(tmp_path / "whole.backup")
    for i in range(8):
        killed(took * i / 6, "backup", file, "--key", key, "--data", cloud.data)
        if file.exists():
            run("backup", "verify", file, "--key", key)
            file.unlink()
    run("backup", file, "--key", key, "--data", cloud.data)
    began = time.monotonic()
    run("restore", whole, "--key", key, "--data", tmp_path / "first")
    took = time.monotonic() - began
    names = {"seki.db", "pki", "ledger"}
    for i in range(10):
        killed(took * i / 8, "restore", whole, "--key", key, "--data", data)
        there = {p.name for p in data.iterdir()} if data.exists() else set()
        assert not there or ".restoring" in there or names <= there, there
        if names <= there and ".restoring" not in there:
            run("audit", "verify", data / "ledger")
        else:
            run("restore", whole, "--key", key, "--data", data)
        shutil.rmtree(data)


def test_a_file_that_is_no_cut_backup_is_not_written_over(own_cloud, key, tmp_path):
    cloud, file = own_cloud(), tmp_path / "x.backup"
    (tmp_path / "x.backup.tmp").write_text("somebody's own")
    p = run("backup", file, "--key", key, "--data", cloud.data, check=False)
    assert p.returncode == 1 and "x.backup.tmp" in p.stderr and "no backup that was cut off" in p.stderr, p.stderr
    assert (tmp_path / "x.backup.tmp").read_text() == "somebody's own" and not file.exists()
    for begun in (b"", b"SEKI", b"SEKISEAL and what followed"):
        (tmp_path / "x.backup.tmp").write_bytes(begun)
        run("backup", file, "--key", key, "--data", cloud.data)
        assert not (tmp_path / "x.backup.tmp").exists()
        file.unlink()


def test_the_same_backup_twice_has_other_revisions(backup, key, tmp_path):
    revisions = []
    for name in ("a", "b"):
        run("restore", backup, "--key", key, "--data", tmp_path / name)
        (r,) = [r for r in records(tmp_path / name) if r["type"] == "restored"]
        revisions.append(r["rev"])
        assert "restored" in ocsf.judge(json.loads(line) for line in run("audit", "export", tmp_path / name / "ledger").stdout.splitlines())
    assert 2 ** 53 > revisions[1] > revisions[0] > 10 ** 15


def test_a_directory_of_backups_keeps_the_newest(own_cloud, key, tmp_path):
    cloud = own_cloud()
    (tmp_path / "seki-notours.backup").write_text("x")
    for day in range(1, 5):
        (tmp_path / f"seki-2020010{day}T000000Z.backup").write_text("old")
    run("backup", tmp_path, "--key", key, "--data", cloud.data, "--keep", "3")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 4 and "seki-notours.backup" in names and names[0] == "seki-20200103T000000Z.backup", names
    run("backup", "verify", tmp_path / [n for n in names if n.startswith("seki-2") and "2020" not in n][0], "--key", key)


def test_a_metric_tells_when_the_newest_backup_was_taken(own_cloud, key, tmp_path):
    cloud = own_cloud()

    def last():
        (line,) = [x for x in cloud.metrics().splitlines() if x.startswith("seki_backup_last_success_timestamp_seconds ")]
        return float(line.split()[1])
    assert last() == 0
    run("backup", tmp_path / "no" / "directory", "--key", key, "--data", cloud.data, check=False)
    assert last() == 0
    begun = time.time()
    run("backup", tmp_path / "a.backup", "--key", key, "--data", cloud.data)
    taken = last()
    assert begun - 1 <= taken <= time.time()
    assert run("backup", tmp_path / "a.backup", "--key", key, "--data", cloud.data, check=False).returncode == 1
    assert last() == taken
    cloud.kill_role("control")
    cloud.wait_ready()
    assert last() == taken
    (cloud.data / "run" / "last-backup.json").write_text("{")
    assert last() == 0
