"""Nodes of clusters, real ones: kubelets with containerd in namespaces, pods that talk across them, two tenants that do not. Needs root and the programs (make kubernetes)."""
import base64
import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

import kube
from cloud import ApiError, wait_for
from kube import Pool, holder, inside, leftovers

pytestmark = [pytest.mark.kube, pytest.mark.full]

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube.cloud(kube.node_programs(tmp_path_factory.mktemp("programs")), ["demo", ("other", "second")]) as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    return kube.Cluster.ready(served, "demo", "one")


@pytest.fixture(scope="module")
def pool(made):
    return Pool.ready(made, "workers", count=2, labels={"tier": "web"}, machine={"memoryMiB": 1024})


def run_pods(cluster, nodes):
    cluster.apply(*[kube.pod(f"on-{n}", kube.web(f"this is on-{n}"), node=n, labels={"app": "web"}) for n in nodes], kube.service("web", {"app": "web"}))
    cluster.wait_pods(*[f"on-{n}" for n in nodes])
    return {n: cluster.pod_address(f"on-{n}") for n in nodes}


@pytest.fixture(scope="module")
def pods(made, pool):
    return run_pods(made, pool.nodes())


def test_nodes_join_and_say_what_they_have(served, made, pool):
    status = pool.get()["status"]
    assert status["readyCount"] == status["count"] == 2
    for n in status["nodes"]:
        assert n["ready"] and n["attempt"] == 1 and n["startedAt"] < n["deadline"] and n["milliseconds"] > 0, n
    assert sorted(n["address"] for n in status["nodes"]) == ["10.201.0.10", "10.201.0.11"]
    listed = json.loads(made.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    assert sorted(n["metadata"]["name"] for n in listed) == ["workers-0", "workers-1"]
    for n in listed:
        assert n["metadata"]["labels"]["tier"] == "web" and n["metadata"]["labels"]["seki.cloud/nodepool"] == "workers"
        assert n["status"]["nodeInfo"]["kubeletVersion"].startswith("v1.37.")
        assert n["spec"]["podCIDR"] == pool.nodes()[n["metadata"]["name"]]["podCIDR"]
        memory = n["status"]["allocatable"]["memory"]
        assert memory.endswith("Ki") and int(memory[:-2]) < 1024 * 1024 * 3 // 4 + 1
    # Nobody can join with what they joined with.
    wait_for(lambda: "bootstrap-token" not in made.kubectl("-n", "kube-system", "get", "secrets").stdout, 30, "tokens to be removed")


def test_a_node_has_its_share_of_processes_and_leaves_no_file_that_stays(made, pool, pods):
    """Whatever its tenant allows a pod: no more processes than go with its memory. No file that cannot be removed, and directories of any depth go with it (a_pool_leaves_nothing)."""
    limits = [(p / "pids.max").read_text().strip() for p in pathlib.Path("/sys/fs/cgroup").glob(f"**/seki-node-{made.uid[:8]}-workers-0") if (p / "pids.max").exists()]
    assert limits == [str(1024 * 4)]
    may = int(re.search(r"CapBnd:\s*(\w+)", pathlib.Path(f"/proc/{inside(pool.outer('workers-0'), 'kubelet')[0]}/status").read_text())[1], 16)
    assert not may & 1 << 9, "CAP_LINUX_IMMUTABLE"
    made.kubectl("exec", "on-workers-0", "--", "sh", "-c", "cd /; for i in $(seq 200); do mkdir d && cd d; done; touch x")


def test_pods_talk_across_nodes(made, pods):
    first, second = pods
    assert pods[first] != pods[second]
    assert "this is on-workers-1" in made.web_get("on-workers-0", pods["workers-1"]).stdout
    assert "this is on-workers-0" in made.web_get("on-workers-1", pods["workers-0"]).stdout
    service = made.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    seen = set()

    def both():
        p = made.web_get("on-workers-0", service, 80, check=False)
        seen.update(n for n in pods if f"this is on-{n}" in p.stdout)
        return len(seen) == 2
    wait_for(both, 60, "the Service to lead to both")
    assert "serving" in made.kubectl("logs", "on-workers-1").stdout
    # The API server from a pod, by its Service.
    assert "HTTP request to an HTTPS server" in made.web_get("on-workers-0", "10.96.0.1", 443).stdout


@pytest.mark.parametrize("program", ["kubelet", "containerd", "kube-proxy"])
def test_what_is_killed_in_a_node_comes_back(made, pool, pods, program):
    outer = pool.outer("workers-0")
    before = inside(outer, program)
    assert len(before) == 1, before
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: inside(outer, program) not in ([], before), 30, f"another {program}")
    wait_for(lambda: made.kubectl("exec", "on-workers-0", "--", "true", check=False).returncode == 0, 60, "exec to work")
    pool.wait()
    assert pool.outer("workers-0") == outer
    assert made.kubectl("get", "pod", "on-workers-0", "-o", "jsonpath={.status.containerStatuses[0].restartCount}").stdout == "0"


def test_the_gate_is_killed_and_pods_notice_nothing(made, pool, pods):
    name = made.workload("gate")
    before = kube.marked(name)[name]
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: kube.marked(name).get(name, before) != before, 30, "another gate")
    wait_for(lambda: "this is" in made.web_get("on-workers-0", pods["workers-1"], check=False).stdout, 60, "the way through it")
    pool.wait()


def test_a_killed_sekid_restarts_no_node(served, made, pool, pods):
    before = kube.marked(made.workload(""))
    roles = [served.role_pid("control"), served.role_pid("gateway")]
    for pid in (served.process.pid, *roles):
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    assert "this is" in made.web_get("on-workers-0", pods["workers-1"]).stdout
    served.start()
    made.wait()
    pool.wait()
    after = kube.marked(made.workload(""))
    assert {n: holder(p) for n, p in after.items()} == {n: holder(p) for n, p in before.items()}


def test_a_killed_node_is_made_again(made, pool, pods):
    outer = pool.outer("workers-1")
    os.kill(outer, signal.SIGKILL)
    wait_for(lambda: pool.outer("workers-1") not in (None, outer), 60, "another node")

    def answers():
        p = made.pod_address("on-workers-1")
        return p and "this is on-workers-1" in made.web_get("on-workers-0", p, check=False).stdout
    wait_for(answers, 120, "its pod to answer")
    pool.wait()


def credentials(pool, node):
    """The kubelet's own, where this machine sees them: in the node alone."""
    pki = pathlib.Path(f"/proc/{inside(pool.outer(node), 'kubelet')[0]}/root/var/lib/kubelet/pki")
    return pki / os.path.basename(os.readlink(pki / "kubelet-client-current.pem"))


def loops(uid, node=""):
    return [p.parent.parent.name for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file") if f"{uid}/nodes/{node}" in p.read_text()]


def test_what_a_node_and_its_pods_write_has_a_size(served, made, pool, pods):
    """One writes without end, into a volume of its pod and into its own root: it is its node that is full."""
    small = Pool.ready(made, "small", count=1, machine={"memoryMiB": 1024, "diskGiB": 1})
    disk = made.directory / "nodes" / "small-0" / "disk.img"

    def capacity():
        said = made.kubectl("get", "node", "small-0", "-o", "jsonpath={.status.capacity.ephemeral-storage}").stdout
        return int(said.removesuffix("Ki")) << (10 if said.endswith("Ki") else 0)
    assert 900 << 20 < capacity() <= 1 << 30
    assert disk.stat().st_size == 1 << 30 and disk.stat().st_blocks * 512 < 512 << 20, "it is not allotted before it is written"
    made.apply(kube.pod("greedy", kube.container("one", "sleep", "100000", volumeMounts=[{"name": "data", "mountPath": "/data"}]), node="small-0", grace=0, volumes=[{"name": "data", "emptyDir": {}}]))
    made.wait_pods("greedy")
    p = made.kubectl("exec", "greedy", "--", "sh", "-c", "cat /dev/zero > /data/fill; cat /dev/zero > /fill; cat /dev/zero > /data/again", check=False)
    assert p.stderr.count("No space left") == 3, p
    assert disk.stat().st_blocks * 512 <= (1 << 30) + (4 << 20)
    assert "this is on-workers-1" in made.web_get("on-workers-0", made.pod_address("on-workers-1")).stdout
    wait_for(lambda: made.kubectl("get", "pod", "greedy", "-o", "jsonpath={.status.reason}").stdout == "Evicted", 120, "the kubelet to make room")
    # More of it; less is refused.
    with pytest.raises(ApiError) as e:
        served.api("PATCH", small.path, {"spec": {"machine": {"diskGiB": 0}}}, "application/merge-patch+json")
    assert "spec.machine.diskGiB" in str(e.value)
    before, pem = small.outer("small-0"), credentials(small, "small-0").name
    served.api("PATCH", small.path, {"spec": {"machine": {"diskGiB": 2}}}, "application/merge-patch+json")
    wait_for(lambda: small.outer("small-0") not in (None, before), 60, "the node to start anew")
    small.wait()
    wait_for(lambda: capacity() > 1800 << 20, 60, "it to say so")
    assert credentials(small, "small-0").name == pem, "with what it had"
    with pytest.raises(ApiError) as e:
        served.api("PATCH", small.path, {"spec": {"machine": {"diskGiB": 1}}}, "application/merge-patch+json")
    assert "spec.machine.diskGiB" in str(e.value) and "does not shrink" in str(e.value)
    # What this cloud has no room for is not made, and says why.
    served.api("PATCH", small.path, {"spec": {"machine": {"diskGiB": 100}}}, "application/merge-patch+json")
    c = {c["type"]: c for c in small.wait("False", "NoSpace")["status"]["conditions"]}["Ready"]
    assert c["message"].startswith("small-0: the disks of all nodes may have ") and "kubernetes-node-disks" in c["message"]
    assert loops(made.uid, "small-0")
    served.api("DELETE", small.path)
    wait_for(lambda: not disk.parent.exists(), 60, "the pool to be gone")
    assert not loops(made.uid, "small-0") and not leftovers(made.uid, "small-0")


def test_a_pool_is_made_smaller_and_larger(made, pool, pods):
    first = pool.outer("workers-0")
    pool.scale(1)
    assert list(pool.nodes()) == ["workers-0"]
    assert made.kubectl("get", "nodes", "-o", "name").stdout.split() == ["node/workers-0"]
    assert not (made.directory / "nodes" / "workers-1").exists() and not leftovers(made.uid, "workers-1")
    pool.scale(2)
    assert sorted(pool.nodes()) == ["workers-0", "workers-1"] and pool.outer("workers-0") == first
    pods.update(run_pods(made, pool.nodes()))
    wait_for(lambda: "this is on-workers-1" in made.web_get("on-workers-0", pods["workers-1"], check=False).stdout, 60, "the new node's pod")


def test_stopped_with_ctrl_c_and_started_again(served, made, pool, pods):
    """Everything is ended, nothing is mounted; then everything comes back as it was, as after a restart of the machine."""
    address = {n: x["address"] for n, x in pool.nodes().items()}
    pems = {n: credentials(pool, n).name for n in address}
    served.stop(signal.SIGINT)
    assert not kube.marked(made.workload("")) and not leftovers(made.uid) and not loops(made.uid)
    with (made.directory / "nodes" / "workers-1" / "disk.img").open("r+b") as f:
        f.seek(1024 + 0x3A)
        f.write(b"\0\0")  # as a machine leaves it that crashed: not unmounted
    served.start()
    made.wait()
    wait_for(lambda: all(pool.outer(n) for n in address), 60, "nodes")
    pool.wait()
    assert {n: x["address"] for n, x in pool.nodes().items()} == address
    # One has what it had; the other's disk is not trusted, and it has joined again.
    wait_for(lambda: inside(pool.outer("workers-1"), "kubelet") and (made.directory / "nodes" / "workers-1" / "joined").exists() and credentials(pool, "workers-1").name != pems["workers-1"], 90, "other credentials")
    assert credentials(pool, "workers-0").name == pems["workers-0"]
    pool.wait()
    wait_for(lambda: not list((made.directory / "nodes").glob("*/etc/bootstrap.json")), 30, "its token to be forgotten")

    def answers():
        p = made.pod_address("on-workers-1", check=False)
        return p and "this is on-workers-1" in made.web_get("on-workers-0", p, check=False).stdout
    wait_for(answers, 120, "pods to answer")
    pods.update({n: made.pod_address(f"on-{n}") for n in pods})


def connect(cloud, uid, target):
    """What the gate says to the API server's wish."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(cloud.data / "run" / "gates" / f"{uid}.sock"))
        s.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return s.recv(100).split(b"\r\n")[0].decode()


def test_two_tenants_do_not_reach_each_other(served, made, pool, pods):
    other = kube.Cluster(served, "other", "one", {"network": {"nodeCIDR": "10.202.0.0/24", "podCIDR": "10.245.0.0/16"}})
    other.wait()
    theirs = Pool.ready(other, "workers", count=1, machine={"memoryMiB": 1024})
    there = run_pods(other, theirs.nodes())["workers-0"]
    assert there.startswith("10.245.") and theirs.nodes()["workers-0"]["address"] == "10.202.0.10"  # of the ranges that were asked for
    api = made.get()["status"]["address"], other.get()["status"]["address"]
    # Their own works …
    assert "this is" in other.web_get("on-workers-0", there).stdout
    assert "HTTPS" in other.web_get("on-workers-0", "10.202.0.1", 6443).stdout
    assert connect(served, other.uid, "10.202.0.10:10250").endswith("200 Connection established")
    assert connect(served, other.uid, f"{there}:8080").endswith("200 Connection established")
    # … and from the first's pods nothing of it, nor of this machine: node, gate, pod, API servers, stores.
    for address, port in [("10.202.0.10", 10250), ("10.202.0.1", 6443), (there, 8080), (api[1], 6443), (api[1], 2379), (api[0], 6443), (api[0], 2379), ("127.0.0.1", 6443)]:
        p = made.web_get("on-workers-0", address, port, check=False)
        assert p.returncode != 0 and "HTTP" not in p.stdout, (address, port, p)
    # Nor does the first's API server get there through its gate, or anywhere else.
    for target in ("10.202.0.10:10250", f"{there}:8080", f"{api[1]}:6443", "10.201.0.10:22", "10.201.0.1:6443", "127.0.0.1:10250"):
        assert " 403 " in connect(served, made.uid, target), target
    assert " 400 " in connect(served, made.uid, "localhost:10250")
    # A cluster that is deleted takes its nodes along, and leaves nothing.
    names = kube.marked(other.workload(""))
    pids = [p for pids in names.values() for p in pids]
    directory = other.directory
    other.delete()
    assert not directory.exists() and not leftovers(other.uid)
    assert not kube.marked(other.workload("")) and all(kube.has_ended(p) for p in pids)
    assert not list((served.data / "log").glob("kc-other-one-*")) and not (served.data / "run" / "gates" / f"{other.uid}.sock").exists()
    wait_for(lambda: not served.api("GET", theirs.path.rsplit("/", 1)[0])["items"], 30, "the pool to go with its cluster")
    assert "this is" in made.web_get("on-workers-0", pods["workers-1"]).stdout


def test_a_kubelet_gets_no_certificate_for_others(served, made, pool, tmp_path):
    """A node's own credentials, used to ask for its neighbour's address: denied, and said."""
    key, request = tmp_path / "key.pem", tmp_path / "request.pem"
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj", "/O=system:nodes/CN=system:node:workers-0",
                    "-addext", "subjectAltName=DNS:workers-0,IP:10.201.0.11"], check=True, capture_output=True)
    doc = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "greedy"},
           "spec": {"signerName": "kubernetes.io/kubelet-serving", "usages": ["digital signature", "server auth"], "request": base64.b64encode(request.read_bytes()).decode()}}
    pem = credentials(pool, "workers-0")
    p = subprocess.run([kube.KUBECTL, "--server", made.get()["status"]["endpoint"], "--certificate-authority", made.directory / "pki" / "ca.crt", "--client-certificate", pem, "--client-key", pem,
                        "create", "-f", "-"], input=json.dumps(doc), text=True, capture_output=True, timeout=60, env={**os.environ, "HOME": str(tmp_path), "KUBECONFIG": "/dev/null"})
    assert p.returncode == 0, p.stderr
    said = wait_for(lambda: json.loads(made.kubectl("get", "csr", "greedy", "-o", "json").stdout)["status"].get("conditions"), 30, "a verdict")
    assert said[0]["type"] == "Denied" and "10.201.0.11" in said[0]["message"], said
    wait_for(lambda: any(e["reason"] == "CertificateDenied" for e in served.api("GET", "/api/v1/namespaces/demo/events")["items"]), 30, "an Event")


def test_a_pool_leaves_nothing(served, made, pool):
    """Last."""
    served.api("DELETE", pool.path)
    wait_for(lambda: not served.api("GET", pool.path.rsplit("/", 1)[0])["items"], 60, "the pool to be gone")
    assert made.kubectl("get", "nodes", "-o", "name").stdout == ""
    assert not kube.marked(made.workload("node-")) and not list((made.directory / "nodes").iterdir())
    assert not leftovers(made.uid, "workers")
    uid = made.uid
    made.delete()
    assert not leftovers(uid) and not kube.marked(made.workload("")) and not loops(uid)
