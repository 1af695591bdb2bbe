"""Services of type LoadBalancer: reached from this machine at an address of the operator's, answered by pods. Needs root and the programs (make kubernetes)."""
import json
import os
import signal
import socket
import urllib.request

import pytest

import kube
from cloud import wait_for

pytestmark = [pytest.mark.kube, pytest.mark.full]

RANGE = "127.112.7.0/29"  # six addresses


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube.cloud(kube.node_programs(tmp_path_factory.mktemp("programs")), ["demo", ("other", "second")], kubernetes_balancer_addresses=RANGE) as c:
        yield c


def make(cloud, ns, name):
    cluster = kube.Cluster.ready(cloud, ns, name)
    cluster.pool = kube.Pool(cluster, "workers", count=1, machine={"memoryMiB": 1024})
    return cluster


@pytest.fixture(scope="module")
def clusters(served):
    both = make(served, "demo", "one"), make(served, "other", "two")
    for c in both:
        c.pool.wait()
        c.apply(*[kube.pod(f"{c.name}-{n}", kube.web(f"this is {c.name}-{n}"), labels={"app": "web"}) for n in "ab"])
    for c in both:
        c.wait_pods(f"{c.name}-a", f"{c.name}-b")
    return both


def service(cluster, name, ports=None, **spec):
    cluster.apply(kube.service(name, {"app": "web"}, type="LoadBalancer", **({"ports": ports} if ports else {}), **spec))


def get(cluster, name):
    p = cluster.kubectl("get", "service", name, "-o", "json", check=False)
    return json.loads(p.stdout) if p.returncode == 0 else None


def ingress(cluster, name):
    return get(cluster, name)["status"]["loadBalancer"].get("ingress")


def address(cluster, name):
    return wait_for(lambda: ingress(cluster, name), 60, f"an address of {name}")[0]["ip"]


def events(cluster, name):
    return [(e["reason"], e["message"]) for e in json.loads(cluster.kubectl("get", "events", "-o", "json").stdout)["items"] if e["involvedObject"]["name"] == name]


def ask(at, port=80):
    with urllib.request.urlopen(f"http://{at}:{port}/", timeout=10) as r:
        return r.read().decode()


def answers(at, port=80):
    try:
        return ask(at, port)
    except OSError:
        return None


def test_pods_of_two_tenants_answer_at_addresses_of_their_own(clusters):
    for c in clusters:
        service(c, "web")
    at = [address(c, "web") for c in clusters]
    assert len(set(at)) == 2 and all(a.startswith("127.112.7.") for a in at)
    for c, a in zip(clusters, at):
        seen = {wait_for(lambda: answers(a), 30, "an answer") for _ in range(4)}
        assert seen == {f"this is {c.name}-a", f"this is {c.name}-b"}
        assert "service.kubernetes.io/load-balancer-cleanup" in get(c, "web")["metadata"]["finalizers"]
        assert ("AddressAssigned", f"it is reached at {a}") in events(c, "web")


def test_what_a_service_asks_for(clusters):
    c = clusters[0]
    service(c, "own", loadBalancerClass="example.com/theirs")
    service(c, "plain", allocateLoadBalancerNodePorts=False, externalTrafficPolicy="Local", sessionAffinity="ClientIP")
    at = address(c, "plain")
    assert len({wait_for(lambda: answers(at), 30, "an answer") for _ in range(4)}) == 1  # the same client, the same pod
    assert "nodePort" not in get(c, "plain")["spec"]["ports"][0]
    # Those who are not asked in get nothing.
    c.kubectl("patch", "service", "plain", "-p", json.dumps({"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}}))
    wait_for(lambda: answers(at) is None, 30, "nobody to be let in")
    c.kubectl("patch", "service", "plain", "-p", json.dumps({"spec": {"loadBalancerSourceRanges": ["127.0.0.0/8"]}}))
    wait_for(lambda: answers(at), 30, "an answer")
    # What is not relayed is said.
    service(c, "mixed", ports=[{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 53, "protocol": "UDP"}])
    at = address(c, "mixed")
    assert ingress(c, "mixed")[0]["ports"] == [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "error": "seki.cloud/ProtocolNotSupported"}]
    assert wait_for(lambda: answers(at), 30, "an answer") and any(r == "ProtocolNotSupported" for r, _ in events(c, "mixed"))
    assert not ingress(c, "own") and "finalizers" not in get(c, "own")["metadata"]
    # A Service that becomes another type gives its address back.
    c.kubectl("patch", "service", "mixed", "-p", json.dumps({"spec": {"type": "ClusterIP"}}))
    wait_for(lambda: "finalizers" not in get(c, "mixed")["metadata"] and answers(at) is None, 30, "the address to be let go")


def test_a_port_that_another_program_has_is_said_and_had_later(clusters):
    c = clusters[0]
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("0.0.0.0", 0))
        s.listen()
        port = s.getsockname()[1]
        service(c, "taken", ports=[{"port": port, "targetPort": 8080}])
        wait_for(lambda: any(r == "PortUnavailable" and "in use" in m for r, m in events(c, "taken")), 30, "an Event")
        assert not ingress(c, "taken")
    at = address(c, "taken")
    assert wait_for(lambda: answers(at, port), 30, "an answer")
    c.kubectl("delete", "service", "taken", "--wait=true", "--timeout=30s")


def test_pods_that_go_are_not_asked(clusters):
    c = clusters[0]
    at = address(c, "web")
    c.kubectl("delete", "pod", f"{c.name}-b")
    wait_for(lambda: {answers(at) for _ in range(4)} == {f"this is {c.name}-a"}, 30, "the other one alone")


def test_kills_and_restarts_keep_addresses(served, clusters):
    c = clusters[0]
    at = [address(x, "web") for x in clusters]
    name = c.workload("gate")
    before = kube.marked(name)[name]
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: kube.marked(name).get(name, before) != before, 30, "another gate")
    wait_for(lambda: answers(at[0]), 30, "an answer")
    roles = [served.role_pid("control"), served.role_pid("gateway")]
    for pid in (served.process.pid, *roles):
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    assert answers(at[0]) and answers(at[1])  # nothing of it hangs on sekid
    served.start()
    for x in clusters:
        x.wait()
    service(c, "later")
    assert address(c, "later") not in at and [address(x, "web") for x in clusters] == at
    assert answers(at[0]) and answers(at[1])


def test_addresses_end_and_come_back(clusters):
    c = clusters[0]
    names = [f"more-{i}" for i in range(4)]
    for n in names:
        service(c, n)
    wait_for(lambda: any(r == "NoAddresses" for n in names for r, _ in events(c, n)), 60, "an Event")
    late = wait_for(lambda: [n for n in names if not ingress(c, n)] if len([n for n in names if ingress(c, n)]) == 2 else None, 60, "two that wait")
    at = address(c, "plain")
    c.kubectl("delete", "service", "plain", "--wait=true", "--timeout=30s")
    assert wait_for(lambda: [i for n in late if (i := ingress(c, n))], 60, "the free one to be taken")[0][0]["ip"] == at
    c.kubectl("delete", "service", *names, "--wait=true", "--timeout=60s")
    wait_for(lambda: answers(at) is None, 30, "nothing to listen there")


def test_a_cluster_that_goes_leaves_no_listener(served, clusters):
    """Last."""
    one, two = clusters
    at = address(two, "web")
    assert answers(at)
    two.delete()
    assert answers(at) is None
    service(one, "next")
    assert address(one, "next") == at  # it is free again
