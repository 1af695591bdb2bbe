"""People: tokens of real issuers, each bound to a tenant; keys that change, clocks that differ, users that are revoked."""
import base64
import hmac
import http.client
import json
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

from cloud import GROUP, ApiError, Cloud, wait_for
from issuer import Issuer, make_certificates

REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
RED = {"ann": ["developers", "admins"], "bob": []}
BLUE = {"ann": ["developers"]}


def entry(issuer, tenant=None, **more):
    return {"issuer": {"url": issuer.url, "audiences": ["seki"], "certificateAuthority": issuer.ca.read_text()},
            "claimMappings": {"username": {"claim": "sub"}, "groups": {"claim": "groups"}}, **({"tenant": tenant} if tenant else {}), **more}


def config(*entries):
    return json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": list(entries)})


@pytest.fixture(scope="module")
def issuers(tmp_path_factory):
    directory = tmp_path_factory.mktemp("issuers")
    make_certificates(directory)
    made = {"red": Issuer(directory, RED), "blue": Issuer(directory, BLUE, alg="ES256"), "ops": Issuer(directory, {"olga": ["night"]}, alg="EdDSA")}
    yield made
    for i in made.values():
        i.stop()


@pytest.fixture(scope="module")
def cloud(issuers, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "authentication.yaml"
    file.write_text(config(entry(issuers["red"], "red", tenantAdmins="admins"), entry(issuers["blue"], "blue"), entry(issuers["ops"])))
    with Cloud(options={"authentication-config": file, "authentication-clock-skew": "5s", "authentication-key-refresh": "1h"}) as c:
        c.file = file
        yield c


def connect(cloud):
    address = urllib.parse.urlsplit(cloud.api_url)
    return http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt")))


def ask(cloud, token, method="POST", path="/apis/authentication.k8s.io/v1/selfsubjectreviews", body=REVIEW):
    connection = connect(cloud)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def who(cloud, token):
    status, body = ask(cloud, token)
    assert status == 201, body
    info = body["status"]["userInfo"]
    return info["username"], set(info["groups"])


def refused(cloud, token):
    status, body = ask(cloud, token)
    assert status == 401 and body["message"] == "Unauthorized", body
    review = cloud.api("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
    assert not review["status"]["authenticated"]
    return review["status"]["error"]


def reload(cloud, text):
    """Has control read the file anew, and waits until it has."""
    said = cloud.log.read_text(errors="replace").count("configuration reloaded") + cloud.log.read_text(errors="replace").count("the configuration is refused")
    cloud.file.write_text(text)
    cloud.process.send_signal(signal.SIGHUP)

    def done():
        log = cloud.log.read_text(errors="replace")
        return log.count("configuration reloaded") + log.count("the configuration is refused") > said
    wait_for(done, what="the reload")


# ---- who somebody is ----

def test_users_of_each_issuer_are_its_tenants_and_nobody_elses(cloud, issuers):
    assert who(cloud, issuers["red"].token("ann", groups=["developers"])) == ("red:ann", {"red:developers", "seki:tenant:red", "system:authenticated"})
    assert who(cloud, issuers["blue"].token("ann", groups="developers")) == ("blue:ann", {"blue:developers", "seki:tenant:blue", "system:authenticated"})
    assert who(cloud, issuers["ops"].token("olga", groups=None)) == ("oidc:olga", {"system:authenticated"})


def test_no_claim_makes_somebody_of_the_system(cloud, issuers):
    name, groups = who(cloud, issuers["red"].token("system:admin", groups=["system:masters", "seki:tenant:blue", "blue:developers"]))
    assert name == "red:system:admin" and groups == {"red:system:masters", "red:seki:tenant:blue", "red:blue:developers", "seki:tenant:red", "system:authenticated"}
    status, _ = ask(cloud, issuers["red"].token("ann", groups=["system:masters"]), "GET", "/api/v1/secrets", None)
    assert status == 403


def test_roles_are_bound_to_groups_of_an_issuer(cloud, issuers):
    cloud.project("people")
    cloud.api("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/people/rolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "developers"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "red:developers"}]})
    path = "/api/v1/namespaces/people/configmaps"
    assert ask(cloud, issuers["red"].token("ann", groups=["developers"]), "GET", path, None)[0] == 200
    assert ask(cloud, issuers["blue"].token("ann", groups=["developers", "red:developers"]), "GET", path, None)[0] == 404


def test_admins_of_a_tenant_come_from_its_issuer(cloud, issuers):
    cloud.tenant("red")
    path, red = "/api/v1/namespaces/red/secrets", issuers["red"]
    boss = red.token("ann", groups=["admins"])
    assert "seki:tenant:red:admins" in who(cloud, boss)[1]
    wait_for(lambda: ask(cloud, boss, "GET", path, None)[0] == 200, what="the tenant's bindings")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}}
    assert ask(cloud, boss, "POST", path, secret)[0] == 201
    # In his tenant bob is forbidden it; others' people and those of no tenant are told no more than before.
    for token, status in ((red.token("bob", groups=["developers", "seki:tenant:red:admins"]), 403), (issuers["blue"].token("ann", groups=["admins"]), 404), (issuers["ops"].token("olga", groups=["admins"]), 403)):
        assert ask(cloud, token, "GET", path, None)[0] == status
    blue = issuers["blue"].token("ann", groups=["admins"])
    texts = {json.dumps(ask(cloud, blue, "GET", f"/api/v1/namespaces/{ns}/secrets", None)).replace(ns, "NS") for ns in ("red", "def", "kube-system", "default")}
    assert len(texts) == 1 and 'namespaces \\"NS\\" not found' in texts.pop()
    assert "ask the admins of tenant" in ask(cloud, red.token("bob"), "GET", path, None)[1]["message"]


@pytest.mark.parametrize("claims, why", [
    ({"aud": "other"}, "audiences"), ({"aud": ["other", "more"]}, "audiences"), ({"aud": None}, "audiences"), ({"aud": ["seki", "other"]}, "azp"), ({"azp": "other"}, "azp"),
    ({"iss": "https://127.0.0.1:1"}, "issuer"), ({"exp": None}, "until when"), ({"exp": "soon"}, "until when"), ({"sub": None}, "no name"), ({"sub": ""}, "no name"),
    ({"sub": "a\nb"}, "no name"), ({"sub": "a\u009b31mb"}, "no name"), ({"groups": ["a\u0085b"]}, "groups"), ({"groups": [7]}, "groups"), ({"groups": {"a": 1}}, "groups"), ({"groups": [f"g{i}" for i in range(201)]}, "201 groups"),
], ids=lambda v: json.dumps(v)[:40])
def test_claims_that_are_refused(cloud, issuers, claims, why):
    assert why in refused(cloud, issuers["red"].token(**claims)) or "iss" in claims


def test_audiences_by_list_and_azp(cloud, issuers):
    assert who(cloud, issuers["red"].token(aud=["other", "seki"], azp="seki"))[0] == "red:ann"


def test_two_hundred_groups(cloud, issuers):
    assert len(who(cloud, issuers["red"].token(groups=[f"g{i}" for i in range(200)]))[1]) == 202


def test_clocks_may_differ_by_the_skew_and_not_more(cloud, issuers):
    now = int(time.time())
    red = issuers["red"]
    assert who(cloud, red.token(iat=now + 3, nbf=now + 3))[0] == "red:ann"
    assert "not good yet" in refused(cloud, red.token(nbf=now + 60))
    assert "not good yet" in refused(cloud, red.token(iat=now + 60))
    assert "expired" in refused(cloud, red.token(iat=now - 600, exp=now - 30))
    assert who(cloud, red.token(iat=now - 600, exp=now - 1))[0] == "red:ann"


def test_a_token_that_was_good_ends_when_it_says(cloud, issuers):
    token = issuers["red"].token(exp=time.time() - 5 + 1.5)  # the skew is 5 s
    assert who(cloud, token)[0] == "red:ann"
    wait_for(lambda: ask(cloud, token)[0] == 401, 10, "the token to end")
    assert "expired" in refused(cloud, token)


def test_changed_tokens_are_refused(cloud, issuers):
    head, body, signature = issuers["red"].token().split(".")
    other = issuers["red"].token("bob").split(".")
    assert "signed" in refused(cloud, f"{head}.{other[1]}.{signature}")
    assert "signed" in refused(cloud, f"{head}.{body}.{other[2]}")
    blue = issuers["blue"].token(iss=issuers["red"].url)  # of one issuer, signed by another's key
    assert refused(cloud, blue)


def test_heads_that_choose_how_they_are_judged_are_refused(cloud, issuers):
    """No algorithm, a symmetric one with the public key as its secret, keys that come with the token or from where it says, names of keys that lead elsewhere, and sizes beyond any."""
    red = issuers["red"]
    head, body, signature = red.token().split(".")
    keys = json.loads(red.call(json.loads(red.call("/.well-known/openid-configuration"))["jwks_uri"]))["keys"]

    def text64(data):
        return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()
    real = json.loads(base64.urlsafe_b64decode(head + "=="))
    for alg in ("none", "None", "", "HS256", "ES256", "PS256", None):
        fake = text64({**real, "alg": alg})
        secrets = [json.dumps(keys[0]).encode(), base64.urlsafe_b64decode(keys[0]["n"] + "=="), b""]
        for mac in [signature, "", *(text64(hmac.new(secret, f"{fake}.{body}".encode(), "sha256").digest()) for secret in secrets)]:
            assert ask(cloud, f"{fake}.{body}.{mac}")[0] == 401, alg
    for more in ({"kid": "../../../etc/passwd"}, {"kid": "file:///dev/null"}, {"kid": ""}, {"kid": 1}, {"kid": [real.get("kid")]}, {"kid": "k" * 5000}, {"jwk": keys[0], "kid": "mine"}, {"jku": "https://127.0.0.1:1/", "kid": "mine"},
                 {"x5u": "https://127.0.0.1:1/", "kid": "mine"}, {"crit": ["exp"]}, {"b64": False, "crit": ["b64"]}):
        assert ask(cloud, f"{text64({**real, **more})}.{body}.{signature}")[0] == 401, more
    twice = base64.urlsafe_b64decode(body + "==")[:-1] + b',"sub":"bob"}'
    for token in (f"{head}.{text64(twice)}.{signature}", f"{head}.{body}", f"{head}.{body}.{signature}.{signature}", f"{head}.{body}.{signature}=", f"{head}.{body}.{signature}{'A' * 40000}", ".", "..", "a.b.c"):
        assert ask(cloud, token)[0] in (400, 401, 431), token[:100]
    assert who(cloud, f"{head}.{body}.{signature}")[0] == "red:ann"


# ---- keys ----

@pytest.mark.parametrize("alg", ["PS256", "ES384", "EdDSA", "RS256"])
def test_a_new_key_is_taken_at_its_first_use_and_an_old_one_is_refused_when_it_is_gone(own_cloud, issuers, tmp_path, alg):
    file = tmp_path / "authentication.json"
    red = issuers["red"]
    file.write_text(config(entry(red, "red")))
    c = own_cloud(options={"authentication-config": file, "authentication-key-refresh": "1h"})
    before = red.token()
    assert who(c, before)[0] == "red:ann"
    red.rotate(alg)
    after = red.token("bob", kid=None)
    assert who(c, after)[0] == "red:bob"  # the request waits for the keys
    assert ask(c, before)[0] == 401  # also when it was good a moment ago


def test_unknown_keys_are_asked_for_once_in_a_while(cloud, issuers):
    blue = issuers["blue"]
    assert who(cloud, blue.token())[0] == "blue:ann"
    before, began = int(blue.call("/test/fetches")), time.monotonic()
    for i in range(40):
        assert ask(cloud, blue.token(kid=f"nobody-{i}"))[0] == 401
    assert who(cloud, blue.token())[0] == "blue:ann"
    assert 1 <= int(blue.call("/test/fetches")) - before <= 1 + (time.monotonic() - began) / 10


def test_an_issuer_that_cannot_be_reached_keeps_its_keys_and_readyz_tells(own_cloud, issuers, tmp_path):
    file = tmp_path / "authentication.json"
    blue = issuers["blue"]
    file.write_text(config(entry(blue, "blue")))
    c = own_cloud(options={"authentication-config": file, "authentication-key-refresh": "1s"})
    token = blue.token()
    assert who(c, token)[0] == "blue:ann"
    blue.down()
    try:
        wait_for(lambda: "seki_authentication_issuers_unreachable 1" in c.metrics(), what="the metric")
        text = c.api("GET", "/readyz?verbose", raw=True).decode()
        assert "[+]issuers ok: 1 of 1 issuers of tokens cannot be reached" in text and blue.url not in text
        assert who(c, token)[0] == "blue:ann" and who(c, blue.token())[0] == "blue:ann"
    finally:
        blue.down(False)
    wait_for(lambda: "seki_authentication_issuers_unreachable 0" in c.metrics(), what="the metric to fall")
    assert c.metrics().count("seki_authentication_issuers 1\n") == 1


# ---- the file ----

def test_reload_takes_issuers_up_and_drops_them_and_a_bad_file_changes_nothing(own_cloud, issuers, tmp_path):
    red, blue = issuers["red"], issuers["blue"]
    file = tmp_path / "authentication.json"
    file.write_text(config(entry(red, "red")))
    c = own_cloud(options={"authentication-config": file})
    c.file = file
    assert who(c, red.token())[0] == "red:ann" and ask(c, blue.token())[0] == 401
    reload(c, config(entry(red, "red"), entry(blue, "blue")))
    wait_for(lambda: ask(c, blue.token())[0] == 201, what="blue to be known")
    reload(c, "{not a configuration")
    reload(c, config(entry(red, "red"), entry(blue, "blue", claimMappings={"username": {"claim": "sub", "prefix": "red:x:"}})))
    log = c.log.read_text(errors="replace")
    assert "jwt[1].claimMappings.username.prefix" in log
    assert who(c, red.token())[0] == "red:ann" and who(c, blue.token())[0] == "blue:ann"
    token = red.token()
    assert who(c, token)[0] == "red:ann"
    c.api("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "reds"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "seki:tenant:red"}]})
    watch = Watcher(c, token, "/api/v1/configmaps?watch=1")
    reload(c, config(entry(blue, "blue")))
    wait_for(lambda: ask(c, token)[0] == 401, what="red to be gone")
    watch.join(10)
    assert watch.ended


# ---- revocation ----

def revocation(user, **spec):
    return {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"generateName": f"{spec.get('tenant', 'test')}-"}, "spec": {"username": user, **spec}}


class Watcher(threading.Thread):
    """Reads a watch until it ends."""

    def __init__(self, cloud, token, path):
        super().__init__(daemon=True)
        self.connection = connect(cloud)
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()
        self.ended = None
        self.start()

    def run(self):
        self.answer.read()
        self.ended = time.monotonic()


def test_a_revoked_user_is_refused_within_a_second_and_watches_end(cloud, issuers):
    cloud.api("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "bobs"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"red:{n}"} for n in ("bob", "ann")]})
    red, path = issuers["red"], "/api/v1/configmaps?watch=1"
    token, other = red.token("bob"), red.token("ann")
    assert who(cloud, token)[0] == "red:bob"
    watch, others = Watcher(cloud, token, path), Watcher(cloud, other, path)
    made = cloud.api("POST", f"{GROUP}/userrevocations", revocation("red:bob", reason="left"))
    answered = time.monotonic()
    assert ask(cloud, token)[0] == 401
    assert time.monotonic() - answered < 1
    assert made["spec"]["issuedBefore"]
    watch.join(10)
    assert watch.ended and watch.ended - answered < 1, "the watch goes on"
    assert "revoked" in refused(cloud, token)
    assert ask(cloud, red.token("bob", iat=None))[0] == 401  # nobody knows when that was made
    assert others.ended is None and who(cloud, other)[0] == "red:ann"
    fresh = red.token("bob", iat=int(time.time()) + 2)  # logs in anew
    assert who(cloud, fresh)[0] == "red:bob"
    cloud.api("DELETE", f"{GROUP}/userrevocations/{made['metadata']['name']}")
    assert who(cloud, token)[0] == "red:bob"


def test_an_admin_ends_the_access_of_the_tenants_people(cloud, issuers):
    """Of his own: the same name in another tenant, people of the cloud and what others have revoked are none of his business."""
    for name in ("red", "blue"):
        if name not in {t["metadata"]["name"] for t in cloud.api("GET", f"{GROUP}/tenants")["items"]}:
            cloud.tenant(name)
    red, path = issuers["red"], f"{GROUP}/userrevocations"
    boss, bob = red.token("ann", groups=["admins"]), red.token("bob")
    olga = issuers["ops"].token("olga")

    def made_by(token, user, **spec):
        status, body = ask(cloud, token, path=path, body=revocation(user, **spec))
        return status, body
    assert who(cloud, bob)[0] == "red:bob"
    wide = cloud.api("POST", path, revocation("nobody"))["metadata"]["name"]
    blue = cloud.api("POST", path, revocation("red:bob", tenant="blue"))["metadata"]["name"]
    assert who(cloud, bob)[0] == "red:bob"  # who is not of blue
    watch = Watcher(cloud, bob, "/apis/seki.cloud/v1alpha1/namespaces/red/models?watch=1") if ask(cloud, bob, "GET", "/apis/seki.cloud/v1alpha1/namespaces/red/models", None)[0] == 200 else None
    status, mine = made_by(boss, "red:bob", tenant="red", reason="left")
    assert status == 201 and mine["metadata"]["labels"] == {"seki.cloud/tenant": "red"} and mine["metadata"]["ownerReferences"][0]["kind"] == "Tenant", mine
    name = mine["metadata"]["name"]
    assert ask(cloud, bob)[0] == 401
    if watch:
        watch.join(10)
        assert watch.ended
    # Not of others: whoever they are, wherever.
    assert made_by(boss, "oidc:olga", tenant="red")[0] == 201 and who(cloud, olga)[0] == "oidc:olga"
    status, body = made_by(boss, "blue:ann", tenant="blue")
    other = made_by(boss, "blue:ann", tenant="nothere")
    assert status == 404 and body["message"] == 'tenants.seki.cloud "blue" not found' and (other[0], other[1]["message"]) == (404, 'tenants.seki.cloud "nothere" not found')
    status, body = made_by(boss, "oidc:olga")
    assert status == 403 and "spec.tenant" in body["message"]
    assert cloud.api("GET", f"{path}/{wide}") and ask(cloud, boss, "GET", path, None)[0] == 403
    for verb in ("GET", "DELETE"):
        for foreign in (wide, blue, "nothere"):
            status, body = ask(cloud, boss, verb, f"{path}/{foreign}", None)
            assert status == 404 and body["message"] == f'userrevocations.seki.cloud "{foreign}" not found', body
    # His own he sees and takes back.
    status, body = ask(cloud, boss, "GET", f"{path}?labelSelector=seki.cloud/tenant=red", None)
    assert status == 200 and name in {o["metadata"]["name"] for o in body["items"]} and {o["spec"]["tenant"] for o in body["items"]} == {"red"}
    assert ask(cloud, boss, "GET", f"{path}?labelSelector=seki.cloud/tenant=blue", None)[0] == 403
    assert ask(cloud, boss, "GET", f"{path}/{name}", None)[0] == 200
    assert ask(cloud, boss, "DELETE", f"{path}/{name}", None)[0] == 200
    assert who(cloud, bob)[0] == "red:bob"
    # The label is the server's to say, and a name that equals the tenant's is no key to what is not his.
    cloud.api("POST", path, {**revocation("nobody"), "metadata": {"name": "red", "labels": {"seki.cloud/tenant": "red"}}})
    assert "labels" not in cloud.api("GET", f"{path}/red")["metadata"] or not cloud.api("GET", f"{path}/red")["metadata"]["labels"]
    assert ask(cloud, boss, "GET", f"{path}/red", None)[0] == 404 and ask(cloud, boss, "DELETE", f"{path}/red", None)[0] == 404
    with pytest.raises(ApiError) as e:
        cloud.api("POST", path, revocation("red:bob", tenant="nothere"))
    assert e.value.status == 422 and "no such tenant" in e.value.body["message"]


def test_a_watch_ends_with_the_token(cloud, issuers):
    cloud.api("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "olgas"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "oidc:olga"}]})
    began = time.time()
    watch = Watcher(cloud, issuers["ops"].token("olga", exp=int(began) + 2), "/api/v1/configmaps?watch=1")
    watch.join(20)
    assert watch.ended and 0.5 < time.time() - began < 15


def test_a_certificate_ends_on_a_connection_that_is_kept(cloud, tmp_path):
    """TLS looks at it once; each request looks again, and a watch ends with it."""
    end = time.time() + 5
    (tmp_path / "ca.cnf").write_text(f"""
[ca]
default_ca = it
[it]
database = {tmp_path}/index
rand_serial = yes
new_certs_dir = {tmp_path}
default_md = sha256
policy = any
[any]
organizationName = supplied
commonName = supplied
""")
    (tmp_path / "index").write_text("")
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "csr", "-subj", "/O=system:masters/CN=shorty"],
                   check=True, capture_output=True)
    subprocess.run(["openssl", "ca", "-batch", "-notext", "-config", tmp_path / "ca.cnf", "-cert", cloud.data / "pki" / "ca.crt", "-keyfile", cloud.data / "pki" / "ca.key", "-in", tmp_path / "csr",
                    "-out", tmp_path / "crt", "-startdate", time.strftime("%y%m%d%H%M%SZ", time.gmtime(end - 600)), "-enddate", time.strftime("%y%m%d%H%M%SZ", time.gmtime(end))], check=True, capture_output=True)
    kept, watching = connect(cloud), connect(cloud)
    for c in (kept, watching):
        c._context.load_cert_chain(tmp_path / "crt", tmp_path / "key")

    def get(connection, path):
        connection.request("GET", path)
        answer = connection.getresponse()
        if "watch" not in path:
            answer.read()
        return answer
    assert get(kept, "/api/v1/secrets").status == 200
    watch = get(watching, "/api/v1/configmaps?watch=1")
    assert watch.status == 200
    socket = kept.sock
    wait_for(lambda: get(kept, "/api/v1/secrets").status == 401, 10, "the certificate to end")
    assert kept.sock is socket and time.time() > end - 2
    watch.read()  # to its end
    assert time.time() < end + 30


def test_service_accounts_and_certificates_can_be_revoked(cloud):
    cloud.project("machines")
    accounts = "/api/v1/namespaces/machines/serviceaccounts"
    wait_for(lambda: cloud.api("GET", accounts)["items"], what="the account")
    token = cloud.api("POST", f"{accounts}/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    assert who(cloud, token)[0] == "system:serviceaccount:machines:default"
    cloud.api("POST", f"{GROUP}/userrevocations", revocation("system:serviceaccount:machines:default"))
    assert ask(cloud, token)[0] == 401
    made = cloud.api("POST", f"{GROUP}/userrevocations", revocation("somebody", issuedBefore="2020-01-01T00:00:00Z"))
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", f"{GROUP}/userrevocations/{made['metadata']['name']}", {"spec": {"username": "another"}}, "application/merge-patch+json")
    assert e.value.status == 422
