"""Names in clusters: CoreDNS, as pods of the cluster's own. Needs root and the programs (make kubernetes)."""
import json
import os
import signal

import pytest

import kube
from cloud import wait_for
from kube import Pool, inside

pytestmark = [pytest.mark.kube, pytest.mark.full]

OBJECTS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    kube.pod("web", kube.web("hello"), ns="shop", labels={"app": "web"}),
    kube.service("web", {"app": "web"}, ns="shop"),
    kube.service("bare", {"app": "web"}, ns="shop", clusterIP="None"),
    kube.pod("asks", kube.container("asks", "sleep", "100000")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    kube.need(kube.not_built("images/coredns.tar"), "make kubernetes")
    with kube.cloud(kube.node_programs(tmp_path_factory.mktemp("programs"))) as c:
        yield kube.Cluster.ready(c, "demo", "names", {"network": {"serviceDomain": "corp.example"}})


@pytest.fixture(scope="module")
def pool(made):
    return Pool.ready(made, "workers", count=1, machine={"memoryMiB": 1024})


def lookup(cluster, name):
    return cluster.kubectl("exec", "asks", "--", "busybox", "nslookup", name, check=False).stdout


def asks(cluster, name, expected, timeout=60):
    wait_for(lambda: expected in lookup(cluster, name).split("Name:")[-1], timeout, f"{name} to be {expected}")


def test_a_cluster_without_nodes_waits_for_no_names(made):
    c = made.wait("False", "Pending", kind="DNSReady")
    assert "no nodes" in c["message"] and "make a NodePool with spec.clusterName names" in c["message"]
    assert made.kubectl("-n", "kube-system", "get", "pods,deployments", "-o", "name").stdout == ""


def test_a_pod_finds_a_service_of_another_namespace(made, pool):
    made.wait(kind="DNSReady")
    made.apply(*OBJECTS)
    made.wait_pods("asks")
    made.wait_pods("web", ns="shop")
    service = made.kubectl("-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    pod = made.pod_address("web", ns="shop")
    assert made.kubectl("-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}").stdout == "10.96.0.10"
    assert "nameserver 10.96.0.10" in made.kubectl("exec", "asks", "--", "cat", "/etc/resolv.conf").stdout
    asks(made, "web.shop.svc.corp.example", service)
    asks(made, "bare.shop.svc.corp.example", pod)  # headless: its pods
    assert "can't find" in lookup(made, "nobody.shop.svc.corp.example")


def test_it_answers_again_after_a_kill(made, pool):
    service = made.kubectl("-n", "shop", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout
    before = wait_for(lambda: inside(pool.outer("workers-0"), "coredns"), 30, "CoreDNS")
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (now := inside(pool.outer("workers-0"), "coredns")) and not set(now) & set(before), 90, "another CoreDNS")
    asks(made, "web.shop.svc.corp.example", service, 90)


def test_a_corefile_of_the_tenant_stays_and_a_deleted_deployment_comes_back(made, pool):
    corefile = json.loads(made.kubectl("-n", "kube-system", "get", "configmap", "coredns", "-o", "json").stdout)["data"]["Corefile"]
    own = corefile.replace("cache 30", "cache 30  # ours")
    made.kubectl("-n", "kube-system", "patch", "configmap", "coredns", "--type=merge", "-p", json.dumps({"data": {"Corefile": own}}))
    made.kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=1")
    # Whatever makes it apply everything again: here a digest that is not its own.
    made.kubectl("-n", "kube-system", "annotate", "deployment", "coredns", "seki.cloud/applied=other", "--overwrite")

    def get(what):
        return json.loads(made.kubectl("-n", "kube-system", "get", what, "coredns", "-o", "json", check=False).stdout or "{}")
    wait_for(lambda: get("deployment")["metadata"]["annotations"]["seki.cloud/applied"] != "other", 60, "it to be applied again")
    assert get("configmap")["data"]["Corefile"] == own and get("deployment")["spec"]["replicas"] == 1
    uid = get("deployment")["metadata"]["uid"]
    made.kubectl("-n", "kube-system", "delete", "deployment", "coredns")
    wait_for(lambda: get("deployment").get("metadata", {}).get("uid", uid) != uid, 60, "another Deployment")
    assert get("configmap")["data"]["Corefile"] == own
    made.wait(kind="DNSReady")


def test_pods_that_find_no_node_are_told_of(made, pool):
    made.kubectl("taint", "node", "workers-0", "keep=away:NoExecute")
    wait_for(lambda: "untolerated taint" in made.wait("False", "Waiting", kind="DNSReady")["message"], 120, "it to say why")
    made.kubectl("taint", "node", "workers-0", "keep=away:NoExecute-")
    made.wait(kind="DNSReady")


def test_a_cloud_without_addresses_says_so_to_a_load_balancer(made, pool):
    made.kubectl("create", "service", "loadbalancer", "outside", "--tcp=80")
    events = lambda: json.loads(made.kubectl("get", "events", "-o", "json").stdout)["items"]
    wait_for(lambda: any(e["involvedObject"]["name"] == "outside" and e["reason"] == "NoAddresses" for e in events()), 60, "an Event")
    made.kubectl("delete", "service", "outside", "--wait=true", "--timeout=30s")
