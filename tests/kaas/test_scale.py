"""Many nodes, simulated: what one control plane carries. Needs kwok (make kubernetes-full)."""
import json
import time

import pytest

import kube
from cloud import wait_for
from kwok import Kwok

pytestmark = [pytest.mark.kube, pytest.mark.full]
NODES, PODS = 500, 1000
API_SERVER_MIB = 1536  # what a Medium one keeps to, with what it needs for a moment


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube.cloud(kube.programs(tmp_path_factory.mktemp("programs")), kubernetes_probe_interval="5s") as c:
        yield c


def rss(pid):
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS:")).split()[1]) // 1024


@pytest.mark.timeout(1800)
def test_five_hundred_nodes_and_a_thousand_pods(served, tmp_path):
    c = kube.Cluster(served, "demo", "large", {"controlPlane": {"size": "Medium"}, "backup": {"intervalSeconds": 0}})
    c.wait(timeout=300)
    kwok = Kwok(c, tmp_path)
    try:
        began = time.monotonic()
        kwok.add(NODES)
        created = time.monotonic() - began
        kwok.wait(NODES, 600)
        ready = time.monotonic() - began
        print(f"{NODES} nodes created {created:.1f} s, ready {ready:.1f} s", {name: rss(pid) for name, pid in c.pids().items()}, flush=True)
        pod = {"spec": {"containers": [{"name": "c", "image": "none"}]}, "metadata": {"labels": {"app": "many"}}}
        c.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
                                                          "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "many"}}, "template": pod}}))
        began = time.monotonic()
        wait_for(lambda: c.kubectl("get", "deployment", "many", "-o", "jsonpath={.status.readyReplicas}").stdout == str(PODS), 900, "all pods to run")
        running = time.monotonic() - began
        memory = {name: rss(pid) for name, pid in c.pids().items()}
        print(f"{PODS} pods running {running:.1f} s; RSS MiB {memory}; control {rss(served.role_pid('control'))}")
        used = {p["spec"]["nodeName"] for p in json.loads(c.kubectl("get", "pods", "-o", "json").stdout)["items"]}
        assert len(used) > NODES // 2, "spread over the nodes"
        assert memory["apiserver"] < API_SERVER_MIB
        # It is still a cluster that is looked after, and goes without a trace.
        assert c.wait()["reason"] == "Running"
    finally:
        kwok.stop()
    c.delete()
    assert not c.directory.exists() and not kube.marked(c.workload(""))
