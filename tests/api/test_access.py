"""Who am I, what may I do, whose token is this: the virtual kinds of authentication.k8s.io and authorization.k8s.io."""
import hashlib
import http.client
import itertools
import json
import os
import ssl
import subprocess
import urllib.parse

import pytest

from cloud import KUBECTL, SLOW, Cloud
from raw import context

AUTHZ, AUTHN, RBAC = "authorization.k8s.io/v1", "authentication.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1"
AUDIENCE = "https://kubernetes.default.svc"
USERS = {"dora": "developers,night", "otto": "developers", "nina": ""}  # who has which groups
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("".join(f"{hashlib.sha256(f'token-of-{u}'.encode()).hexdigest()} {u} {groups}\n" for u, groups in USERS.items()))
    with Cloud(options={"api-token-file": tokens}) as c:
        for ns in ("red", "blue"):
            c.project(ns)
        # dora: one role in red, by name, with names; and one everywhere. otto: everything in blue, by his group.
        c.api("POST", f"{RBAC}/namespaces/red/roles", role("Role", "reader", [
            rule(["get", "list", "watch"], [""], ["configmaps", "secrets"]), rule(["update", "patch"], [""], ["configmaps"], ["one"]),
            rule(["get"], ["seki.cloud"], ["*/scale"]), {"verbs": ["get"], "nonResourceURLs": ["/of-no-effect"]}]))
        c.api("POST", f"{RBAC}/namespaces/red/rolebindings", binding("RoleBinding", "reader", "Role", "reader", "User", "dora"))
        c.api("POST", f"{RBAC}/clusterroles", role("ClusterRole", "wide", [rule(["list"], ["*"], ["namespaces", "modelendpoints"]), {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/debug/*"]}]))
        c.api("POST", f"{RBAC}/clusterrolebindings", binding("ClusterRoleBinding", "wide", "ClusterRole", "wide", "User", "dora"))
        c.api("POST", f"{RBAC}/clusterroles", role("ClusterRole", "all", [rule(["*"], ["*"], ["*"])]))
        c.api("POST", f"{RBAC}/namespaces/blue/rolebindings", binding("RoleBinding", "all", "ClusterRole", "all", "Group", "developers"))
        yield c


def rule(verbs, groups, resources, names=None):
    return {"verbs": verbs, "apiGroups": groups, "resources": resources, **({"resourceNames": names} if names else {})}


def role(kind, name, rules):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}


def binding(kind, name, ref_kind, ref, subject_kind, subject):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": ref_kind, "name": ref},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": subject_kind, "name": subject}]}


class Caller:
    """One kept connection; user None: the admin, by certificate."""

    def __init__(self, cloud, user=None, token=None):
        address = urllib.parse.urlsplit(cloud.api_url)
        self.token = token or (user and f"token-of-{user}")
        tls = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt")) if self.token else context(cloud)
        self.connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=tls)

    def call(self, method, path, body=None):
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None

    def ask(self, version, kind, spec, ns=None, status=201):
        """A question's answer: its status; or the Status of a refusal."""
        place = f"/namespaces/{ns}" if ns else ""
        code, body = self.call("POST", f"/apis/{version}{place}/{kind.lower()}s", {"apiVersion": version, "kind": kind, **({} if spec is None else {"spec": spec})})
        assert code == status, body
        return body["status"] if status == 201 else body

    def close(self):
        self.connection.close()


@pytest.fixture
def caller(cloud):
    made = []

    def make(user=None, token=None):
        made.append(Caller(cloud, user, token))
        return made[-1]
    yield make
    for c in made:
        c.close()


def kubectl_as(cloud, token, *args, check=True):
    """kubectl with a token and nothing else."""
    p = subprocess.run([KUBECTL, "--kubeconfig", os.devnull, "--server", cloud.api_url, "--certificate-authority", str(cloud.data / "pki" / "ca.crt"), "--token", token, *args],
                       text=True, capture_output=True, timeout=60 * SLOW, env={**os.environ, "HOME": str(cloud.dir), "KUBECACHEDIR": str(cloud.dir / f"cache-{token[-8:]}")})
    assert not check or p.returncode == 0, p.stdout + p.stderr
    return p


# ---- kubectl ----

def test_can_i_of_the_admin(cloud):
    assert cloud.kubectl("auth", "can-i", "*", "*", "--all-namespaces").stdout.strip() == "yes"
    assert cloud.kubectl("auth", "can-i", "get", "/metrics").stdout.strip() == "yes"
    everything = cloud.kubectl("auth", "can-i", "--list").stdout
    assert [line.split() for line in everything.splitlines() if line.startswith("*.*")] == [["*.*", "[]", "[]", "[*]"]]


def test_can_i_of_a_limited_user(cloud):
    def can(*args):
        p = kubectl_as(cloud, "token-of-dora", "auth", "can-i", *args, check=False)
        assert p.returncode == (0 if p.stdout.strip() == "yes" else 1), p.stderr
        return p.stdout.strip()
    assert can("get", "configmaps", "-n", "red") == "yes"
    assert can("get", "configmaps", "-n", "blue") == "yes"  # by her group
    assert can("get", "configmaps", "-n", "default") == "no"
    assert can("update", "configmaps/one", "-n", "red") == "yes"
    assert can("update", "configmaps/two", "-n", "red") == "no"
    assert can("update", "configmaps", "-n", "red") == "no"
    assert can("get", "modelendpoints", "--subresource=scale", "-n", "red") == "yes"
    assert can("get", "/metrics") == "yes"
    assert can("get", "/of-no-effect") == "no"
    listed = kubectl_as(cloud, "token-of-dora", "auth", "can-i", "--list", "-n", "red").stdout
    rows = [" ".join(line.split()) for line in listed.splitlines()]
    assert "configmaps [] [one] [update patch]" in rows
    assert "[/metrics] [] [get]" in rows
    assert "of-no-effect" not in listed
    assert kubectl_as(cloud, "token-of-nina", "auth", "can-i", "list", "secrets", "-n", "red", check=False).stdout.strip() == "no"


def test_whoami(cloud):
    me = json.loads(cloud.kubectl("auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]
    assert me == {"username": "admin", "groups": ["system:masters", "system:authenticated"]}
    table = kubectl_as(cloud, "token-of-dora", "auth", "whoami").stdout
    assert "dora" in table and "[developers night system:authenticated]" in table
    assert "Unauthorized" in kubectl_as(cloud, "nobody", "auth", "whoami", check=False).stderr


def test_explain(cloud):
    assert "resourceAttributes" in cloud.kubectl("explain", "selfsubjectaccessreview.spec").stdout


# ---- the machinery of kinds that are answered ----

QUESTIONS = {
    (AUTHZ, "SelfSubjectAccessReview", False): {"resourceAttributes": {"verb": "get", "resource": "secrets"}},
    (AUTHZ, "SubjectAccessReview", False): {"user": "dora", "resourceAttributes": {"verb": "get", "resource": "secrets"}},
    (AUTHZ, "LocalSubjectAccessReview", True): {"user": "dora", "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "red"}},
    (AUTHZ, "SelfSubjectRulesReview", False): {"namespace": "red"},
    (AUTHN, "SelfSubjectReview", False): None,
    (AUTHN, "TokenReview", False): {"token": "x"},
}


@pytest.mark.parametrize("version, kind, namespaced", QUESTIONS)
def test_only_creation_and_nothing_is_kept(cloud, caller, version, kind, namespaced):
    admin, spec = caller(), QUESTIONS[version, kind, namespaced]
    path = f"/apis/{version}{'/namespaces/red' if namespaced else ''}/{kind.lower()}s"
    _, listed = admin.call("GET", f"/apis/{version}")
    resource = next(r for r in listed["resources"] if r["kind"] == kind)
    assert resource["verbs"] == ["create"] and "storageVersionHash" not in resource and resource["namespaced"] == namespaced
    revision = lambda: admin.call("GET", "/api/v1/configmaps?limit=1")[1]["metadata"]["resourceVersion"]  # noqa: E731
    body = {"apiVersion": version, "kind": kind, **({"spec": spec} if spec else {}), "status": {}}
    before = revision()
    code, answer = admin.call("POST", path, body)
    assert code == 201 and answer["kind"] == kind and answer["apiVersion"] == version
    assert set(answer["metadata"]) <= {"namespace"}  # no name, uid, version, managedFields
    assert answer["status"]
    assert admin.call("POST", f"{path}?dryRun=All", body)[0] == 201
    assert revision() == before
    for method, below in itertools.product(["GET", "PUT", "PATCH", "DELETE"], ["", "/x"]):
        code, answer = admin.call(method, path + below, body if method in ("PUT", "PATCH") else None)
        assert (code, answer["reason"]) == (405, "MethodNotAllowed"), (method, below)
    assert admin.call("GET", path + "?watch=1")[0] == 405
    code, answer = admin.call("POST", path, {**body, "spec": {"surprise": 1}})
    assert code == 400 and "surprise" in answer["message"] if spec else code == 400


def test_openapi_shows_creation_alone(caller):
    _, document = caller().call("GET", f"/openapi/v3/apis/{AUTHZ}")
    assert {path: set(item) - {"parameters"} for path, item in document["paths"].items()} == {
        **{f"/apis/{AUTHZ}/{plural}": {"post"} for plural in ("subjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews")},
        f"/apis/{AUTHZ}/namespaces/{{namespace}}/localsubjectaccessreviews": {"post"}}
    assert not any(name.startswith("io.k8s.api.authorization") and name.endswith("List") for name in document["components"]["schemas"])


@pytest.mark.parametrize("kind, ns, spec, field, words", [
    ("SelfSubjectAccessReview", None, {}, "spec.resourceAttributes", "exactly one of"),
    ("SelfSubjectAccessReview", None, {"resourceAttributes": {}, "nonResourceAttributes": {}}, "spec.nonResourceAttributes", "cannot be specified in combination"),
    ("SubjectAccessReview", None, {"resourceAttributes": {}}, "spec.user", "at least one of user or group"),
    ("SubjectAccessReview", None, {"user": "u", "resourceAttributes": {}, "extra": {"a": "b"}}, "spec.extra", "list of texts"),
    ("LocalSubjectAccessReview", "red", {"user": "u", "nonResourceAttributes": {}}, "spec.nonResourceAttributes", "disallowed"),
    ("LocalSubjectAccessReview", "red", {"user": "u", "resourceAttributes": {"namespace": "blue"}}, "spec.resourceAttributes.namespace", "must match metadata.namespace"),
])
def test_bad_questions(caller, kind, ns, spec, field, words):
    refusal = caller().ask(AUTHZ, kind, spec, ns, status=422)
    assert refusal["reason"] == "Invalid" and any(c["field"] == field and words in c["message"] for c in refusal["details"]["causes"])


def test_questions_have_no_names(caller):
    body = {"apiVersion": AUTHZ, "kind": "SelfSubjectAccessReview", "metadata": {"name": "x"}, "spec": {"resourceAttributes": {}}}
    code, refusal = caller().call("POST", f"/apis/{AUTHZ}/selfsubjectaccessreviews", body)
    assert code == 422 and refusal["details"]["causes"][0]["field"] == "metadata"
    body["metadata"] = {"creationTimestamp": None}  # as client-go sends it
    assert caller().call("POST", f"/apis/{AUTHZ}/selfsubjectaccessreviews", body)[0] == 201
    assert caller().ask(AUTHZ, "SelfSubjectRulesReview", {}, status=400)["message"] == "no namespace on request"
    assert caller().ask(AUTHN, "TokenReview", {}, status=400)["reason"] == "BadRequest"


def test_who_may_ask_about_others(caller):
    spec = {"user": "admin", "resourceAttributes": {"verb": "get", "resource": "secrets", "namespace": "blue"}}
    assert caller("nina").ask(AUTHZ, "SubjectAccessReview", spec, status=403)["reason"] == "Forbidden"
    assert caller("nina").ask(AUTHZ, "LocalSubjectAccessReview", spec, "blue", status=403)["reason"] == "Forbidden"
    assert caller("nina").ask(AUTHN, "TokenReview", {"token": "x"}, status=403)["reason"] == "Forbidden"
    assert caller("otto").ask(AUTHZ, "LocalSubjectAccessReview", spec, "blue") == {"allowed": False}
    assert caller("otto").ask(AUTHZ, "LocalSubjectAccessReview", {**spec, "groups": ["developers"]}, "blue") == {"allowed": True}


def test_token_review_of_static_tokens(caller):
    admin = caller()
    assert admin.ask(AUTHN, "TokenReview", {"token": "token-of-otto"}) == {
        "authenticated": True, "user": {"username": "otto", "groups": ["developers", "system:authenticated"]}, "audiences": [AUDIENCE]}
    assert admin.ask(AUTHN, "TokenReview", {"token": "token-of-otto", "audiences": ["else", AUDIENCE]})["audiences"] == [AUDIENCE]
    refused = admin.ask(AUTHN, "TokenReview", {"token": "token-of-otto", "audiences": ["else"]})
    assert not refused["authenticated"] and refused["error"] and refused["user"] == {}
    assert not admin.ask(AUTHN, "TokenReview", {"token": "token-of-nobody"})["authenticated"]


# ---- rules and decisions agree ----

def allowed_by(rules, verb, group, resource, sub=""):
    """What a client makes of the rules that it was told."""
    full = f"{resource}/{sub}" if sub else resource
    return any(({"*", verb} & set(r["verbs"])) and ({"*", group} & set(r["apiGroups"])) and ({"*", full, f"*/{sub}" if sub else full} & set(r["resources"])) and not r.get("resourceNames")
               for r in rules)


@pytest.mark.parametrize("user", [None, *USERS])
def test_rules_and_decisions_agree(caller, user):
    me, admin, answers = caller(user), caller(), {True: 0, False: 0}
    groups = [g for g in USERS[user].split(",") if g] + ["system:authenticated"] if user else ["system:masters", "system:authenticated"]
    kinds = []
    for version in ["api/v1"] + [f"apis/{g['preferredVersion']['groupVersion']}" for g in admin.call("GET", "/apis")[1]["groups"]]:
        kinds += [(version.split("/")[1] if version != "api/v1" else "", *r["name"].partition("/")[::2]) for r in admin.call("GET", f"/{version}")[1]["resources"]]
    assert len(kinds) > 20
    for ns in ("red", "blue", "default"):
        told = me.ask(AUTHZ, "SelfSubjectRulesReview", {"namespace": ns})
        assert told["incomplete"] is False
        for (group, resource, sub), verb in itertools.product(kinds, VERBS):
            question = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "namespace": ns}
            decided = admin.ask(AUTHZ, "SubjectAccessReview", {"user": user or "admin", "groups": groups, "resourceAttributes": question})["allowed"]
            assert decided == allowed_by(told["resourceRules"], verb, group, resource, sub), (question, told)
            answers[decided] += 1
        for path in ("/metrics", "/debug/x", "/of-no-effect", "/api", "/elsewhere"):
            decided = me.ask(AUTHZ, "SelfSubjectAccessReview", {"nonResourceAttributes": {"verb": "get", "path": path}})["allowed"]
            urls = [u for r in told["nonResourceRules"] if {"get", "*"} & set(r["verbs"]) for u in r["nonResourceURLs"]]
            assert decided == any(u == path or (u.endswith("*") and path.startswith(u[:-1])) for u in urls), path
    assert answers[True] and (answers[False] or user is None)


def test_decisions_are_those_of_requests(caller):
    """The answer is what the server then does."""
    dora = caller("dora")
    for ns, resource, verb, (method, below) in [(ns, resource, verb, how) for ns in ("red", "blue", "default") for resource in ("configmaps", "secrets", "events")
                                                for verb, how in {"list": ("GET", ""), "get": ("GET", "/none"), "delete": ("DELETE", "/none")}.items()]:
        name = below.lstrip("/")
        said = dora.ask(AUTHZ, "SelfSubjectAccessReview", {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": ns, "name": name}})["allowed"]
        code, _ = dora.call(method, f"/api/v1/namespaces/{ns}/{resource}{below}")
        assert (code != 403) == said, (ns, resource, verb)
