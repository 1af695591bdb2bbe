"""Backups of clusters, with real programs: taken, opened, refused, restored, rehearsed."""
import base64
import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

import kube
from cloud import GROUP, KUBECTL, wait_for
from jumpy import Jumpy

pytestmark = pytest.mark.kube
CANARY = "canary-of-the-shop-7f3a"


@pytest.fixture(scope="module")
def served(kubernetes):
    with kube.cloud(kubernetes, kubernetes_drill_interval="20s", kubernetes_key_overlap="2s") as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    c = kube.Cluster(served, "demo", "one", {"backup": {"intervalSeconds": 0, "keep": 3}})
    c.wait()
    c.kubectl("create", "namespace", "shop")
    c.kubectl("-n", "shop", "create", "secret", "generic", "canary", f"--from-literal=a={CANARY}")
    return c


def backups(cluster):
    return cluster.cloud.data / "cluster-backups" / cluster.uid


def backup(cluster):
    served = cluster.cloud
    return json.loads(served.seki("-n", cluster.ns, "cluster", "backup", cluster.name, "--timeout", "60s", "-o", "json").stdout)


class Informer(threading.Thread):
    """Lists and watches ConfigMaps as informers do: over again from a list whenever a watch ends. `revisions`: of its lists and events, in order; `seen`: what it holds."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.kubeconfig = cluster, cluster.kubeconfig
        self.revisions, self.seen, self.lists, self.ends = [], {}, 0, threading.Event()
        self.process = None
        self.start()

    def get(self, *args):
        return subprocess.run([KUBECTL, "--kubeconfig", self.kubeconfig, "--request-timeout=5s", "get", "--raw", *args], capture_output=True, text=True, timeout=60)

    def run(self):
        base = "/api/v1/namespaces/shop/configmaps"
        while not self.ends.is_set():
            p = self.get(base)
            if p.returncode:
                self.ends.wait(0.2)
                continue
            doc = json.loads(p.stdout)
            self.seen = {o["metadata"]["name"] for o in doc["items"]}
            self.lists += 1
            self.revisions.append(int(doc["metadata"]["resourceVersion"]))
            self.process = subprocess.Popen([KUBECTL, "--kubeconfig", self.kubeconfig, "get", "--raw", f"{base}?watch=1&resourceVersion={self.revisions[-1]}&timeoutSeconds=60"],
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for line in self.process.stdout:
                e = json.loads(line)
                if e["type"] == "ERROR":
                    break
                self.revisions.append(int(e["object"]["metadata"]["resourceVersion"]))
                {"DELETED": self.seen.discard}.get(e["type"], self.seen.add)(e["object"]["metadata"]["name"])
            self.process.kill()
            self.process.wait()

    def stop(self):
        self.ends.set()
        if self.process:
            self.process.kill()
        self.join(30)


@pytest.mark.core
def test_a_backup_shows_nothing_of_what_is_in_it(served, made):
    b = backup(made)
    file = backups(made) / b["id"]
    assert file.stat().st_mode & 0o777 == 0o600 and file.stat().st_size == b["bytes"] and b["keys"] > 100 and b["revision"] > 0
    raw = file.read_bytes()
    etcd = b"".join(p.read_bytes() for p in (made.directory / "etcd").rglob("*") if p.is_file())
    key = base64.b64decode(served.api("GET", "/api/v1/namespaces/demo/secrets/one-backup-key")["data"]["key"])
    for canary in (CANARY.encode(), b"PRIVATE KEY", b"/registry/"):
        assert canary not in raw, canary
    assert b"/registry/" in etcd, "the search itself"
    for path in (served.data / "log").glob("*"):
        assert key not in path.read_bytes(), path
    assert not (made.directory / "backup").exists(), "the snapshot in the clear is gone"
    # The rehearsals go on meanwhile; one was asked for, and one there is.
    assert [line.split()[0] for line in served.seki("-n", "demo", "cluster", "backups", "one").stdout.splitlines()[1:]] == [b["id"]]


@pytest.mark.core
def test_a_restore_brings_back_what_was_and_no_revision_comes_again(served, made):
    for name in ("kept", "deleted"):
        made.kubectl("-n", "shop", "create", "configmap", name, "--from-literal=a=b")
    taken = backup(made)
    informer = Informer(made)
    try:
        wait_for(lambda: informer.lists and {"kept", "deleted"} <= informer.seen, 60, "the first list")
        made.kubectl("-n", "shop", "delete", "configmap", "deleted")
        made.kubectl("-n", "shop", "create", "configmap", "later", "--from-literal=a=b")
        wait_for(lambda: "later" in informer.seen and "deleted" not in informer.seen, 60, "the watch")
        served.seki("-n", "demo", "cluster", "restore", "one", "--from", taken["id"])
        assert "deleted" in made.kubectl("-n", "shop", "get", "configmaps", "-o", "name").stdout
        assert made.kubectl("-n", "shop", "get", "configmap", "later", check=False).returncode == 1
        assert CANARY == base64.b64decode(made.kubectl("-n", "shop", "get", "secret", "canary", "-o", "jsonpath={.data.a}").stdout).decode()
        wait_for(lambda: "deleted" in informer.seen and "later" not in informer.seen, 60, "the informer to see it")
        # Its controllers work, and what is written now is newer than all that was.
        made.kubectl("create", "namespace", "after")
        wait_for(lambda: "default" in made.kubectl("-n", "after", "get", "serviceaccounts").stdout, 60, "the controllers' ServiceAccount")
        made.kubectl("-n", "shop", "create", "configmap", "newest", "--from-literal=a=b")
        wait_for(lambda: "newest" in informer.seen, 60, "the watch after it")
    finally:
        informer.stop()
    assert informer.revisions == sorted(informer.revisions), informer.revisions
    restore = made.get()["status"]["restore"]
    print(f"restored in {restore['milliseconds']} ms, revision {restore['revision']}")
    assert restore["backup"] == taken["id"] and restore["milliseconds"] > 0
    # The same backup again goes on behind the life that it ended.
    last = int(made.kubectl("-n", "shop", "get", "configmap", "newest", "-o", "jsonpath={.metadata.resourceVersion}").stdout)
    served.seki("-n", "demo", "cluster", "restore", "one", "--from", taken["id"])
    assert int(made.kubectl("-n", "shop", "get", "configmap", "kept", "-o", "jsonpath={.metadata.resourceVersion}").stdout) <= taken["revision"], "an object keeps its own"
    assert int(json.loads(made.kubectl("get", "--raw", "/api/v1/namespaces/shop/configmaps").stdout)["metadata"]["resourceVersion"]) > last
    events = [e["reason"] for e in served.api("GET", "/api/v1/namespaces/demo/events")["items"]]
    assert "ClusterRestored" in events


def damaged(raw, how):
    if how == "cut off":
        return raw[:len(raw) // 2]
    i = len(raw) // 2
    return raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1:]


def keys(cluster):
    return [k["id"] for k in cluster.cloud.api("GET", f"{GROUP}/namespaces/{cluster.ns}/clusterkeys/{cluster.uid}")["spec"]["keys"]]


@pytest.mark.timeout(1200)
def test_a_backup_from_before_another_key_is_good(served, made):
    """Older keys stay as long as a backup needs them, and go with the last such one."""
    old, before = keys(made), backup(made)
    served.seki("secrets", "rotate")
    wait_for(lambda: keys(made)[0] not in old, 60, "another key")
    new = keys(made)[0]
    wait_for(lambda: made.wait(kind="SecretsEncrypted", reason="Encrypted")["message"].endswith(new), 240, "all Secrets under it")
    served.seki("-n", "demo", "cluster", "restore", "one", "--from", before["id"])
    made.wait()
    p = made.kubectl("-n", "shop", "get", "secret", "canary", "-o", "jsonpath={.data.a}")
    assert base64.b64decode(p.stdout).decode() == CANARY and set(old) < set(keys(made))
    wait_for(lambda: made.wait(kind="SecretsEncrypted", reason="Encrypted")["message"].endswith(new), 240, "all Secrets under it again")
    wait_for(lambda: backup(made) and keys(made) == [new], 120, "the older key to go")
    assert base64.b64decode(made.kubectl("-n", "shop", "get", "secret", "canary", "-o", "jsonpath={.data.a}").stdout).decode() == CANARY


@pytest.mark.parametrize("how", ["cut off", "flipped"])
def test_a_damaged_backup_is_refused_by_name(served, made, how):
    b = backup(made)
    file = backups(made) / b["id"]
    file.write_bytes(damaged(file.read_bytes(), how))
    made.wait()
    pids = made.pids()
    p = served.seki("-n", "demo", "cluster", "restore", "one", "--from", b["id"], check=False)
    assert p.returncode == 1 and f"nothing was changed: backup {b['id']}" in p.stderr, p
    made.wait()
    assert made.pids() == pids and not (made.directory / "restore").exists()
    made.kubectl("-n", "shop", "get", "secret", "canary")
    file.unlink()


@pytest.mark.core
def test_what_there_is_not_is_refused(served, made):
    for name, why in (("20200101-000000-000", "there is no backup 20200101-000000-000"), ("../../x", "no name of a backup")):
        p = served.seki("-n", "demo", "cluster", "restore", "one", "--from", name, check=False)
        assert p.returncode == 1 and why in p.stderr, p


def test_backups_are_taken_and_the_oldest_go(served, made):
    served.api("PATCH", made.path, {"spec": {"backup": {"intervalSeconds": 1}}}, "application/merge-patch+json")
    first = made.get()["status"]["backups"][0]["id"]
    wait_for(lambda: len(made.get()["status"]["backups"]) == 3 and made.get()["status"]["backups"][-1]["id"] > first, 90, "three newer backups")
    served.api("PATCH", made.path, {"spec": {"backup": {"intervalSeconds": 0}}}, "application/merge-patch+json")
    wait_for(lambda: [b["id"] for b in made.get()["status"]["backups"]] == sorted((p.name for p in backups(made).iterdir()), reverse=True), 60, "as on disk")
    assert len(list(backups(made).iterdir())) == 3


def test_a_restore_is_rehearsed(served, made):
    drill = wait_for(lambda: made.get()["status"].get("drill"), 60, "a rehearsal")
    c = made.wait(kind="Rehearsed")
    print(c["message"])
    drill = made.get()["status"]["drill"]
    assert drill["keys"] > 100 and drill["milliseconds"] > 0 and "ageSeconds" in drill
    wait_for(lambda: not (made.directory / "drill").exists(), 60, "its files to be gone")
    metrics = served.metrics()
    assert 'seki_cluster_backups_total{result="ok"}' in metrics and "seki_clusters_drill_failed 0" in metrics and "seki_clusters_backup_overdue 0" in metrics


def test_killed_in_the_middle_it_goes_on(served, made):
    b = backup(made)
    made.kubectl("-n", "shop", "create", "configmap", "gone", "--from-literal=a=b")
    served.api("PATCH", made.path, {"metadata": {"annotations": {"seki.cloud/restore": f"{b['id']} again"}}}, "application/merge-patch+json")
    wait_for(lambda: (made.directory / "restore" / "ready").exists(), 60, "the new store to be ready")
    served.stop(signal.SIGKILL)
    served.start()
    wait_for(lambda: made.get()["status"].get("restore", {}).get("request", "").endswith("again") and "milliseconds" in made.get()["status"]["restore"], 120, "the restore")
    made.wait()
    assert made.kubectl("-n", "shop", "get", "configmap", "gone", check=False).returncode == 1
    made.kubectl("-n", "shop", "get", "secret", "canary")


def test_what_is_lost_comes_back_from_a_backup(served, made):
    """Directory, certificates and store: the kubeconfig that was handed out works again."""
    backup(made)
    config = open(made.kubeconfig).read()
    served.stop(signal.SIGINT)
    shutil.rmtree(made.directory)
    served.start()
    made.wait("False", "DataMissing")
    served.seki("-n", "demo", "cluster", "restore", "one")
    made.wait()
    assert open(made.kubeconfig).read() == config
    made.kubectl("-n", "shop", "get", "secret", "canary")


def test_the_newest_is_found_though_the_clock_was_put_back(kubernetes):
    """What was backed up while the clock was an hour ahead is older than all that came after, whatever its name says."""
    with kube.cloud(kubernetes, kind=Jumpy) as c:
        made = kube.Cluster(c, "demo", "two", {"backup": {"intervalSeconds": 0, "keep": 2}})
        made.wait()
        c.jump.write_text("3600\n")
        ahead = [backup(made)["id"] for _ in range(2)]
        c.jump.write_text("0\n")
        made.kubectl("create", "configmap", "later", "--from-literal=a=b")
        newest = backup(made)["id"]
        assert newest < ahead[0], "its name is of an earlier time"
        assert [b["id"] for b in made.get()["status"]["backups"]] == [newest, ahead[1]] and sorted(p.name for p in backups(made).iterdir()) == [newest, ahead[1]]
        made.kubectl("delete", "configmap", "later")
        c.seki("-n", "demo", "cluster", "restore", "two")
        assert made.get()["status"]["restore"]["backup"] == newest
        made.kubectl("get", "configmap", "later")


@pytest.mark.core
def test_deleted_it_leaves_no_backup(served, made):
    """While backups are taken one after the other."""
    first = made.get()["status"]["backups"][0]["id"]
    served.api("PATCH", made.path, {"spec": {"backup": {"intervalSeconds": 1}}}, "application/merge-patch+json")
    wait_for(lambda: made.get()["status"]["backups"][0]["id"] > first, 60, "the first of them")
    made.delete()
    assert not backups(made).exists() and not made.directory.exists() and not list((served.data / "log").glob("kc-demo-one-*"))
    assert "one-backup-key" not in served.kubectl("-n", "demo", "get", "secrets").stdout
    assert not [p for p in os.listdir("/proc") if p.isdigit() and f"{made.uid[:8]}-drill".encode() in open_or(f"/proc/{p}/environ")]


def open_or(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""
