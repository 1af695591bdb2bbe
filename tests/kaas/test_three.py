"""Control planes of three: made, used while members are killed, healed, restored, upgraded, removed. With real programs."""
import json
import os
import shutil
import signal
import socket
import ssl
import urllib.error
import urllib.request

import pytest

import kube
from cloud import ApiError, wait_for
from writer import Writer

pytestmark = pytest.mark.kube
SPEC = {"controlPlane": {"replicas": 3}, "backup": {"intervalSeconds": 0}}
PARTS = {"kms", "relay", *(f"{c}{m}" for c in ("etcd", "apiserver", "controllers", "scheduler") for m in ("", "-1", "-2"))}
STAGES = ["Backup", "Store", "APIServer", "Controllers", "Scheduler", "Nodes"]


def pids(cluster):
    found = kube.marked(cluster.workload(""))
    return {name.removeprefix(cluster.workload("")): p[-1] for name, p in found.items()}


def stores(cluster):
    """A member of the store that leads, and one that does not."""
    found = {}
    for m in cluster.get()["status"]["members"]:
        with urllib.request.urlopen(f"http://{m['address']}:2381/metrics", timeout=10) as r:
            leads = b"\netcd_server_is_leader 1" in r.read()
        found["leading etcd" if leads else "following etcd"] = f"etcd-{m['name']}" if m["name"] != "0" else "etcd"
    return found


def whole(cluster):
    status = cluster.get()["status"]
    return status.get("membersReady") == "3/3" and any(c["type"] == "MembersReady" and c["status"] == "True" for c in status["conditions"])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = kube.programs(tmp_path_factory.mktemp("programs"))
    with kube.cloud(folder) as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    c = kube.Cluster(served, "demo", "trio", SPEC)
    c.wait(timeout=400)
    c.kubectl("create", "configmap", "written")
    c.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    return c


def test_three_of_everything_behind_one_address(served, made):
    status = made.get()["status"]
    wait_for(lambda: whole(made), 60, "all members")
    assert set(pids(made)) == PARTS
    addresses = [m["address"] for m in made.get()["status"]["members"]]
    assert len(set(addresses)) == 3 and addresses[0] == status["address"] and status["endpoint"] == f"https://{addresses[0]}:6443"
    rows = served.kubectl("-n", "demo", "get", "clusters").stdout.splitlines()
    assert rows[0].split()[:6] == ["NAME", "VERSION", "READY", "STATUS", "ENDPOINT", "MEMBERS"] and rows[1].split()[5] == "3/3"
    # Each of the three answers by itself, and all are one cluster.
    made.kubectl("create", "namespace", "shop")
    wait_for(lambda: "default" in made.kubectl("-n", "shop", "get", "serviceaccounts").stdout, 60, "the controllers' ServiceAccount")
    for a in addresses:
        made.kubectl("--server", f"https://{a}:6444", "get", "namespace", "shop")
    assert made.kubectl("-n", "kube-system", "get", "leases", "kube-controller-manager", "-o", "jsonpath={.spec.holderIdentity}").stdout
    assert "1" in made.kubectl("get", "endpointslices", "kubernetes", "-o", "jsonpath={.endpoints[*].addresses[0]}").stdout
    pss = {}
    for name, pid in pids(made).items():
        with open(f"/proc/{pid}/smaps_rollup") as f:
            pss[name] = next(int(line.split()[1]) for line in f if line.startswith("Pss:")) // 1024
    print(f"ready after {status['createMilliseconds']} ms; memory, PSS: {sum(pss.values())} MiB: {pss}")


def test_it_cannot_become_another_number(served, made):
    with pytest.raises(ApiError) as e:
        served.api("PATCH", made.path, {"spec": {"controlPlane": {"replicas": 1}}}, "application/merge-patch+json")
    assert e.value.status == 422 and "spec.controlPlane.replicas" in json.dumps(e.value.body)


@pytest.mark.parametrize("part", ["apiserver-1", "leading etcd", "following etcd", "controllers", "scheduler-1", "relay", "kms"])
def test_any_may_be_killed_and_writes_go_on(made, part):
    """A client whose connection is cut comes again, and is served by another member."""
    wait_for(lambda: whole(made), 120, "all members")
    if part.endswith(" etcd"):
        part = stores(made)[part]
    before, writer = pids(made), Writer(made, limit=30)
    writer.more()
    os.kill(before[part], signal.SIGKILL)
    wait_for(lambda: pids(made).get(part, before[part]) != before[part], 60, f"another {part}")
    writer.more()
    wait_for(lambda: whole(made), 120, "all members")
    writer.more()
    said = writer.end()
    print(f"{part}: {said}; {writer.refused[:2]} {writer.lost[:2]}")
    assert writer.longest < 15, said
    if not part.startswith("etcd"):  # what an API server asks of a store at the very moment that it is killed, it hands on as an error
        assert not writer.refused, writer.refused[:3]
    after = pids(made)
    assert {p: pid for p, pid in after.items() if p != part} == {p: pid for p, pid in before.items() if p != part}
    assert int(made.kubectl("get", "configmap", "written", "-o", "jsonpath={.data.count}").stdout) >= writer.taken


def test_the_connections_of_clients_outlive_sekid(served, made):
    wait_for(lambda: whole(made), 120, "all members")
    before = pids(made)
    address = made.get()["status"]["address"]
    context = ssl.create_default_context(cafile=str(made.directory / "pki" / "ca.crt"))
    with socket.create_connection((address, 6443), timeout=30) as s, context.wrap_socket(s, server_hostname="localhost") as tls:
        served.stop(signal.SIGKILL)
        tls.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in tls.recv(4096).splitlines()[0]
        served.start()
        wait_for(lambda: whole(made), 120, "all members")
        tls.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in tls.recv(4096).splitlines()[0]
    assert pids(made) == before


@pytest.mark.parametrize("lost", [1, 0])
def test_a_member_whose_files_are_gone_is_replaced(made, lost):
    wait_for(lambda: whole(made), 120, "all members")
    before, writer = pids(made), Writer(made, limit=30)
    part = f"etcd-{lost}" if lost else "etcd"
    writer.more()
    os.kill(before[part], signal.SIGSTOP)  # or it would be back before its files are gone
    shutil.rmtree(made.directory / part)
    os.kill(before[part], signal.SIGKILL)
    wait_for(lambda: not whole(made), 60, "its loss to be seen")
    wait_for(lambda: whole(made), 180, "all members")
    writer.more()
    said = writer.end()
    print(f"{part} replaced: {said}; {writer.refused[:2]}")
    assert writer.longest < 20, said
    record = json.loads((made.directory / "cluster.json").read_text())
    assert record["joined"] & 1 << lost and "replacing" not in record
    after = pids(made)
    others = PARTS - {part}
    assert {p: after[p] for p in others} == {p: before[p] for p in others}
    made.kubectl("get", "configmap", "kept")


def test_a_store_without_a_majority_waits_for_a_restore(served, made):
    """Nothing empty is started over it."""
    wait_for(lambda: whole(made), 120, "all members")
    taken = json.loads(served.seki("-n", "demo", "cluster", "backup", "trio", "--timeout", "100s", "-o", "json").stdout)
    before = pids(made)
    for part in ("etcd-1", "etcd-2"):
        os.kill(before[part], signal.SIGSTOP)
    for part in ("etcd-1", "etcd-2"):
        shutil.rmtree(made.directory / part)
        os.kill(before[part], signal.SIGKILL)
    made.wait("False", "QuorumLost", timeout=120)
    assert not (made.directory / "etcd-1" / "member" / "wal").exists() and not (made.directory / "etcd-2" / "member" / "wal").exists()
    served.seki("-n", "demo", "cluster", "restore", "trio", "--from", taken["id"], "--timeout", "300s")
    made.wait(timeout=300)
    wait_for(lambda: whole(made), 180, "all members")
    made.kubectl("get", "configmap", "kept")
    made.kubectl("create", "configmap", "after")


def test_deleted_nothing_of_it_is_left(served, made):
    found, addresses, directory = pids(made), [m["address"] for m in made.get()["status"]["members"]], made.directory
    made.delete()
    assert all(kube.has_ended(p) for p in found.values()) and not directory.exists()
    assert not list((served.data / "log").glob("kc-demo-trio-*")) and not list((served.data / "run" / "workloads").glob("kc-demo-trio-*"))
    for a in addresses:
        for port in [*kube.PORTS, 2378, 6444]:
            with socket.socket() as s:
                assert s.connect_ex((a, port)) != 0, (a, port)
    events = served.api("GET", "/api/v1/namespaces/demo/events")["items"]
    removed = [e["message"] for e in events if e["reason"] == "ClusterRemoved"]
    assert len(removed) == 1 and removed[0].startswith("14 processes ended"), removed


@pytest.mark.full
def test_an_upgrade_goes_member_by_member_and_no_write_is_refused(tmp_path_factory):
    folder, real = kube.two_minors(tmp_path_factory.mktemp("programs"), standin_store=True)
    with kube.cloud(folder) as cloud:
        c = kube.Cluster(cloud, "demo", "older", {**SPEC, "version": "1.36"})
        c.wait(timeout=400)
        c.kubectl("create", "configmap", "written")
        wait_for(lambda: whole(c), 120, "all members")
        before, writer = pids(c), Writer(c, limit=30)
        writer.more()
        p = cloud.seki("-n", "demo", "cluster", "upgrade", "older", "--version", "1.37", "--timeout", "580s", check=False)
        assert p.returncode == 0 and [line.split()[0] for line in p.stderr.splitlines()] == STAGES, (p, c.get()["status"])
        writer.more()
        said, after = writer.end(), pids(c)
        print(f"{said}; {writer.refused[:3]} {writer.lost[:3]}; stages {[(s['name'], s.get('milliseconds')) for s in c.get()['status']['upgrade']['stages']]}")
        assert {p: after[p] for p in ("kms", "relay")} == {p: before[p] for p in ("kms", "relay")} and all(after[p] != before[p] for p in PARTS - {"kms", "relay"})
        assert not real or c.get()["status"]["version"].startswith("v1.37.")
        starts = {p: os.stat(f"/proc/{after[p]}").st_ctime_ns for p in PARTS}
        for earlier, later in (("etcd", "apiserver"), ("apiserver", "controllers"), ("controllers", "scheduler")):
            assert max(s for p, s in starts.items() if p.startswith(earlier)) < min(s for p, s in starts.items() if p.startswith(later))
        assert not writer.refused and writer.longest < 15, (said, writer.refused[:3])
        assert int(c.kubectl("get", "configmap", "written", "-o", "jsonpath={.data.count}").stdout) >= writer.taken
        c.delete()
