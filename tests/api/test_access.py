"""Who am I, what may I do, whose token is this: the virtual kinds of authentication.k8s.io and authorization.k8s.io."""
import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import ssl
import subprocess
import time
import urllib.parse

import pytest

from cloud import KUBECTL, SLOW, Cloud, wait_for
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
            rule(["get"], ["seki.cloud"], ["*/scale"])]))
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


# ---- service accounts and their tokens ----

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_of(token):
    return json.loads(unb64(token.split(".")[1]))


def openssl(*args, data=None):
    return subprocess.run(["openssl", *map(str, args)], input=data, capture_output=True, check=True, timeout=60).stdout


def server_key(cloud):
    return cloud.data / "pki" / "service-accounts.key"


def forge(cloud, claims, header, key=None):
    """A token of our own making, by the server's own key when none is given."""
    content = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    der = openssl("dgst", "-sha256", "-sign", key or server_key(cloud), data=content.encode())
    r, s = (der[4:4 + der[3]], der[6 + der[3]:])  # SEQUENCE of two INTEGERs
    return f"{content}.{b64(r[-32:].rjust(32, bytes(1)) + s[-32:].rjust(32, bytes(1)))}"


@pytest.fixture
def account(caller, request):
    """A fresh account in red; its path."""
    name = f"a-{request.node.name.lower().replace('_', '-').partition('[')[0]}"[:60].rstrip("-") + str(next(_counter))
    code, body = caller().call("POST", "/api/v1/namespaces/red/serviceaccounts", {"metadata": {"name": name}})
    assert code == 201, body
    return f"/api/v1/namespaces/red/serviceaccounts/{name}"


_counter = itertools.count(1)


def request_token(admin, account, status=201, **spec):
    code, body = admin.call("POST", f"{account}/token", {"apiVersion": AUTHN, "kind": "TokenRequest", "spec": spec})
    assert code == status, body
    return body


def token_of(admin, account, **spec):
    return request_token(admin, account, **spec)["status"]["token"]


def whoami(caller, token):
    code, body = caller(token=token).call("POST", f"/apis/{AUTHN}/selfsubjectreviews", {})
    return body["status"]["userInfo"] if code == 201 else code


def test_key_is_private(cloud):
    assert server_key(cloud).stat().st_mode & 0o777 == 0o600


def test_a_token_is_its_account(cloud, caller, account):
    admin, name = caller(), account.rpartition("/")[2]
    answer = request_token(admin, account)
    assert answer["kind"] == "TokenRequest" and answer["metadata"]["name"] == name and answer["metadata"]["namespace"] == "red" and "uid" not in answer["metadata"]
    assert answer["spec"] == {"audiences": [AUDIENCE], "expirationSeconds": 3600}
    token, uid = answer["status"]["token"], admin.call("GET", account)[1]["metadata"]["uid"]
    claims = claims_of(token)
    assert claims["exp"] - claims["iat"] == 3600 and claims["iss"] == AUDIENCE and claims["sub"] == f"system:serviceaccount:red:{name}"
    assert claims["kubernetes.io"] == {"namespace": "red", "serviceaccount": {"name": name, "uid": uid}}
    me = {"username": f"system:serviceaccount:red:{name}", "uid": uid, "groups": ["system:serviceaccounts", "system:serviceaccounts:red", "system:authenticated"],
          "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]}}
    for _ in range(2):  # the second time from memory
        assert whoami(caller, token) == me
    assert admin.ask(AUTHN, "TokenReview", {"token": token}) == {"authenticated": True, "user": me, "audiences": [AUDIENCE]}
    assert caller(token=token).call("GET", "/api/v1/namespaces/red/configmaps")[0] == 403
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "red"}
    assert admin.call("POST", f"{RBAC}/namespaces/red/rolebindings", {**binding("RoleBinding", name, "Role", "reader", "User", "x"), "subjects": [subject]})[0] == 201
    assert caller(token=token).call("GET", "/api/v1/namespaces/red/configmaps")[0] == 200


def test_kubectl_create_token(cloud, caller, account):
    name = account.rpartition("/")[2]
    token = cloud.kubectl("create", "token", name, "-n", "red", "--duration=20m", f"--audience={AUDIENCE}", "--audience=vault").stdout.strip()
    claims = claims_of(token)
    assert claims["aud"] == [AUDIENCE, "vault"] and claims["exp"] - claims["iat"] == 1200
    assert f"system:serviceaccount:red:{name}" in kubectl_as(cloud, token, "auth", "whoami").stdout
    assert name in kubectl_as(cloud, cloud.kubectl("create", "token", name, "-n", "red").stdout.strip(), "auth", "whoami").stdout
    assert "may not specify a duration less than 10 minutes" in cloud.kubectl("create", "token", name, "-n", "red", "--duration=1m", check=False).stderr
    assert "NotFound" in cloud.kubectl("create", "token", "nobody", "-n", "red", check=False).stderr or "not found" in cloud.kubectl("create", "token", "nobody", "-n", "red", check=False).stderr


def test_requests_are_checked(caller, account):
    admin = caller()
    for seconds, words in ((599, "less than 10 minutes"), (-1, "less than 10 minutes"), ((1 << 32) + 1, "larger than 2^32")):
        refusal = request_token(admin, account, 422, expirationSeconds=seconds)
        assert refusal["details"]["causes"][0]["field"] == "spec.expirationSeconds" and words in refusal["message"]
    assert request_token(admin, account, expirationSeconds=1 << 32)["spec"]["expirationSeconds"] == 86400
    assert request_token(admin, account, 422, audiences=[""])["details"]["causes"][0]["field"] == "spec.audiences"
    assert request_token(admin, account, 400, boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "x"})["reason"] == "BadRequest"
    assert request_token(admin, account, 404, boundObjectRef={"kind": "Secret", "apiVersion": "v1", "name": "x"})["reason"] == "NotFound"
    assert request_token(admin, account + "-not", 404)["message"].startswith("serviceaccounts ")
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        assert admin.call(method, f"{account}/token", {} if method in ("PUT", "PATCH") else None)[0] == 405
    assert caller("nina").call("POST", f"{account}/token", {})[0] == 403
    resources = admin.call("GET", "/api/v1")[1]["resources"]
    assert next(r for r in resources if r["name"] == "serviceaccounts/token") == {
        "name": "serviceaccounts/token", "singularName": "", "namespaced": True, "group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"]}


def test_an_account_made_anew_is_another(caller, account):
    admin = caller()
    token = token_of(admin, account)
    assert whoami(caller, token)["username"]
    assert admin.call("DELETE", account)[0] == 200
    assert whoami(caller, token) == 401
    assert admin.call("POST", account.rpartition("/")[0], {"metadata": {"name": account.rpartition("/")[2]}})[0] == 201
    assert whoami(caller, token) == 401
    assert whoami(caller, token_of(admin, account))["username"]


def test_a_bound_token_ends_with_its_secret(caller, account):
    admin, name = caller(), account.rpartition("/")[2]
    secrets = "/api/v1/namespaces/red/secrets"
    _, secret = admin.call("POST", secrets, {"metadata": {"name": name}})
    ref = {"kind": "Secret", "apiVersion": "v1", "name": name}
    assert request_token(admin, account, 409, boundObjectRef={**ref, "uid": "another"})["reason"] == "Conflict"
    token = token_of(admin, account, boundObjectRef=ref)
    assert claims_of(token)["kubernetes.io"]["secret"] == {"name": name, "uid": secret["metadata"]["uid"]}
    assert whoami(caller, token)["username"]
    assert admin.call("DELETE", f"{secrets}/{name}")[0] == 200
    assert admin.call("POST", secrets, {"metadata": {"name": name}})[0] == 201
    assert whoami(caller, token) == 401


def test_audiences(caller, account):
    admin = caller()
    token = token_of(admin, account, audiences=["vault", "registry"])
    assert whoami(caller, token) == 401
    review = lambda *audiences: admin.ask(AUTHN, "TokenReview", {"token": token, "audiences": list(audiences)})  # noqa: E731
    assert review()["authenticated"] is False
    assert review("vault", "else")["audiences"] == ["vault"]
    assert review("else")["authenticated"] is False


def test_forgeries(cloud, caller, account, tmp_path):
    admin = caller()
    token = token_of(admin, account)
    claims, header, now = claims_of(token), json.loads(unb64(token.split(".")[0])), int(time.time())
    assert header["alg"] == "ES256"
    ok = lambda t: whoami(caller, t) != 401  # noqa: E731
    assert ok(forge(cloud, claims, header))  # the forger's tools are good
    own = dict(claims["kubernetes.io"], namespace="blue")
    for name, bad in {
            "expired": {"exp": now - 60}, "no end": {"exp": None}, "end in words": {"exp": "never"}, "end after all time": {"exp": 1 << 62}, "not yet": {"nbf": now + 60}, "issuer": {"iss": "https://elsewhere"},
            "audience": {"aud": ["else"]}, "no audience": {"aud": None}, "audience by number": {"aud": [1]}, "subject": {"sub": "system:admin"}, "other namespace": {"kubernetes.io": own},
            "no account": {"kubernetes.io": {"namespace": "red"}}, "nothing": {"kubernetes.io": []}}.items():
        assert not ok(forge(cloud, {**claims, **bad}, header)), name
    assert ok(forge(cloud, {**claims, "nbf": now + 3, "aud": AUDIENCE}, header))  # clocks differ a little; one audience may stand alone
    for name, bad in {"none": {"alg": "none"}, "HS256": {"alg": "HS256"}, "other kid": {"kid": "x"}, "no kid": {"kid": None}, "crit": {"crit": ["exp"]}}.items():
        assert not ok(forge(cloud, claims, {**header, **bad})), name
    (tmp_path / "key").write_bytes(openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    assert not ok(forge(cloud, claims, header, key=tmp_path / "key"))
    content, signature = token.rpartition(".")[::2]
    assert not ok(f"{b64(json.dumps({**header, 'alg': 'none'}).encode())}.{token.split('.')[1]}.")
    pem = openssl("pkey", "-in", server_key(cloud), "-pubout")  # as a shared secret: the classic confusion
    symmetric = f"{b64(json.dumps({**header, 'alg': 'HS256'}).encode())}.{token.split('.')[1]}"
    assert not ok(f"{symmetric}.{b64(hmac.new(pem, symmetric.encode(), 'sha256').digest())}")
    assert not ok(content) and not ok(f"{content}.") and not ok(token + "=") and not ok(f"{content}.{b64(bytes(64))}") and not ok(f"{content}.{signature}x")
    assert not ok("x" * 20000)
    assert ok(token)
    assert token.split(".")[2] not in cloud.log.read_text()


def test_every_namespace_has_a_default_account(cloud, caller):
    admin = caller()
    place = "/api/v1/namespaces/{}/serviceaccounts/default"

    def uid(ns):
        code, body = admin.call("GET", place.format(ns))
        return body["metadata"]["uid"] if code == 200 else None
    for ns in ("default", "kube-system", "red"):
        wait_for(lambda: uid(ns), what=f"the account of {ns}")
    first = uid("blue")
    assert admin.call("DELETE", place.format("blue"))[0] == 200
    wait_for(lambda: uid("blue") not in (None, first), what="another account")
    cloud.project("fleeting")
    wait_for(lambda: uid("fleeting"), what="the account of a new namespace")
    assert admin.call("DELETE", "/api/v1/namespaces/fleeting")[0] == 200
    wait_for(lambda: admin.call("GET", "/api/v1/namespaces/fleeting")[0] == 404, what="the namespace to go, its account with it")
    assert uid("fleeting") is None
