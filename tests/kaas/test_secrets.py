"""Secrets of clusters at rest: with real API servers and etcds. Needs the programs (make kubernetes)."""
import base64
import json
import os
import signal
import ssl
import subprocess
import urllib.request

import pytest

import kube
from cloud import GROUP, wait_for

pytestmark = pytest.mark.kube
CANARY = "canary-8c1f2b"


@pytest.fixture(scope="module")
def served(kubernetes):
    with kube.cloud(kubernetes, kubernetes_key_overlap="5s") as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    c = kube.Cluster(served, "demo", "one", {"backup": {"intervalSeconds": 0}})  # one would keep older keys
    c.wait()
    c.kubectl("create", "secret", "generic", "first", f"--from-literal=word={CANARY}")
    c.kubectl("create", "configmap", "seen", "--from-literal=word=config-5d2e77")
    return c


def lying(cluster, text):
    """Files of the cluster's directory that have a text in them, as it is or as base64."""
    forms = [text.encode(), base64.b64encode(text.encode())[:-4]]
    return [str(p) for p in cluster.directory.rglob("*") if p.is_file() and any(f in p.read_bytes() for f in forms)]


def word(cluster, name="first"):
    p = cluster.kubectl("get", "secret", name, "-o", "jsonpath={.data.word}", check=False)
    return base64.b64decode(p.stdout).decode() if p.returncode == 0 else p.stderr


def keys(cloud, cluster):
    return [k["id"] for k in cloud.api("GET", f"{GROUP}/namespaces/{cluster.ns}/clusterkeys/{cluster.uid}")["spec"]["keys"]]


def under(cluster):
    c = cluster.wait(kind="SecretsEncrypted", reason="Encrypted")
    return c["message"].rsplit(" ", 1)[1]


@pytest.mark.core
def test_a_stolen_directory_yields_no_secret(served, made):
    assert word(made) == CANARY
    assert under(made) == keys(served, made)[0]
    assert lying(made, "config-5d2e77"), "what is not sealed is found: the search works"
    assert lying(made, CANARY) == []
    # Nor does the key lie there, nor in what the runtime knows, nor in the store.
    key = served.api("GET", f"{GROUP}/namespaces/demo/clusterkeys/{made.uid}")["spec"]["keys"][0]["key"]
    forms = [key.encode(), base64.b64decode(key), base64.b64decode(key).hex().encode()]
    files = [p for p in served.data.rglob("*") if p.is_file()]
    assert len(files) > 20 and [str(p) for p in files if any(f in p.read_bytes() for f in forms)] == []
    pid = made.pids()["kms"]
    for name in ("cmdline", "environ"):
        assert not any(f in open(f"/proc/{pid}/{name}", "rb").read() for f in forms)
    for socket in ("kms.sock", "kctl.sock"):
        assert (made.directory / socket).stat().st_mode & 0o777 == 0o600
    assert os.stat(f"/proc/{pid}/mem").st_uid == 0 and "Max core file size        0                    0" in open(f"/proc/{pid}/limits").read()


def test_nobody_but_the_controller_sees_keys(served, made):
    for role in ("view", "edit", "admin"):
        p = served.kubectl("auth", "can-i", "get", "clusterkeys.seki.cloud", "-n", "demo", "--as", f"somebody-{role}", check=False)
        assert p.stdout.strip() == "no"
    roles = served.api("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
    assert "clusterkeys" not in json.dumps([r.get("rules") for r in roles if r["metadata"]["name"] != "cluster-admin"])


@pytest.mark.core
def test_a_killed_plugin_heals_and_the_api_goes_on(served, made):
    before = made.pids()
    os.kill(before["kms"], signal.SIGKILL)
    assert word(made) == CANARY
    made.kubectl("create", "secret", "generic", "meanwhile", f"--from-literal=word={CANARY}2")
    wait_for(lambda: made.pids().get("kms", before["kms"]) != before["kms"], 30, "another plugin")
    made.wait()
    assert word(made, "meanwhile") == CANARY + "2"
    # The API server started anew has nothing in memory: it asks the new plugin.
    os.kill(before["apiserver"], signal.SIGKILL)
    wait_for(lambda: word(made) == CANARY, 60, "the secret")
    made.wait()
    assert word(made, "meanwhile") == CANARY + "2" and lying(made, CANARY) == []


def test_a_killed_sekid_is_not_missed(served, made):
    before = made.pids()
    for pid in (served.process.pid, served.role_pid("control"), served.role_pid("gateway")):
        os.kill(pid, signal.SIGKILL)
    served.process.wait()
    assert word(made) == CANARY
    made.kubectl("create", "secret", "generic", "alone", f"--from-literal=word={CANARY}3")
    served.start()
    made.wait()
    assert made.pids() == before and word(made, "alone") == CANARY + "3"


def test_a_new_key_of_the_tenant_is_a_new_key_of_the_cluster(served, made):
    old = keys(served, made)[0]
    for i in range(5):
        made.kubectl("create", "secret", "generic", f"many-{i}", f"--from-literal=word={CANARY}-{i}")
    pids = made.pids()
    served.seki("secrets", "rotate")
    wait_for(lambda: keys(served, made)[0] != old, 60, "another key")
    new = keys(served, made)[0]
    wait_for(lambda: made.get() and under(made) == new, 240, "all Secrets under it")
    wait_for(lambda: keys(served, made) == [new], 60, "the old one to go")
    assert all(word(made, f"many-{i}") == f"{CANARY}-{i}" for i in range(5)) and word(made) == CANARY
    # With the new key alone, and nothing in memory.
    os.kill(pids["apiserver"], signal.SIGKILL)
    os.kill(pids["kms"], signal.SIGKILL)
    wait_for(lambda: word(made) == CANARY, 60, "the secret")
    made.wait()
    assert all(word(made, f"many-{i}") == f"{CANARY}-{i}" for i in range(5))


def test_a_wrong_key_is_named(served, made):
    """Another key in place of the right one: nothing opens, and everybody says which one is missing."""
    path = f"{GROUP}/namespaces/demo/clusterkeys/{made.uid}"
    right = served.api("GET", path)
    wrong = json.loads(json.dumps(right))
    wrong["spec"]["keys"] = [{"id": "ab" * 16, "key": base64.b64encode(bytes(32)).decode(), "tenantKey": right["spec"]["keys"][0]["tenantKey"]}]
    served.api("PUT", path, wrong)
    os.kill(made.pids()["apiserver"], signal.SIGKILL)
    said = f"key {right['spec']['keys'][0]['id']} is none of this cluster's keys"
    wait_for(lambda: said in word(made), 90, "the error")
    now = served.api("GET", path)
    now["spec"] = right["spec"]
    served.api("PUT", path, now)
    wait_for(lambda: word(made) == CANARY, 90, "the secret")
    made.wait()


def test_lost_keys_are_not_made_anew(served, made):
    path = f"{GROUP}/namespaces/demo/clusterkeys/{made.uid}"
    kept = served.api("GET", path)
    served.api("DELETE", path)
    c = made.wait("False", "KeyMissing")
    assert "others are not made over that" in c["message"]
    assert word(made) == CANARY, "the plugin has them still"
    kept["metadata"] = {"name": made.uid, "ownerReferences": kept["metadata"]["ownerReferences"]}
    served.api("POST", path.rsplit("/", 1)[0], kept)
    made.wait()
    assert word(made) == CANARY


def said_now(cluster):
    return cluster.cloud.condition("clusters", cluster.ns, cluster.name, "SecretsEncrypted").get("message", "")


def put_in_clear(cluster, name):
    """Into etcd, as an API server without configuration does it."""
    pki = cluster.directory / "pki"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default", "uid": "b6b6f1c4-8d1f-4d0c-9a55-0c7c31f0c0de"},
              "data": {"word": base64.b64encode(CANARY.encode()).decode()}, "type": "Opaque"}
    body = {"key": base64.b64encode(f"/registry/secrets/default/{name}".encode()).decode(), "value": base64.b64encode(json.dumps(secret).encode()).decode()}
    context = ssl.create_default_context(cafile=str(pki / "etcd-ca.crt"))
    context.load_cert_chain(pki / "apiserver-etcd-client.crt", pki / "apiserver-etcd-client.key")
    url = f"https://{cluster.get()['status']['address']}:2379/v3/kv/put"
    with urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(body).encode(), method="POST"), context=context, timeout=20) as r:
        assert r.status == 200


def test_a_cluster_from_before_is_migrated(served, made):
    """As it was before there was a plugin: secrets in clear, an API server without configuration."""
    c = kube.Cluster(served, "demo", "old", {"network": {"serviceCIDR": "10.112.0.0/16"}})
    c.wait()
    # One that may not be written keeps none of the others from it.
    c.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "stubborn"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}]},
            "validations": [{"expression": "object.metadata.name != 'stubborn'", "message": "it stays as it is"}]}},
        {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "stubborn"}, "spec": {"policyName": "stubborn", "validationActions": ["Deny"]}}]}))
    wait_for(lambda: "it stays as it is" in c.kubectl("create", "secret", "generic", "stubborn", "--dry-run=server", check=False).stderr, 60, "the policy to hold")
    conf = c.directory / "conf" / "encryption.json"
    was = json.loads(conf.read_text())
    was["resources"][0]["providers"].append({"identity": {}})
    conf.write_text(json.dumps(was))
    os.kill(c.pids()["apiserver"], signal.SIGKILL)  # reads its configuration now and not within a minute
    put_in_clear(c, "first")
    put_in_clear(c, "stubborn")
    wait_for(lambda: word(c) == CANARY, 90, "the secret")
    said = c.wait("False", "Migrating", kind="SecretsEncrypted")["message"]
    wait_for(lambda: "Secret stubborn in default: " in said_now(c) and said_now(c).startswith("1 of "), 90, f"the other to be sealed, after {said}")
    assert len(json.loads(conf.read_text())["resources"][0]["providers"]) == 2
    c.kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "stubborn")
    c.wait()
    wait_for(lambda: len(json.loads(conf.read_text())["resources"][0]["providers"]) == 1, 150, "identity to go")
    under(c)
    assert word(c) == CANARY
    db = (c.directory / "etcd" / "member" / "snap" / "db").read_bytes()
    assert b"/registry/secrets/default/first" in db and base64.b64encode(CANARY.encode())[:-4] not in db, "nor does its history have it"
    c.delete()


def test_nothing_of_the_key_is_left(served, made):
    made.delete()
    wait_for(lambda: not served.api("GET", f"{GROUP}/namespaces/demo/clusterkeys")["items"], 30, "the keys to go")
    assert subprocess.run(["pgrep", "-f", made.uid], capture_output=True).returncode == 1
