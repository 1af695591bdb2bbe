"""Who gets into a tenant's cluster, and what the tenant sees of it, with real control planes. Needs the programs (make kubernetes)."""
import base64
import datetime
import json
import os
import subprocess

import pytest

import kube
from cloud import KUBECTL, Cloud, wait_for

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory):
    yield kube.programs(tmp_path_factory.mktemp("programs"))
    kube.end_left()


@pytest.fixture(scope="module")
def served(kubernetes):
    with Cloud(options={"kubernetes-dir": kubernetes, "kubernetes-probe-interval": "500ms"}) as c:
        c.project("demo")
        yield c


@pytest.fixture(scope="module")
def made(served):
    c = kube.Cluster(served, "demo", "one")
    c.wait()
    return c


def kubectl(served, kubeconfig, *args, env=None):
    return subprocess.run([KUBECTL, "--kubeconfig", str(kubeconfig), *args], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "HOME": str(served.dir), "KUBECACHEDIR": str(served.dir / "kubecache-user"), **(env or {})})


def account(served, project, name, role):
    """A service account with a role in its project: the environment in which seki is it."""
    served.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    served.api("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{project}/rolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": project}]})
    token = served.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts/{name}/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    file = served.dir / f"{project}-{name}.kubeconfig"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                                "users": [{"name": "c", "user": {"token": token}}],
                                "clusters": [{"name": "c", "cluster": {"server": served.api_url, "certificate-authority": str(served.data / "pki" / "ca.crt")}}]}))
    return {"KUBECONFIG": str(file)}


# ---- kubeconfigs for people ----

def test_a_user_gets_what_a_binding_gives_and_nothing_else(served, made, tmp_path):
    file = tmp_path / "ann.kubeconfig"
    p = served.seki("-n", "demo", "cluster", "kubeconfig", "one", "--user", "ann", "--group", "team-a", "--group", "team-b", "--life", "20m", "--out", file)
    assert f"credentials of user ann of cluster one are in {file}, good until 20" in p.stderr and file.stat().st_mode & 0o777 == 0o600
    who = kubectl(served, file, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
    assert who.stdout == 'ann ["team-a","team-b","system:authenticated"]', who
    made.kubectl("create", "namespace", "shop")
    made.kubectl("create", "namespace", "other")
    assert "Forbidden" in kubectl(served, file, "-n", "shop", "get", "configmaps").stderr
    made.kubectl("-n", "shop", "create", "rolebinding", "team", "--clusterrole=view", "--group=team-b")
    wait_for(lambda: kubectl(served, file, "-n", "shop", "get", "configmaps").returncode == 0, 30, "the binding to count")
    for args in (["-n", "shop", "get", "secrets"], ["-n", "shop", "create", "configmap", "no"], ["-n", "other", "get", "configmaps"], ["get", "nodes"]):
        assert "forbidden" in kubectl(served, file, *args).stderr.lower(), args
    # Nothing of the request stays, and the key was never there.
    assert made.kubectl("get", "csr", "-o", "name").stdout == ""
    key = [line.split()[1] for line in file.read_text().splitlines() if "client-key-data" in line][0].strip('"')
    assert b"PRIVATE KEY" in base64.b64decode(key)
    secret = base64.b64decode(served.api("GET", "/api/v1/namespaces/demo/secrets/one-kubeconfig")["data"]["kubeconfig"]).decode()
    assert key not in secret and "certificate-authority-data" in file.read_text()


def test_its_certificate_ends_when_it_was_said(served, made):
    begun = datetime.datetime.now(datetime.timezone.utc)
    text = served.seki("-n", "demo", "cluster", "kubeconfig", "one", "--user", "ben", "--life", "10m").stdout
    data = [line.split()[1] for line in text.splitlines() if "client-certificate-data" in line][0].strip('"')
    p = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-subject", "-nameopt", "RFC2253"], input=base64.b64decode(data), capture_output=True, check=True)
    lines = dict(line.split("=", 1) for line in p.stdout.decode().splitlines())
    ends = datetime.datetime.strptime(lines["notAfter"], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=datetime.timezone.utc)
    assert lines["subject"] == "CN=ben"
    assert ends <= datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=10) and ends > begun


@pytest.mark.parametrize("args,said", [
    (["--user", "system:admin"], "begin with system:"), (["--user", "ann", "--group", "system:masters"], "begin with system:"),
    (["--user", "system:node:a", "--group", "system:nodes"], "begin with system:"), (["--user", "ann", "--life", "9m"], "from 10m to 720h"),
    (["--user", "ann", "--life", "721h"], "from 10m to 720h"), (["--group", "team"], "are for --user"), (["--user", "x" * 65], "1 to 64 bytes"), (["--user", ""], "1 to 64 bytes")])
def test_names_of_kubernetes_own_and_lives_without_end_are_refused(served, args, said):
    p = served.seki("-n", "demo", "cluster", "kubeconfig", "one", *args, check=False)
    assert p.returncode == 2 and said in p.stderr, p


def test_only_who_may_read_the_projects_secrets_makes_them(served, made):
    """A viewer of the project sees the Cluster and gets no credentials of it."""
    env = account(served, "demo", "looker", "view")
    served.seki("-n", "demo", "wait", "cluster/one", env=env)
    p = served.seki("-n", "demo", "cluster", "kubeconfig", "one", "--user", "ann", env=env, check=False)
    assert p.returncode == 1 and not p.stdout and "secrets" in p.stderr, p
