"""NetworkPolicies of clusters are enforced, within a node and across nodes. Needs root and the programs (make kubernetes)."""
import os
import signal

import pytest

import kube
from cloud import wait_for
from kube import Pool, inside

pytestmark = [pytest.mark.kube, pytest.mark.full]

PODS = {"server": ("default", "server", "workers-0"), "near": ("default", "friend", "workers-0"), "far": ("default", "friend", "workers-1"), "other": ("default", "none", "workers-1"),
        "stranger": ("elsewhere", "friend", "workers-1")}


def policy(name, spec, ns="default"):
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {ns}}}\nspec: {spec}\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube.cloud(kube.node_programs(tmp_path_factory.mktemp("programs"))) as c:
        yield c


class Pods:
    def __init__(self, cluster):
        self.cluster = cluster
        self.address = {n: cluster.pod_address(n, ns=ns) for n, (ns, _, _) in PODS.items()}

    def reaches(self, source, target, port=8080):
        address = self.address.get(target, target)
        p = self.cluster.kubectl("-n", PODS[source][0], "exec", source, "-c", "web", "--", "web", "get", address, str(port), check=False)
        return p.returncode == 0 and "HTTP/1.1 200" in p.stdout

    def expect(self, source, target, good, port=8080):
        wait_for(lambda: self.reaches(source, target, port) == good, 60, f"{source} {'reaches' if good else 'does not reach'} {target}:{port}")

    def apply(self, *texts):
        self.cluster.kubectl("apply", "-f", "-", input="---\n".join(texts))

    def drop(self):
        self.cluster.kubectl("delete", "networkpolicy", "--all", "--all-namespaces")


@pytest.fixture(scope="module")
def pool(served):
    return Pool.ready(kube.Cluster.ready(served, "demo", "one"), "workers", count=2, machine={"memoryMiB": 1024})


@pytest.fixture(scope="module")
def pods(pool):
    c = pool.cluster
    c.kubectl("create", "namespace", "elsewhere")
    c.kubectl("label", "namespace", "elsewhere", "team=other")
    c.apply(*[kube.pod(n, kube.web(f"this is {n}", ports=[{"name": "http", "containerPort": 8080}]), kube.container("more", "web", "serve", "9090", f"more of {n}"),
                       ns=ns, node=node, labels={"app": n, "role": role}, grace=0) for n, (ns, role, node) in PODS.items()])
    for n, (ns, _, _) in PODS.items():
        c.wait_pods(n, ns=ns)
    c.kubectl("expose", "pod", "server", "--port=80", "--target-port=8080")
    return Pods(c)


@pytest.fixture(autouse=True)
def no_policies(pods):
    yield
    pods.drop()
    pods.expect("other", "server", True)


def test_default_deny_closes_both_ways_and_the_kubelet_comes_in(pods):
    for source in ("near", "far", "stranger"):
        pods.expect(source, "server", True)
    pods.apply(policy("deny", "{podSelector: {}, policyTypes: [Ingress]}"))
    for source in ("far", "near", "stranger"):
        pods.expect(source, "server", False)
    assert pods.reaches("far", "stranger")  # another namespace, and the way out, are open
    assert pods.reaches("server", "server")  # itself
    pods.cluster.kubectl("wait", "--for=condition=Ready", "--timeout=30s", "pod/server")  # its probe
    pods.apply(policy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"))
    pods.expect("far", "stranger", False)
    assert not pods.reaches("near", "10.96.0.1", 443) and pods.reaches("stranger", "stranger")


def test_allowed_by_label_and_port(pods):
    service = pods.cluster.kubectl("get", "service", "server", "-o", "jsonpath={.spec.clusterIP}").stdout
    pods.apply(policy("deny", "{podSelector: {}}"),
               policy("friends", "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [friend]}]}}], ports: [{port: http}]}]}"))
    pods.expect("other", "server", False)
    for source in ("near", "far"):
        pods.expect(source, "server", True)
        assert pods.reaches(source, service, 80)
        assert not pods.reaches(source, "server", 9090)
    assert not pods.reaches("stranger", "server") and not pods.reaches("other", service, 80)
    # A label that changes counts at once.
    pods.cluster.kubectl("label", "pod", "other", "role=friend", "--overwrite")
    pods.expect("other", "server", True)
    pods.cluster.kubectl("label", "pod", "other", "role=none", "--overwrite")
    pods.expect("other", "server", False)
    pods.apply(policy("friends", "{podSelector: {matchLabels: {app: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: other}}}], ports: [{port: 9000, endPort: 9100}]}]}"))
    pods.expect("stranger", "server", True, 9090)
    assert not pods.reaches("stranger", "server") and not pods.reaches("far", "server")


def test_the_way_out_by_block_and_label(pods):
    server = pods.address["server"]
    pods.apply(policy("out", f"{{podSelector: {{matchLabels: {{role: friend}}}}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.244.0.0/16, except: [{server}/32]}}}}]}}]}}"))
    pods.expect("far", "server", False)
    pods.expect("near", "server", False)
    assert pods.reaches("far", "near") and pods.reaches("other", "server")
    assert not pods.reaches("far", "10.201.0.1", 6443)
    pods.apply(policy("out", "{podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{protocol: TCP, port: http}]}]}"))
    pods.expect("far", "server", True)
    assert not pods.reaches("far", "near") and not pods.reaches("far", "server", 9090)


def talks(name, node, command):
    return kube.pod(name, kube.container("one", "sh", "-c", command), node=node, labels={"app": name}, grace=0)


def test_a_policy_ends_what_was_open_before_it(pods):
    """A line a second on one connection, and then a policy."""
    c = pods.cluster
    c.apply(talks("listener", "workers-0", "sleep 100000 | busybox nc -l -p 7070 > /tmp/got"))
    c.wait_pods("listener")
    address = c.pod_address("listener")
    c.apply(talks("talker", "workers-1", f"while echo line; do sleep 1; done | busybox nc {address} 7070"))

    def lines():
        return int(c.kubectl("exec", "listener", "--", "sh", "-c", "wc -l < /tmp/got").stdout)
    wait_for(lambda: lines() >= 2, 60, "lines to come")
    before = lines()
    wait_for(lambda: lines() > before, 30, "more")
    pods.apply(policy("deny", "{podSelector: {matchLabels: {app: listener}}}"))
    wait_for(lambda: lines() == _after(3, lines), 60, "the connection to stand still")
    c.kubectl("delete", "pod", "listener", "talker")


def _after(seconds, value):
    import time
    time.sleep(seconds)  # what is looked for is that nothing happens
    return value()


def test_rules_stay_when_the_agent_is_killed_and_new_ones_come(pods, pool):
    pods.apply(policy("deny", "{podSelector: {}}"))
    pods.expect("far", "server", False)
    outer = pool.outer("workers-0")
    before = inside(outer, "seki-agent")
    os.kill(before[0], signal.SIGKILL)
    assert not pods.reaches("far", "server") and not pods.reaches("near", "server")
    wait_for(lambda: inside(outer, "seki-agent") not in ([], before), 30, "another agent")
    pods.drop()
    pods.expect("far", "server", True)
