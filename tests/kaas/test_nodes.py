"""Nodes of clusters, real ones: kubelets with containerd in namespaces, pods that talk across them, two tenants that do not. Needs root and the programs (make kubernetes)."""
import base64
import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest

import kube
from cloud import GROUP, Cloud, wait_for

pytestmark = [pytest.mark.kube, pytest.mark.full]

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: localhost/busybox:1
    imagePullPolicy: Never
    command: [web, serve, "8080", "this is {name}"]
    readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}
---
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""


class Pool:
    def __init__(self, cluster, name, **spec):
        self.cluster, self.name = cluster, name
        self.path = f"{GROUP}/namespaces/{cluster.ns}/nodepools/{name}"
        self.cloud = cluster.cloud
        self.cloud.api("POST", self.path.rsplit("/", 1)[0],
                       {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": name}, "spec": {"clusterName": cluster.name, **spec}})

    def get(self):
        return self.cloud.api("GET", self.path)

    def wait(self, status="True", reason=None, timeout=180):
        def settled():
            o = self.get()
            c = {c["type"]: c for c in o.get("status", {}).get("conditions", [])}.get("Ready", {})
            return o.get("status", {}).get("observedGeneration") == o["metadata"]["generation"] and c.get("status") == status and (not reason or c["reason"] == reason) and o
        return wait_for(settled, timeout, f"pool {self.name}: {self.get().get('status')}")

    def nodes(self):
        return {n["name"]: n for n in self.get()["status"]["nodes"]}

    def scale(self, count):
        self.cloud.api("PATCH", self.path, {"spec": {"count": count}}, "application/merge-patch+json")
        return self.wait()

    def outer(self, node):
        """The process that holds a node; None while there is none."""
        name = self.cluster.workload(f"node-{node}")
        return holder(kube.marked(name).get(name, []))


def holder(pids):
    """Of those that carry a workload's mark the one whose parent does not."""
    for p in pids:
        try:
            if int((pathlib.Path("/proc") / str(p) / "stat").read_text().rsplit(")", 1)[1].split()[1]) not in pids:
                return p
        except OSError:
            pass
    return None


def inside(pid, name):
    """Pids of programs of that name among the descendants of a node's outer process."""
    children = {}
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                stat = (p / "stat").read_text()
            except OSError:
                continue
            head, rest = stat.rsplit(")", 1)
            children.setdefault(int(rest.split()[1]), []).append((int(p.name), head.split("(", 1)[1]))
    found, todo = [], [pid]
    while todo:
        for child, comm in children.get(todo.pop(), []):
            todo.append(child)
            if comm == name:
                found.append(child)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Cloud(options={"kubernetes-dir": kube.node_programs(tmp_path_factory.mktemp("programs")), "kubernetes-probe-interval": "500ms"}) as c:
        c.project("demo")
        c.project("other", tenant="second")
        yield c
    kube.end_left()


@pytest.fixture(scope="module")
def made(served):
    c = kube.Cluster(served, "demo", "one")
    c.wait()
    return c


@pytest.fixture(scope="module")
def pool(made):
    p = Pool(made, "workers", count=2, labels={"tier": "web"}, machine={"memoryMiB": 1024})
    p.wait()
    return p


def run_pods(cluster, nodes):
    cluster.kubectl("apply", "-f", "-", input="".join(POD.format(name=f"on-{n}", node=n) for n in nodes) + SERVICE)
    for n in nodes:
        cluster.kubectl("wait", "--for=condition=Ready", "--timeout=90s", f"pod/on-{n}")
    return {n: cluster.kubectl("get", "pod", f"on-{n}", "-o", "jsonpath={.status.podIP}").stdout for n in nodes}


def get(cluster, pod, address, port=8080, check=True):
    return cluster.kubectl("exec", pod, "--", "web", "get", address, str(port), check=check)


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


def test_pods_talk_across_nodes(made, pods):
    first, second = pods
    assert pods[first] != pods[second]
    assert "this is on-workers-1" in get(made, "on-workers-0", pods["workers-1"]).stdout
    assert "this is on-workers-0" in get(made, "on-workers-1", pods["workers-0"]).stdout
    service = made.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    seen = set()

    def both():
        p = get(made, "on-workers-0", service, 80, check=False)
        seen.update(n for n in pods if f"this is on-{n}" in p.stdout)
        return len(seen) == 2
    wait_for(both, 60, "the Service to lead to both")
    assert "serving" in made.kubectl("logs", "on-workers-1").stdout
    # The API server from a pod, by its Service.
    assert "HTTP request to an HTTPS server" in get(made, "on-workers-0", "10.96.0.1", 443).stdout


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
    wait_for(lambda: "this is" in get(made, "on-workers-0", pods["workers-1"], check=False).stdout, 60, "the way through it")
    pool.wait()


def test_a_killed_sekid_restarts_no_node(served, made, pool, pods):
    before = kube.marked(made.workload(""))
    roles = [served.role_pid("control"), served.role_pid("gateway")]
    for pid in (served.process.pid, *roles):
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    assert "this is" in get(made, "on-workers-0", pods["workers-1"]).stdout
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
        p = made.kubectl("get", "pod", "on-workers-1", "-o", "jsonpath={.status.podIP}").stdout
        return p and "this is on-workers-1" in get(made, "on-workers-0", p, check=False).stdout
    wait_for(answers, 120, "its pod to answer")
    pool.wait()


def test_a_pool_is_made_smaller_and_larger(made, pool, pods):
    first = pool.outer("workers-0")
    pool.scale(1)
    assert list(pool.nodes()) == ["workers-0"]
    assert made.kubectl("get", "nodes", "-o", "name").stdout.split() == ["node/workers-0"]
    assert not (made.directory / "nodes" / "workers-1").exists() and not leftovers(made.uid, "workers-1")
    pool.scale(2)
    assert sorted(pool.nodes()) == ["workers-0", "workers-1"] and pool.outer("workers-0") == first
    pods.update(run_pods(made, pool.nodes()))
    wait_for(lambda: "this is on-workers-1" in get(made, "on-workers-0", pods["workers-1"], check=False).stdout, 60, "the new node's pod")


def test_stopped_with_ctrl_c_and_started_again(served, made, pool, pods):
    """Everything is ended, nothing is mounted; then everything comes back as it was, as after a restart of the machine."""
    address = {n: x["address"] for n, x in pool.nodes().items()}
    served.stop(signal.SIGINT)
    assert not kube.marked(made.workload("")) and not leftovers(made.uid)
    served.start()
    made.wait()
    wait_for(lambda: all(pool.outer(n) for n in address), 60, "nodes")
    pool.wait()
    assert {n: x["address"] for n, x in pool.nodes().items()} == address

    def answers():
        p = made.kubectl("get", "pod", "on-workers-1", "-o", "jsonpath={.status.podIP}", check=False).stdout
        return p and "this is on-workers-1" in get(made, "on-workers-0", p, check=False).stdout
    wait_for(answers, 120, "pods to answer")
    pods.update({n: made.kubectl("get", "pod", f"on-{n}", "-o", "jsonpath={.status.podIP}").stdout for n in pods})


def leftovers(uid, node=""):
    found = [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob(f"*/seki-node-{uid[:8]}-{node}*")]
    found += [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if uid in line and (not node or node in line)]
    return found


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
    theirs = Pool(other, "workers", count=1, machine={"memoryMiB": 1024})
    theirs.wait()
    there = run_pods(other, theirs.nodes())["workers-0"]
    api = made.get()["status"]["address"], other.get()["status"]["address"]
    # Their own works …
    assert "this is" in get(other, "on-workers-0", there).stdout
    assert "HTTPS" in get(other, "on-workers-0", "10.202.0.1", 6443).stdout
    assert connect(served, other.uid, "10.202.0.10:10250").endswith("200 Connection established")
    assert connect(served, other.uid, f"{there}:8080").endswith("200 Connection established")
    # … and from the first's pods nothing of it, nor of this machine: node, gate, pod, API servers, stores.
    for address, port in [("10.202.0.10", 10250), ("10.202.0.1", 6443), (there, 8080), (api[1], 6443), (api[1], 2379), (api[0], 6443), (api[0], 2379), ("127.0.0.1", 6443)]:
        p = get(made, "on-workers-0", address, port, check=False)
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
    assert "this is" in get(made, "on-workers-0", pods["workers-1"]).stdout


def test_a_kubelet_gets_no_certificate_for_others(served, made, pool, tmp_path):
    """A node's own credentials, used to ask for its neighbour's address: denied, and said."""
    key, request = tmp_path / "key.pem", tmp_path / "request.pem"
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request, "-subj", "/O=system:nodes/CN=system:node:workers-0",
                    "-addext", "subjectAltName=DNS:workers-0,IP:10.201.0.11"], check=True, capture_output=True)
    doc = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "greedy"},
           "spec": {"signerName": "kubernetes.io/kubelet-serving", "usages": ["digital signature", "server auth"], "request": base64.b64encode(request.read_bytes()).decode()}}
    pem = made.directory / "nodes" / "workers-0" / "kubelet" / "pki" / os.path.basename(os.readlink(made.directory / "nodes" / "workers-0" / "kubelet" / "pki" / "kubelet-client-current.pem"))
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
    assert not leftovers(uid) and not kube.marked(made.workload(""))
