"""Room in a cluster's store, with a real etcd: holes are filled, and a store that says it is full is made room in."""
import json
import subprocess

import pytest

import kube
from cloud import wait_for

pytestmark = pytest.mark.kube
MIB = 1 << 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with kube.cloud(kube.programs(tmp_path_factory.mktemp("programs"))) as c:
        yield kube.Cluster.ready(c, "demo", "one", {"backup": {"intervalSeconds": 0}})


def etcdctl(cluster, *args, input=None):
    address, pki = cluster.get()["status"]["address"], cluster.directory / "pki"
    p = subprocess.run([kube.BUILT / kube.MINOR / "etcdctl", f"--endpoints=https://{address}:2379", f"--cacert={pki}/etcd-ca.crt", f"--cert={pki}/apiserver-etcd-client.crt",
                        f"--key={pki}/apiserver-etcd-client.key", *args], input=input, capture_output=True, timeout=120)
    assert p.returncode == 0, p.stderr
    return p.stdout


def status(cluster):
    text = etcdctl(cluster, "endpoint", "status", "-w", "json").decode()
    s = json.loads(text)[0]["Status"]
    return s["dbSize"], s.get("dbSizeInUse", 0), s["header"]["member_id"], s["header"]["revision"]


def events(cluster):
    return {e["reason"] for e in cluster.cloud.api("GET", f"/api/v1/namespaces/{cluster.ns}/events")["items"] if e["involvedObject"]["name"] == cluster.name}


def test_how_full_it_is_stands_at_the_cluster(made):
    condition = made.wait(kind="StoreSpace", reason="Enough")
    assert condition["message"].endswith(" of 2048 MiB are in use"), condition


def test_a_store_full_of_holes_is_written_anew(made):
    value = b"x" * MIB
    for i in range(80):
        etcdctl(made, "put", f"/left/{i}", input=value)
    assert status(made)[0] > 80 * MIB
    etcdctl(made, "del", "--prefix", "/left/")
    etcdctl(made, "compaction", str(status(made)[3]))
    wait_for(lambda: status(made)[0] < 16 * MIB, 60, "its file to be small")
    made.kubectl("create", "configmap", "after")


def test_a_store_that_says_it_is_full_takes_writes_again(made):
    address, pki = made.get()["status"]["address"], made.directory / "pki"
    p = subprocess.run(["curl", "-sS", "--fail", "--cacert", pki / "etcd-ca.crt", "--cert", pki / "apiserver-etcd-client.crt", "--key", pki / "apiserver-etcd-client.key",
                        f"https://{address}:2379/v3/maintenance/alarm", "-d", json.dumps({"action": "ACTIVATE", "memberID": str(status(made)[2]), "alarm": "NOSPACE"})],
                       capture_output=True, text=True, timeout=30)
    assert p.returncode == 0 and "NOSPACE" in p.stdout, p
    wait_for(lambda: "StoreWasFull" in events(made), 60, "the event")
    wait_for(lambda: made.kubectl("create", "configmap", "full", check=False).returncode == 0, 30, "a write to be taken")
    assert b"NOSPACE" not in etcdctl(made, "alarm", "list")
    assert made.wait(kind="StoreSpace")["reason"] == "Enough"
