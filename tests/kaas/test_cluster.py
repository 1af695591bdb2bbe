"""Control planes of Kubernetes, real ones: made, used with kubectl, killed, adopted, removed. Needs the programs (make kubernetes)."""
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest

import kube
from cloud import GROUP, KUBECTL, wait_for

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def served(kubernetes):
    with kube.cloud(kubernetes) as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    return kube.Cluster.ready(served, "demo", "one")


def unauthenticated(cluster, path):
    context = ssl.create_default_context(cafile=str(cluster.directory / "pki" / "ca.crt"))
    try:
        with urllib.request.urlopen(cluster.get()["status"]["endpoint"] + path, context=context, timeout=10) as r:
            return r.status
    except urllib.error.HTTPError as e:
        return e.code


@pytest.mark.core
def test_a_cluster_is_made_and_used(served, made):
    obj = made.get()
    status = obj["status"]
    conditions = {c["type"]: c for c in status["conditions"]}
    names = ["CertificatesReady", "StoreReady", "APIServerReady", "ControllersReady", "AccessReady"]
    assert [s["name"] for s in status["stages"]] == names
    assert all(s["attempt"] == 1 and s["startedAt"] < s["deadline"] and s["milliseconds"] >= 0 for s in status["stages"])
    assert all(conditions[n]["status"] == "True" and conditions[n]["message"].startswith("took ") for n in names)
    assert status["version"].startswith("v1.37.") and status["createMilliseconds"] > 0
    assert "kube-system" in made.kubectl("get", "ns").stdout
    assert made.kubectl("auth", "can-i", "*", "*").stdout.strip() == "yes"
    # The controllers do their work, and the store keeps what it is given.
    made.kubectl("create", "namespace", "shop")
    wait_for(lambda: "default" in made.kubectl("-n", "shop", "get", "serviceaccounts").stdout, 30, "the controllers' ServiceAccount")
    made.kubectl("-n", "shop", "create", "configmap", "kept", "--from-literal=a=b")
    assert made.kubectl("get", "--raw", "/readyz").stdout == "ok"
    assert served.kubectl("-n", "demo", "get", "clusters").stdout.splitlines()[1].split()[:4] == ["one", status["version"], "True", "Running"]


@pytest.mark.core
def test_nobody_gets_in_without_credentials(made):
    assert [unauthenticated(made, p) for p in ("/readyz", "/livez", "/api", "/version", "/metrics")] == [200, 200, 401, 401, 401]
    address = made.get()["status"]["address"]
    context = ssl.create_default_context(cafile=str(made.directory / "pki" / "etcd-ca.crt"))
    with pytest.raises((ssl.SSLError, ConnectionError, urllib.error.URLError)):
        urllib.request.urlopen(f"https://{address}:2379/version", context=context, timeout=10)


@pytest.mark.core
@pytest.mark.parametrize("component", kube.COMPONENTS)
def test_what_is_killed_comes_back_alone(made, component):
    before = made.pids()
    os.kill(before[component], signal.SIGKILL)
    wait_for(lambda: made.pids().get(component, before[component]) != before[component], 30, f"another {component}")

    def heals():
        return made.kubectl("-n", "shop", "get", "configmap", "kept", check=False).returncode == 0
    wait_for(heals, 60, "kubectl to work")
    made.wait()
    after = made.pids()
    assert {c: p for c, p in after.items() if c != component} == {c: p for c, p in before.items() if c != component}


@pytest.mark.core
def test_a_killed_sekid_restarts_no_component(served, made):
    before = made.pids()
    assert set(before) == set(kube.COMPONENTS)
    served.kill_role("control")
    served.wait_ready()
    made.wait()
    roles = [served.role_pid("control"), served.role_pid("gateway")]
    for pid in (served.process.pid, *roles):
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    assert made.pids() == before
    assert made.kubectl("get", "--raw", "/readyz").stdout == "ok"  # while nobody looks after it
    served.start()
    made.wait()
    served.stop(signal.SIGTERM)
    served.start()
    made.wait()
    # Looked at by the new one, and left as they are.
    wait_for(lambda: served.metrics().count("seki_clusters_ready 1"), what="the Cluster to be counted")
    assert made.pids() == before


def seconds_to_end(cloud, workload):
    """From the moment that it was to be another until it had ended; the last time."""
    begun = ended = None
    for line in cloud.log.read_text(errors="replace").splitlines():
        r = json.loads(line) if line.startswith("{") else {}
        if r.get("workload") == workload and r["msg"] == "workload is changed":
            begun, ended = datetime.datetime.fromisoformat(r["ts"]), None
        elif r.get("workload") == workload and r["msg"] == "workload ended" and begun and not ended:
            ended = datetime.datetime.fromisoformat(r["ts"])
    return (ended - begun).total_seconds()


@pytest.mark.core
def test_of_another_size_it_keeps_everything_and_watches_hold_nothing_up(served, made):
    """Asked to end, etcd waits for watches: 7 s, or until the API server, which is another here too, has been killed. All that while nobody would be answered."""
    before = made.pids()
    made.kubectl("-n", "shop", "create", "configmap", "last")
    served.api("PATCH", made.path, {"spec": {"controlPlane": {"size": "Medium"}}}, "application/merge-patch+json")
    changes = [c for c in kube.COMPONENTS if c != "kms"]
    wait_for(lambda: all(made.pids().get(c, before[c]) != before[c] for c in changes), 120, "all of them to be others")
    made.wait()
    assert made.pids()["kms"] == before["kms"]
    made.kubectl("-n", "shop", "get", "configmap", "kept", "last")
    assert seconds_to_end(served, made.workload("etcd")) < 2


def test_another_name_needs_no_restart(served, made):
    before = made.pids()
    served.api("PATCH", made.path, {"spec": {"endpointNames": ["api.shop.example"]}}, "application/merge-patch+json")
    context = ssl.create_default_context(cafile=str(made.directory / "pki" / "ca.crt"))

    def shown():
        try:
            with socket.create_connection((made.get()["status"]["address"], 6443), timeout=10) as s, context.wrap_socket(s, server_hostname="api.shop.example"):
                return True
        except ssl.SSLCertVerificationError:
            return False
    wait_for(shown, 90, "the API server to show the new certificate")
    made.wait()
    assert made.pids() == before


@pytest.mark.core
def test_two_clusters_do_not_trust_each_other(served, made):
    other = kube.Cluster(served, "demo", "two", {"network": {"serviceCIDR": "10.112.0.0/16"}})
    other.wait()
    assert other.get()["status"]["address"] != made.get()["status"]["address"]
    assert "shop" not in other.kubectl("get", "ns").stdout
    made.kubectl("get", "ns")
    p = subprocess.run([KUBECTL, "--kubeconfig", made.kubeconfig, "--server", other.get()["status"]["endpoint"], "--certificate-authority", str(other.directory / "pki" / "ca.crt"),
                        "get", "ns"], capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "asked for the client to provide credentials" in p.stderr, p
    # Deleted, nothing of it is left, and its neighbour has noticed nothing.
    before, pids, address, directory = made.pids(), other.pids(), other.get()["status"]["address"], other.directory
    assert set(pids) == set(kube.COMPONENTS)
    other.delete()
    assert not other.pids() and not any(os.path.exists(f"/proc/{p}") for p in pids.values())
    assert not directory.exists() and not list((served.data / "log").glob("kc-demo-two-*"))
    assert not list((served.data / "run" / "workloads").glob("kc-demo-two-*"))
    for port in kube.PORTS:
        with socket.socket() as s:
            assert s.connect_ex((address, port)) != 0, port
    assert "two-kubeconfig" not in served.kubectl("-n", "demo", "get", "secrets").stdout
    events = served.api("GET", "/api/v1/namespaces/demo/events")["items"]
    removed = [e["message"] for e in events if e["reason"] == "ClusterRemoved"]
    assert len(removed) == 1 and removed[0].startswith("5 processes ended") and removed[0].endswith("no process, file or listener is left"), removed
    assert made.pids() == before


@pytest.mark.parametrize("stage", ["CertificatesReady", "StoreReady", "APIServerReady"])
def test_it_can_be_deleted_at_any_stage(served, stage):
    c = kube.Cluster(served, "demo", "early")
    c.wait(kind=stage)
    directory = c.directory
    c.delete()
    assert not c.pids() and not directory.exists()


def test_its_kubeconfig_comes_back(served, made):
    first = open(made.kubeconfig).read()
    served.api("DELETE", "/api/v1/namespaces/demo/secrets/one-kubeconfig")

    def again():
        p = served.kubectl("-n", "demo", "get", "secret", "one-kubeconfig", check=False)
        return p.returncode == 0
    wait_for(again, 30, "the Secret")
    assert open(made.kubeconfig).read() == first


def test_a_secret_of_that_name_is_not_written_over(served, made):
    served.api("POST", "/api/v1/namespaces/demo/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "third-kubeconfig"}, "data": {"mine": "bWluZQ=="}})
    c = kube.Cluster(served, "demo", "third")
    c.wait("False", "SecretTaken")
    c.delete()
    assert served.api("GET", "/api/v1/namespaces/demo/secrets/third-kubeconfig")["data"] == {"mine": "bWluZQ=="}


def test_the_command_line(served, tmp_path):
    p = served.seki("-n", "demo", "cluster", "create", "cli", "--size", "Medium", "--service-cidr", "10.112.0.0/16", "--endpoint-name", "cli.example")
    assert "is ready: https://127." in p.stdout and [line.split()[0] for line in p.stderr.splitlines()] == ["CertificatesReady", "StoreReady", "APIServerReady", "ControllersReady", "AccessReady"], p
    assert [line.split()[2] for line in served.seki("-n", "demo", "status").stdout.splitlines() if "cluster/cli " in line] == ["Ready"]
    file = tmp_path / "cli.kubeconfig"
    served.seki("-n", "demo", "cluster", "kubeconfig", "cli", "--out", file)
    assert file.stat().st_mode & 0o777 == 0o600
    p = subprocess.run([KUBECTL, "--kubeconfig", str(file), "get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"], capture_output=True, text=True, timeout=60)
    assert p.stdout == "10.112.0.1", p
    assert served.seki("-n", "demo", "cluster", "kubeconfig", "cli").stdout == file.read_text()
    p = served.seki("-n", "demo", "cluster", "create", "bad", "--service-cidr", "10.244.0.0/16", check=False)
    assert p.returncode == 1 and "spec.network.serviceCIDR" in p.stderr
    assert "nothing of it is left" in served.seki("-n", "demo", "cluster", "delete", "cli").stdout
    for args in (["kubeconfig", "cli"], ["delete", "cli"]):
        p = served.seki("-n", "demo", "cluster", *args, check=False)
        assert p.returncode == 1 and "project demo has no cluster cli" in p.stderr, p


def test_a_suspended_tenant_reaches_none_of_its_clusters(served):
    """Its store goes on and keeps what it has; nobody else's cluster is touched."""
    def state(s):
        served.api("PATCH", f"{GROUP}/tenants/owing", {"spec": {"state": s}}, content_type="application/merge-patch+json")
    served.project("owing-one", tenant="owing")
    c = kube.Cluster(served, "owing-one", "mine")
    c.wait()
    c.kubectl("create", "configmap", "kept")
    before, other = c.pids(), served.api("GET", f"{GROUP}/namespaces/demo/clusters/one")
    state("Suspended")
    assert "tenant owing is suspended" in c.wait("False", "TenantSuspended")["message"]
    wait_for(lambda: set(c.pids()) == {"etcd", "kms"}, what="only the store and what opens it")
    assert c.pids()["etcd"] == before["etcd"]
    assert c.kubectl("get", "ns", check=False).returncode
    os.kill(before["etcd"], signal.SIGKILL)  # nobody needs it: it need not come back, nor does anything else
    state("Active")
    c.wait()
    assert set(c.pids()) == set(kube.COMPONENTS) and c.kubectl("get", "configmap", "kept").returncode == 0
    assert served.api("GET", f"{GROUP}/namespaces/demo/clusters/one")["status"]["conditions"] == other["status"]["conditions"]
    state("Suspended")
    c.delete()
    assert not c.pids() and not c.directory.exists()


@pytest.mark.core
def test_stopped_with_ctrl_c_and_started_again(served, made):
    """Last: the store keeps what it has, and what is lost is not made anew in silence."""
    before = made.pids()
    served.stop(signal.SIGINT)
    assert not made.pids() and len(before) == 5 and all(kube.has_ended(p) for p in before.values())
    served.start()
    made.wait()
    made.kubectl("-n", "shop", "get", "configmap", "kept")
    served.stop(signal.SIGINT)
    made.directory.rename(served.dir / "lost")
    served.start()
    c = made.wait("False", "DataMissing")
    assert "not made anew" in c["message"] and not made.pids()
    made.delete()


@pytest.mark.full
def test_certificates_are_made_anew_and_nothing_restarts(kubernetes):
    """Good for 160 s, and for 300 s before they are made: a third is left after 7 s."""
    with kube.cloud(kubernetes, kubernetes_certificate_life="160s") as cloud:
        c = kube.Cluster.ready(cloud, "demo", "short")
        pids, leaves = c.pids(), ["admin", "apiserver", "apiserver-etcd-client", "etcd", "controllers", "front-proxy-client"]

        def read():
            return {name: (c.directory / "pki" / f"{name}.crt").read_text() for name in [*leaves, "ca", "etcd-ca"]}
        first, config = read(), open(c.kubeconfig).read()
        wait_for(lambda: all(read()[n] != first[n] for n in leaves), 60, "other certificates")
        wait_for(lambda: open(c.kubeconfig).read() != config, 30, "another kubeconfig")
        now = read()
        assert now["ca"] == first["ca"] and now["etcd-ca"] == first["etcd-ca"]
        # Past the end of the first ones: everybody has gone over to new ones.
        wait_for(lambda: subprocess.run(["openssl", "x509", "-checkend", "0", "-noout"], input=first["admin"], text=True, capture_output=True).returncode == 1, 200, "the first to end")
        c.kubectl("create", "namespace", "later")
        wait_for(lambda: "default" in c.kubectl("-n", "later", "get", "serviceaccounts").stdout, 60, "the controllers' ServiceAccount")
        c.wait()
        assert c.pids() == pids
