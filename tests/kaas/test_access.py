"""Who gets into a tenant's cluster, and what the tenant sees of it, with real control planes. Needs the programs (make kubernetes)."""
import base64
import datetime
import json
import os
import signal
import subprocess

import pytest

import kube
from cloud import GROUP, KUBECTL, ROOT, SEKI, wait_for
from issuer import several

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def issuers(tmp_path_factory):
    with several(tmp_path_factory.mktemp("issuers"), {"demo": {"ann": ["developers"]}, "blue": {"ann": ["developers"]}, None: {"olga": []}}) as made:
        yield made


def authentication(issuers, *tenants):
    return json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": issuers[t].url, "audiences": ["seki"], "certificateAuthority": issuers[t].ca.read_text()}, **({"tenant": t} if t else {}),
        "claimMappings": {"username": {"claim": "sub"}, "groups": {"claim": "groups"}}} for t in tenants]})


@pytest.fixture(scope="module")
def served(kubernetes, issuers, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "authentication.yaml"
    file.write_text(authentication(issuers, "demo", "blue", None))
    with kube.cloud(kubernetes, projects=(), authentication_config=file) as c:
        c.file = file
        c.tenant("demo")  # and with it a project of its name
        yield c


@pytest.fixture(scope="module")
def made(served):
    return kube.Cluster.ready(served, "demo", "one")


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


# ---- people of the tenant ----

def ask(served, made, token, *args):
    """kubectl with a bearer token and no other credentials."""
    status = made.get()["status"]
    ca = served.dir / "one.ca.crt"
    ca.write_text(status["certificateAuthority"])
    file = served.dir / "nobody.kubeconfig"
    file.write_text("apiVersion: v1\nkind: Config\n")
    return kubectl(served, file, "--server", status["endpoint"], "--certificate-authority", str(ca), "--token", token, *args)


def who(served, made, token):
    p = ask(served, made, token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
    return p.stdout or p.stderr


def test_people_of_the_tenants_issuer_are_known_and_nobody_elses(served, made, issuers):
    """As with Seki itself: the same names. What they may do is bound in the cluster."""
    token = issuers["demo"].token("ann", groups=["developers"])
    wait_for(lambda: who(served, made, token) == 'demo:ann ["demo:developers","system:authenticated"]', 60, "the issuer to be known")
    assert made.get()["status"]["people"] == [{"url": issuers["demo"].url, "audiences": ["seki"], "usernamePrefix": "demo:", "groupsPrefix": "demo:"}]
    made.kubectl("create", "namespace", "people")
    made.kubectl("-n", "people", "create", "rolebinding", "developers", "--clusterrole=view", "--group=demo:developers")
    wait_for(lambda: ask(served, made, token, "-n", "people", "get", "pods").returncode == 0, 30, "the binding to count")
    assert "forbidden" in ask(served, made, token, "-n", "people", "get", "secrets").stderr.lower()
    assert "forbidden" in ask(served, made, issuers["demo"].token("bob"), "-n", "people", "get", "pods").stderr.lower()
    for stranger in (issuers["blue"].token("ann", groups=["demo:developers"]), issuers[None].token("olga", groups=["demo:developers"]), issuers["demo"].token("ann", aud="else")):
        assert "provide credentials" in who(served, made, stranger) or "Unauthorized" in who(served, made, stranger)
    # No claim makes somebody of Kubernetes' own.
    assert who(served, made, issuers["demo"].token("system:admin", groups=["system:masters"])).startswith('demo:system:admin ["demo:system:masters"')


def test_a_kubeconfig_without_secrets_logs_in(served, made, issuers, tmp_path):
    env = {**{k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION")}, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "config"), "PERSON": "ann",
           "ISSUER_CA": str(issuers["demo"].ca), "BROWSER": str(ROOT / "tests" / "lib" / "browser.py")}
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "demo:ann"}
    served.api("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/demo/rolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "ann"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [subject]})

    def run(*args):
        return subprocess.run([str(a) for a in args], env=env, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    p = run(SEKI, "login", "--flow", "browser", "--server", served.api_url, "--ca", served.data / "pki" / "ca.crt", "--issuer", issuers["demo"].url, "--client-id", "seki", "--issuer-ca", issuers["demo"].ca)
    assert p.returncode == 0, p
    file = tmp_path / "one.kubeconfig"
    p = run(SEKI, "-n", "demo", "cluster", "kubeconfig", "one", "--oidc", "--out", file)
    assert p.returncode == 0 and "address and login of cluster one are in" in p.stderr, p
    assert not any(word in file.read_text() for word in ("token", "client-key", "password"))
    p = run(KUBECTL, "--kubeconfig", file, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    assert p.stdout == "demo:ann", p
    p = run(SEKI, "-n", "demo", "cluster", "kubeconfig", "one", "--oidc", "--issuer", issuers["blue"].url, "--client-id", "seki")
    assert p.returncode == 1 and "takes no tokens of issuer" in p.stderr, p
    p = served.seki("-n", "demo", "cluster", "kubeconfig", "one", "--oidc", check=False)  # the administrator of the cloud, by certificate
    assert p.returncode == 1 and "--issuer and --client-id" in p.stderr, p


def test_whose_access_was_ended_is_out_of_the_cluster_too(served, made, issuers):
    before, other = issuers["demo"].token("carl"), issuers["demo"].token("dora")
    wait_for(lambda: who(served, made, before).startswith("demo:carl"), 60, "carl to be known")
    served.api("POST", f"{GROUP}/userrevocations", {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": "demo-carl"}, "spec": {"username": "demo:carl", "tenant": "demo"}})
    wait_for(lambda: "demo:carl" not in who(served, made, before), 60, "his token to count no longer")
    assert who(served, made, other).startswith("demo:dora")
    wait_for(lambda: who(served, made, issuers["demo"].token("carl")).startswith("demo:carl"), 10, "a token of later")


def test_an_issuer_that_is_taken_away_is_refused_and_nothing_restarts(served, made, issuers):
    before, token = made.pids(), issuers["demo"].token("ann")
    wait_for(lambda: who(served, made, token).startswith("demo:ann"), 60, "the issuer to be known")
    served.file.write_text(authentication(issuers, "blue"))
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "demo:ann" not in who(served, made, token), 60, "the issuer to be known no longer")
    wait_for(lambda: made.get()["status"]["people"] == [], 30, "the status to say so")
    served.file.write_text(authentication(issuers, "demo", "blue", None))
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: who(served, made, token).startswith("demo:ann"), 60, "the issuer to be known again")
    assert made.pids() == before


# ---- what the tenant sees of its cluster ----

def audit(served, *args, env=None, check=True):
    p = served.seki("-n", "demo", "cluster", "audit", "one", *args, env=env, check=check)
    return [json.loads(line) for line in p.stdout.splitlines()] if p.returncode == 0 else p


def test_who_did_what_in_a_cluster_is_its_tenants_to_read(served, made):
    made.kubectl("create", "secret", "generic", "hidden", "--from-literal=word=canary-7f3a")
    made.kubectl("get", "secret", "hidden")
    made.kubectl("delete", "configmap", "kube-root-ca.crt", "-n", "default")
    events = wait_for(lambda: [e for e in audit(served) if e.get("objectRef", {}).get("name") == "kube-root-ca.crt" and e["verb"] == "delete"], 30, "the record")
    assert events[0]["user"]["username"] == "kubernetes-admin" and events[0]["level"] == "Metadata"
    verbs = {e["verb"] for e in audit(served) if e.get("objectRef", {}).get("name") == "hidden"}
    assert {"create", "get"} <= verbs
    text = json.dumps(audit(served))
    assert "canary-7f3a" not in text and "Y2FuYXJ5" not in text
    assert len(audit(served, "--lines", "3")) == 3
    before = len(audit(served))
    os.kill(made.pids()["apiserver"], signal.SIGKILL)
    made.wait("False")
    made.wait()
    assert len(audit(served)) >= before  # it goes on where it was


def test_more_is_written_when_it_is_asked_for_and_of_secrets_never(served, made):
    served.api("PATCH", made.path, {"spec": {"audit": {"policy": "RequestResponse"}}}, "application/merge-patch+json")

    def full():
        made.kubectl("create", "namespace", "noted", check=False)
        made.kubectl("delete", "namespace", "noted", "--wait=false", check=False)
        made.kubectl("create", "secret", "generic", "more", "--from-literal=word=canary-9b1c", check=False)
        return [e for e in audit(served) if e["level"] == "RequestResponse" and "requestObject" in e]
    wait_for(full, 120, "the API server to be started with it")
    events = audit(served)
    assert any(e.get("objectRef", {}).get("name") == "more" for e in events)
    assert all("requestObject" not in e and "responseObject" not in e for e in events if e.get("objectRef", {}).get("resource") in ("secrets", "configmaps"))
    assert "Y2FuYXJ5" not in json.dumps(events)
    served.api("PATCH", made.path, {"spec": {"audit": {"policy": "Metadata"}}}, "application/merge-patch+json")
    made.wait()


def test_logs_of_the_control_plane_are_its_tenants_to_read(served, made):
    looker = account(served, "demo", "watcher", "view")
    for component in ("apiserver", "controllers", "etcd"):
        p = served.seki("-n", "demo", "cluster", "logs", "one", "--component", component, "--lines", "5", env=looker)
        assert 0 < len(p.stdout.splitlines()) <= 5, p
    p = served.seki("-n", "demo", "cluster", "logs", "one", "--component", "kubelet", check=False)
    assert p.returncode == 2 and "expected apiserver" in p.stderr
    p = served.seki("-n", "demo", "cluster", "logs", "two", check=False)
    assert p.returncode == 1 and "project demo has no cluster two" in p.stderr
    # A viewer sees logs, and not who did what; a stranger neither, nor that there is a cluster.
    assert audit(served, env=looker, check=False).returncode == 1
    served.tenant("strange")
    stranger = account(served, "strange", "stranger", "admin")
    for words in (["logs", "one"], ["audit", "one"]):
        p = served.seki("-n", "demo", "cluster", *words, env=stranger, check=False)
        assert p.returncode == 1 and not p.stdout and "there is no project demo" in p.stderr, p
