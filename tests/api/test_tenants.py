"""What one tenant tries against another, and against the server: two users, each with the role admin in a namespace of their own."""
import base64
import hashlib
import http.client
import json
import ssl
import urllib.parse

import pytest

from cloud import ApiError, Cloud, wait_for

RBAC = "rbac.authorization.k8s.io"
USERS = {"rosa": "red", "bert": "blue"}
ACCENT = "a" * 57 + "é"  # whose second byte is beyond what a generated name keeps


@pytest.fixture(scope="module")
def tenants(tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("".join(f"{hashlib.sha256(f'token-of-{u}'.encode()).hexdigest()} {u}\n" for u in USERS))
    with Cloud(options={"api-token-file": tokens}) as c:
        for user, ns in USERS.items():
            c.project(ns)
            give(c, ns, user)
        yield c


def give(cloud, ns, user, role="admin", name="owner"):
    cloud.api("POST", f"/apis/{RBAC}/v1/namespaces/{ns}/rolebindings", {
        "apiVersion": f"{RBAC}/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}]})


def request(cloud, user, method, path, body=None, content_type="application/json"):
    """The connection and the answer, whose body is still to be read."""
    address = urllib.parse.urlsplit(cloud.api_url)
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt")))
    text = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method, path, text, {"Authorization": f"Bearer token-of-{user}", "Content-Type": content_type})
    return connection, connection.getresponse()


def call(cloud, user, method, path, body=None, content_type="application/json"):
    connection, answer = request(cloud, user, method, path, body, content_type)
    try:
        text = answer.read()
        return answer.status, json.loads(text) if text else None
    finally:
        connection.close()


def thing(kind, name, version="v1", **meta):
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **meta}}


def is_there(cloud, path):
    try:
        cloud.api("GET", path)
        return True
    except ApiError as e:
        assert e.status == 404
        return False


def remake(cloud, ns):
    cloud.api("DELETE", f"/api/v1/namespaces/{ns}")
    wait_for(lambda: not is_there(cloud, f"/api/v1/namespaces/{ns}"), what="the namespace to go")
    cloud.project(ns)


@pytest.mark.parametrize("plural,document", [
    ("/api/v1/namespaces/red/configmaps", {"apiVersion": "v1", "kind": "ConfigMap"}),
    (f"/apis/{RBAC}/v1/namespaces/red/roles", {"apiVersion": f"{RBAC}/v1", "kind": "Role", "rules": []})])
def test_a_generated_name_is_cut_between_characters(tenants, plural, document):
    control = tenants.role_pid("control")
    status, body = call(tenants, "rosa", "POST", plural, {**document, "metadata": {"generateName": ACCENT}})
    assert tenants.role_pid("control") == control
    assert status == 201 and body["metadata"]["name"][:57] == "a" * 57 and len(body["metadata"]["name"]) == 62, body


def test_nobody_blocks_the_deletion_of_what_is_another_s(tenants):
    owner = "/api/v1/namespaces/red/configmaps/owner"
    uid = call(tenants, "rosa", "POST", "/api/v1/namespaces/red/configmaps", thing("ConfigMap", "owner"))[1]["metadata"]["uid"]
    owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": True},
              {"apiVersion": "not.served/v1", "kind": "Thing", "name": "x", "uid": "1"}]  # of an unknown kind: never collected
    assert call(tenants, "bert", "POST", "/api/v1/namespaces/blue/configmaps", thing("ConfigMap", "blocker", ownerReferences=owners, finalizers=["x.example/y"]))[0] == 201
    assert call(tenants, "rosa", "DELETE", owner + "?propagationPolicy=Foreground")[0] == 200
    wait_for(lambda: not is_there(tenants, owner), what="the owner to go")


def test_a_namespace_shows_nothing_of_an_earlier_one_of_its_name(tenants):
    tenants.project("reused")
    secret = tenants.api("POST", "/api/v1/namespaces/reused/secrets", {**thing("Secret", "old"), "stringData": {"word": "of-the-first-owner"}})
    rev = int(secret["metadata"]["resourceVersion"])
    remake(tenants, "reused")
    give(tenants, "reused", "bert")
    path = "/api/v1/namespaces/reused/secrets"
    token = base64.b64encode(f"{rev} secrets/reused/".encode()).decode()
    for query in (f"resourceVersion={rev}&resourceVersionMatch=Exact", f"resourceVersion={rev}&limit=5", "continue=" + urllib.parse.quote(token)):
        assert call(tenants, "bert", "GET", f"{path}?{query}")[0] == 410, query
    connection, answer = request(tenants, "bert", "GET", f"{path}?watch=1&timeoutSeconds=1&resourceVersion={rev - 1}")
    events = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    assert [(e["type"], e["object"]["code"]) for e in events] == [("ERROR", 410)]
    assert tenants.api("GET", f"/api/v1/secrets?resourceVersion={rev}&resourceVersionMatch=Exact")["items"]  # history as such is there


def test_a_watch_ends_when_its_right_does(tenants):
    tenants.project("lost")
    give(tenants, "lost", "bert")
    connection, answer = request(tenants, "bert", "GET", "/api/v1/namespaces/lost/configmaps?watch=1&timeoutSeconds=600")
    tenants.api("POST", "/api/v1/namespaces/lost/configmaps", thing("ConfigMap", "before"))
    assert json.loads(answer.readline())["object"]["metadata"]["name"] == "before"
    give(tenants, "lost", "rosa", name="another")  # other changes of roles end nothing
    tenants.api("POST", "/api/v1/namespaces/lost/configmaps", thing("ConfigMap", "between"))
    assert json.loads(answer.readline())["object"]["metadata"]["name"] == "between"
    tenants.api("DELETE", f"/apis/{RBAC}/v1/namespaces/lost/rolebindings/owner")
    tenants.api("POST", "/api/v1/namespaces/lost/configmaps", thing("ConfigMap", "after"))
    assert answer.read() == b""
    connection.close()


@pytest.mark.parametrize("length", [254, 1100, 4000])
def test_a_namespace_longer_than_any_is_not_all_of_them(tenants, length):
    path = f"/api/v1/namespaces/{'n' * length}/configmaps"
    tenants.api("PUT", "/api/v1/namespaces/red/configmaps/kept", thing("ConfigMap", "kept")) if is_there(tenants, "/api/v1/namespaces/red/configmaps/kept") else \
        tenants.api("POST", "/api/v1/namespaces/red/configmaps", thing("ConfigMap", "kept"))
    for method in ("GET", "DELETE"):
        with pytest.raises(ApiError) as e:
            tenants.api(method, path)
        assert e.value.status == 404
    assert is_there(tenants, "/api/v1/namespaces/red/configmaps/kept")


def test_a_long_query_costs_a_long_list_nothing(tenants):
    control = tenants.role_pid("control")
    tenants.project("many")
    for i in range(300):
        tenants.api("POST", "/api/v1/namespaces/many/configmaps", thing("ConfigMap", f"m{i}"))
    query = "a&" * 15000 + "limit=299&includeObject=None"
    table = tenants.api("GET", f"/api/v1/namespaces/many/configmaps?{query}", headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
    assert len(table["rows"]) == 299 and table["metadata"]["continue"] and table["rows"][298]["object"] is None
    assert tenants.role_pid("control") == control


@pytest.mark.parametrize("plural,spec,field", [
    ("modelendpoints", {"engine": {"driver": "fake", "options": {"a": "b" * 257}}}, "spec.engine.options"),
    ("modelendpoints", {"engine": {"driver": "fake", "options": {"a" * 64: "b"}}}, "spec.engine.options"),
    ("modelendpoints", {"engine": {"driver": "fake"}, "visibility": "Tenants", "tenants": ["good", "t" * 64]}, "spec.tenants[1]"),
    ("apikeys", {"endpoints": ["good", "e" * 254]}, "spec.endpoints[1]")])
def test_what_is_copied_for_each_replica_or_into_the_gateway_is_short(tenants, plural, spec, field):
    kind = {"modelendpoints": "ModelEndpoint", "apikeys": "APIKey"}[plural]
    status, body = call(tenants, "rosa", "POST", f"/apis/seki.cloud/v1alpha1/namespaces/red/{plural}", {**thing(kind, "long", "seki.cloud/v1alpha1"), "spec": spec})
    assert status == 422 and [c["field"] for c in body["details"]["causes"]] == [field], body
