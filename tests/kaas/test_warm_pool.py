"""Control planes that are made before anybody asks for them (kubernetes-warm-clusters), with real programs. Needs them (make kubernetes)."""
import base64
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

import kube
from cloud import GROUP, KUBECTL, Cloud, wait_for
from issuer import several

pytestmark = pytest.mark.kube
CANARY = "canary-4e71d0"


@pytest.fixture(scope="module")
def issuers(tmp_path_factory):
    with several(tmp_path_factory.mktemp("issuers"), {"demo": {}, "blue": {}}) as made:
        yield made


@pytest.fixture(scope="module")
def authentication(issuers, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "authentication.yaml"
    file.write_text(json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": issuers[t].url, "audiences": ["seki"], "certificateAuthority": issuers[t].ca.read_text()}, "tenant": t, "claimMappings": {"username": {"claim": "sub"}}} for t in issuers]}))
    return file


@pytest.fixture(scope="module")
def served(kubernetes, authentication):
    with kube.cloud(kubernetes, (), kubernetes_warm_clusters=1, kubernetes_key_overlap="5s", authentication_config=authentication) as c:
        c.tenant("demo")
        c.tenant("blue")
        yield c


def metric(cloud, name):
    return next((int(float(line.split()[1])) for line in cloud.metrics().splitlines() if line.startswith(f"{name} ")), None)


def directories(cloud):
    root = cloud.data / "clusters"
    return {d.name for d in root.iterdir()} if root.exists() else set()


def record(cloud, uid):
    try:
        return json.loads((cloud.data / "clusters" / uid / "cluster.json").read_text())
    except (OSError, ValueError):
        return {}


def unclaimed(cloud):
    return {uid for uid in directories(cloud) if record(cloud, uid).get("warm")}


def warm(cloud, count=1, timeout=180):
    """Waits until so many are ready: their uids."""
    wait_for(lambda: metric(cloud, "seki_clusters_warm") == count, timeout, f"{count} warm control planes ({cloud.tail()})")
    return unclaimed(cloud)


def pids_of(cloud, uid):
    return {name.rsplit("-", 1)[1]: pids[-1] for name, pids in kube.warm_left(cloud).items() if name.startswith(f"{kube.WARM}{uid[:8]}-")}


def reason(cluster, kind="CertificatesReady"):
    return cluster.cloud.condition("clusters", cluster.ns, cluster.name, kind).get("reason")


def word(cluster, name="first"):
    p = cluster.kubectl("get", "secret", name, "-o", "jsonpath={.data.word}", check=False)
    return base64.b64decode(p.stdout).decode() if p.returncode == 0 else p.stderr


def keep_a_secret(cluster, name="first"):
    cluster.kubectl("create", "secret", "generic", name, f"--from-literal=word={CANARY}")


def opened_by_an_api_server_that_knows_nothing(cluster, name="first"):
    os.kill(cluster.pids()["apiserver"], signal.SIGKILL)
    wait_for(lambda: word(cluster, name) == CANARY, 90, "the secret")
    cluster.wait()


def keys(cluster):
    return [k["id"] for k in cluster.cloud.api("GET", f"{GROUP}/namespaces/{cluster.ns}/clusterkeys/{cluster.uid}")["spec"]["keys"]]


def audit(cluster):
    p = cluster.cloud.seki("-n", cluster.ns, "cluster", "audit", cluster.name)
    return [json.loads(line) for line in p.stdout.splitlines()]


def kill_sekid(cloud):
    for pid in (cloud.process.pid, cloud.role_pid("control"), cloud.role_pid("gateway")):
        if pid:
            os.kill(pid, signal.SIGKILL)
    cloud.process.wait()


def nothing_is_left_but(cloud, uids):
    wait_for(lambda: directories(cloud) == uids, 60, f"directories {uids}, there are {directories(cloud)}")
    begins = {f"{kube.WARM}{uid[:8]}" for uid in uids}
    wait_for(lambda: {name.rsplit("-", 1)[0] for name in kube.warm_left(cloud)} <= begins, 60, f"no other processes than {begins}")


# ---- a claim ----

@pytest.fixture(scope="module")
def claimed(served):
    """The cluster that got the place, and what the place was like before."""
    uid, = warm(served)
    before = pids_of(served, uid)
    there = {p.name for p in (served.data / "clusters" / uid / "pki").iterdir()}
    began, wall = time.monotonic(), time.time()
    c = kube.Cluster(served, "demo", "one", {"endpointNames": ["api.demo.example"], "backup": {"intervalSeconds": 0}})
    while served.condition("clusters", "demo", "one").get("status") != "True":
        assert time.monotonic() - began < 120, c.get()
        time.sleep(0.005)
    c.seconds, c.asked_at, c.before, c.files, c.place = time.monotonic() - began, wall, before, there, uid
    print(f"claimed and Ready {c.seconds:.3f} s after the POST; {c.get()['status']['stages']}")
    return c


@pytest.mark.core
def test_a_cluster_gets_what_was_made_before(served, claimed):
    assert claimed.uid == claimed.place and claimed.claimed
    assert claimed.pids() == claimed.before and set(claimed.before) == set(kube.COMPONENTS), "nothing was started"
    assert reason(claimed) == "Claimed"
    events = [e for e in served.api("GET", "/api/v1/namespaces/demo/events")["items"] if e["reason"] == "ClusterReady"]
    assert any("had been made before, and was claimed" in e["message"] for e in events)
    assert claimed.seconds < 5, "making one takes longer"
    assert metric(served, "seki_cluster_claim_seconds_count") >= 1 and metric(served, "seki_clusters_warm_wanted") == 1
    claimed.kubectl("create", "configmap", "seen", "--from-literal=word=x")
    assert claimed.kubectl("get", "configmap", "seen", "-o", "jsonpath={.data.word}").stdout == "x"


def test_credentials_and_names_are_its_own(served, claimed):
    """No administrator's certificate was there before; the serving one is of the claim, and has the endpoint's name when the cluster says Ready."""
    assert not {"admin.crt", "admin.key"} & claimed.files and "apiserver.crt" in claimed.files
    address = claimed.get()["status"]["address"]
    shown = subprocess.run(["openssl", "s_client", "-connect", f"{address}:6443", "-servername", "api.demo.example"], stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    text = subprocess.run(["openssl", "x509", "-noout", "-text"], input=shown, capture_output=True, check=True).stdout.decode()
    assert "DNS:api.demo.example" in text and f"IP Address:{address}" in text
    claimed.kubectl("--tls-server-name", "api.demo.example", "get", "--raw", "/readyz")
    for name in ("admin.crt", "apiserver.crt"):
        assert (claimed.directory / "pki" / name).stat().st_mtime >= claimed.asked_at - 1
    assert (claimed.directory / "pki" / "ca.crt").stat().st_mtime < claimed.asked_at


def test_its_audit_log_begins_with_the_claim(served, claimed):
    claimed.kubectl("create", "configmap", "audited")
    wait_for(lambda: any(e.get("objectRef", {}).get("name") == "audited" for e in audit(claimed)), 30, "the record")
    files = list((claimed.directory / "audit").iterdir())
    assert [f.name for f in files] == ["audit.log"] and b"\0" not in files[0].read_bytes()
    first = audit(claimed)[0]["requestReceivedTimestamp"]
    asked = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(claimed.asked_at - 1))
    assert first >= asked, f"{first} is before {asked}"


def test_its_secrets_lie_under_its_own_key_and_follow_its_tenants(served, claimed):
    keep_a_secret(claimed)
    said = claimed.wait(kind="SecretsEncrypted", reason="Encrypted")
    old = keys(claimed)
    wait_for(lambda: claimed.cloud.condition("clusters", "demo", "one", "SecretsEncrypted")["message"].endswith(old[0]), 60, said["message"])
    forms = [CANARY.encode(), base64.b64encode(CANARY.encode())[:-4]]
    assert [str(p) for p in claimed.directory.rglob("*") if p.is_file() and any(f in p.read_bytes() for f in forms)] == []
    opened_by_an_api_server_that_knows_nothing(claimed)
    served.seki("secrets", "rotate")
    wait_for(lambda: keys(claimed)[0] != old[0], 60, "another key")
    wait_for(lambda: keys(claimed) == [keys(claimed)[0]] and keys(claimed) != old, 300, "the old one to go")
    os.kill(claimed.pids()["kms"], signal.SIGKILL)
    opened_by_an_api_server_that_knows_nothing(claimed)


def who(cluster, token):
    status = cluster.get()["status"]
    ca, file = cluster.cloud.dir / f"{cluster.name}.ca.crt", cluster.cloud.dir / "nobody.kubeconfig"
    ca.write_text(status["certificateAuthority"])
    file.write_text("apiVersion: v1\nkind: Config\n")
    p = subprocess.run([KUBECTL, "--kubeconfig", str(file), "--server", status["endpoint"], "--certificate-authority", str(ca), "--token", token, "auth", "whoami", "-o",
                        "jsonpath={.status.userInfo.username}"], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "HOME": str(cluster.cloud.dir), "KUBECACHEDIR": str(cluster.cloud.dir / "kubecache-user")})
    return p.stdout or p.stderr


def test_people_of_its_tenant_come_in_and_nobody_elses(served, claimed, issuers):
    wait_for(lambda: who(claimed, issuers["demo"].token("ann")) == "demo:ann", 90, "the tenant's issuer to be known")
    said = who(claimed, issuers["blue"].token("ann"))
    assert "provide credentials" in said or "Unauthorized" in said, said


def test_its_logs_are_its_tenants_to_read(served, claimed):
    p = served.seki("-n", "demo", "cluster", "logs", "one", "--component", "apiserver", check=False)
    assert p.returncode == 0 and p.stdout, p


def test_deletion_leaves_nothing_of_it_and_its_place_does_not_come_back(served, claimed):
    uid = claimed.uid
    claimed.delete()
    assert uid not in directories(served) and pids_of(served, uid) == {}
    assert [p for p in (served.data / "log").iterdir() if uid[:8] in p.name] == []
    assert uid not in warm(served)


def test_what_it_weighs_is_told(served):
    uid, = warm(served)
    told = wait_for(lambda: metric(served, "seki_clusters_warm_memory_bytes"), 120, "its memory") / 2**20
    print(f"a warm control plane: {told:.0f} MiB by seki_clusters_warm_memory_bytes")
    assert 50 < told < 2000


# ---- who gets it ----

def test_two_at_once_and_one_place(served):
    warm(served)
    made = {}
    threads = [threading.Thread(target=lambda n=n: made.setdefault(n, kube.Cluster(served, n, "twin"))) for n in ("demo", "blue")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(c.claimed for c in made.values()) == [False, True]
    assert made["demo"].uid != made["blue"].uid
    for c in made.values():
        c.wait()
        keep_a_secret(c)
    assert {c.claimed: reason(c) for c in made.values()} == {True: "Claimed", False: "Done"}
    assert made["demo"].get()["status"]["address"] != made["blue"].get()["status"]["address"]
    assert keys(made["demo"]) != keys(made["blue"])
    for c in made.values():
        c.delete()


def test_who_wants_something_else_is_not_given_it(served):
    there = warm(served)
    for n, spec in enumerate([{"controlPlane": {"size": "Medium"}}, {"network": {"serviceCIDR": "10.112.0.0/16"}}, {"audit": {"policy": "Request"}}, {"controlPlane": {"replicas": 3}}]):
        c = kube.Cluster(served, "demo", f"other-{n}", spec)
        assert not c.claimed and c.uid not in there, spec
        c.delete()
    assert unclaimed(served) == there
    served.kubectl("-n", "demo", "create", "--dry-run=server", "-f", "-", input=json.dumps({"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": "dry"}}))
    assert warm(served) == there, "who only tries gets nothing"


# ---- what is killed ----

def test_a_place_whose_process_dies_heals(served):
    uid, = warm(served)
    before = pids_of(served, uid)
    for component in ("kms", "apiserver", "etcd"):
        os.kill(before[component], signal.SIGKILL)
    wait_for(lambda: all(pids_of(served, uid).get(c) not in (None, before[c]) for c in ("kms", "apiserver", "etcd")), 60, "others in their place")
    assert warm(served) == {uid}
    c = kube.Cluster.ready(served, "demo", "healed")
    assert c.claimed and c.uid == uid
    keep_a_secret(c)
    opened_by_an_api_server_that_knows_nothing(c)
    c.delete()


def test_a_place_without_files_is_thrown_away(served):
    uid, = warm(served)
    (served.data / "clusters" / uid / "cluster.json").unlink()
    wait_for(lambda: uid not in directories(served) and pids_of(served, uid) == {}, 90, "it to go")
    assert uid not in warm(served)


def test_a_killed_sekid_finds_it_again_and_restarts_nothing(served):
    uid, = warm(served)
    before = pids_of(served, uid)
    kill_sekid(served)
    served.start()
    assert warm(served) == {uid} and pids_of(served, uid) == before
    c = kube.Cluster.ready(served, "demo", "found")
    assert c.claimed and c.uid == uid and c.pids() == before
    keep_a_secret(c)
    c.wait(kind="SecretsEncrypted", reason="Encrypted")
    opened_by_an_api_server_that_knows_nothing(c)
    c.delete()


@pytest.mark.parametrize("after", [0, 0.03, 0.06, 0.1, 0.15, 0.25])
def test_killed_in_the_middle_of_a_claim_it_is_the_clusters(served, after):
    """So many seconds behind the answer to the POST."""
    uid, = warm(served)
    c = kube.Cluster(served, "demo", "killed")
    assert c.claimed and c.uid == uid
    time.sleep(after)  # not a wait: the point at which it is killed
    kill_sekid(served)
    print(f"killed {after} s after the answer: the place was the {'pool' if record(served, uid).get('warm') else 'cluster'}'s on the disk")
    served.start()
    c.wait(timeout=180)
    assert record(served, uid)["name"] == "killed" and not record(served, uid).get("warm")
    keep_a_secret(c)
    c.wait(kind="SecretsEncrypted", reason="Encrypted")
    opened_by_an_api_server_that_knows_nothing(c)
    c.delete()
    nothing_is_left_but(served, warm(served))


def test_killed_while_one_is_made_nothing_is_left(served):
    uid, = warm(served)
    (served.data / "clusters" / uid / "cluster.json").unlink()  # it is thrown away, and another is begun
    wait_for(lambda: unclaimed(served) - {uid}, 90, "another to be begun")
    kill_sekid(served)
    served.start()
    nothing_is_left_but(served, warm(served))


# ---- the option ----

def test_none_are_wanted_any_more_and_none_is_left(served):
    warm(served)
    served.stop(signal.SIGTERM)
    assert kube.warm_left(served), "they are left running, as clusters are"
    served.options["kubernetes-warm-clusters"] = 0
    try:
        served.start()
        nothing_is_left_but(served, set())
        assert kube.warm_left(served) == {} and metric(served, "seki_clusters_warm") == 0
        assert [p for p in (served.data / "log").iterdir() if p.name.startswith(kube.WARM)] == []
        c = kube.Cluster(served, "demo", "cold")
        assert not c.claimed
        c.delete()
    finally:
        served.options["kubernetes-warm-clusters"] = 1
        served.stop(signal.SIGTERM)
        served.start()
    warm(served)


def test_stopped_with_ctrl_c_and_started_again(kubernetes):
    with kube.cloud(kubernetes, kubernetes_warm_clusters=2) as c:
        warm(c, 2)
        c.stop()
        assert kube.warm_left(c) == {}
        c.start()
        there = warm(c, 2)
        nothing_is_left_but(c, there)
        a, b = kube.Cluster(c, "demo", "a"), kube.Cluster(c, "demo", "b")
        assert {a.uid, b.uid} == there
        for cluster in (a, b):
            cluster.wait()
            cluster.kubectl("get", "namespaces")


def test_off_is_off():
    """By default nothing is made, and nothing asks for programs that are not there."""
    with Cloud() as c:
        assert metric(c, "seki_clusters_warm_wanted") == 0 and metric(c, "seki_clusters_warm") == 0
        c.project("demo")
        assert not kube.Cluster(c, "demo", "waits").claimed
        assert pathlib.Path(c.data / "clusters").exists() is False or unclaimed(c) == set()
        c.api("DELETE", f"{GROUP}/namespaces/demo/clusters/waits")
