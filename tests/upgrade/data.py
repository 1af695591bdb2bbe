"""What a cloud is filled with before it is upgraded, and what must be there afterwards. Used against older programs too, so it asks only for what the oldest form knows, and leaves out
kinds that a program does not have."""
import base64
import contextlib
import json
import sqlite3
import urllib.request

NS = "demo"
PASSWORD = "canary-of-before-the-upgrade"
RBAC = "rbac.authorization.k8s.io/v1"
SEKI = "seki.cloud/v1alpha1"


def objects():
    """Path of the collection, and the object; in this order."""
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
    subject = {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "alice@acme.example"}
    ns, cluster = f"/namespaces/{NS}", f"/apis/{SEKI}"
    api, rbac, seki = f"/api/v1{ns}", f"/apis/{RBAC}{ns}", f"/apis/{SEKI}{ns}"
    yield f"{cluster}/tenants", {"apiVersion": SEKI, "kind": "Tenant", "metadata": {"name": "acme"}, "spec": {"displayName": "Acme K.K.", "admins": ["alice@acme.example"]}}
    yield "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS, "labels": {"seki.cloud/tenant": "acme"}}}
    yield f"{api}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": {"app": "shop"}, "annotations": {"note": "関"}}, "data": {"a": "1"}, "binaryData": {"b": "AAE="}}
    yield f"{api}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": PASSWORD}}
    yield f"{api}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    yield f"{api}/events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "something", "namespace": NS}, "involvedObject": {"kind": "ConfigMap", "name": "settings", "namespace": NS}, "reason": "Told", "message": "of it", "type": "Normal"}
    yield f"/apis/coordination.k8s.io/v1{ns}/leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "leader"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}
    yield f"{rbac}/roles", {"apiVersion": RBAC, "kind": "Role", "metadata": {"name": "reader"}, "rules": [rule]}
    yield f"{rbac}/rolebindings", {"apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"name": "readers"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}, "subjects": [subject]}
    yield f"/apis/{RBAC}/clusterroles", {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "wide-reader"}, "rules": [rule]}
    yield f"/apis/{RBAC}/clusterrolebindings", {"apiVersion": RBAC, "kind": "ClusterRoleBinding", "metadata": {"name": "wide-readers"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "wide-reader"}, "subjects": [subject]}
    yield f"{seki}/models", {"apiVersion": SEKI, "kind": "Model", "metadata": {"name": "gemma"}, "spec": {"source": "file:///nowhere", "format": "GGUF", "license": {"id": "test"}, "files": [{"name": "a.gguf", "digest": "sha256:" + "0" * 64, "sizeBytes": 1}]}}
    yield f"{seki}/modelendpoints", {"apiVersion": SEKI, "kind": "ModelEndpoint", "metadata": {"name": "fake"}, "spec": {"replicas": 1, "engine": {"driver": "fake", "options": {"tokensPerSecond": "1000"}}}}
    yield f"{cluster}/prices", {"apiVersion": SEKI, "kind": "Price", "metadata": {"name": "all"}, "spec": {"model": "*", "currency": "EUR", "microsPerMillionTokens": {"input": 1000000, "output": 2000000}}}
    yield f"{seki}/projectlimits", {"apiVersion": SEKI, "kind": "Limit", "metadata": {"name": "money"}, "spec": {"budget": {"amountMicros": 1000000000, "currency": "EUR", "period": "Total"}}}
    yield f"{cluster}/userrevocations", {"apiVersion": SEKI, "kind": "UserRevocation", "metadata": {"name": "mallory"}, "spec": {"username": "mallory@acme.example", "reason": "left"}}


def ask(cloud, secret):
    body = json.dumps({"model": "fake", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}).encode()
    request = urllib.request.Request(cloud.base_url + "/chat/completions", data=body, headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as r:
        return json.loads(r.read())


def answers(cloud, secret):
    try:
        return ask(cloud, secret)
    except OSError:
        return None


def requests_counted(cloud):
    items = cloud.api("GET", f"/apis/{SEKI}/namespaces/{NS}/usagereports")["items"]
    lines = [line for o in items for line in o.get("status", {}).get("lines", o.get("status", {}).get("items", []))] or [o.get("status", {}) for o in items]
    return sum(line.get("requests", 0) - line.get("failedRequests", 0) for line in lines)  # who asks until there is an answer may fail before


def micros_charged(cloud):
    """Of all usage, whatever the currency."""
    items = cloud.api("GET", f"/apis/{SEKI}/namespaces/{NS}/usagereports")["items"]
    return sum(c["amountMicros"] for o in items for line in o.get("status", {}).get("items", []) for c in line.get("cost", []))


def fill(cloud, wait_for, unknown):
    """unknown: the exception of a request that is refused. Returns the secret of an API key, with which one request was made and counted."""
    def make(*args, **kwargs):
        try:
            cloud.api(*args, **kwargs)
        except unknown as e:
            if e.status != 404:  # known, and refused: then what this fills with is wrong
                raise

    for path, body in objects():
        make("POST", path, body)
    path = f"/api/v1/namespaces/{NS}/configmaps"
    make("PATCH", f"{path}/applied?fieldManager=gitops", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"x": "1"}}, content_type="application/apply-patch+yaml")
    cloud.api("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gone"}})
    cloud.api("DELETE", f"{path}/gone")
    secret = cloud.key(NS, "app")
    wait_for(lambda: answers(cloud, secret), 60, "an answer")
    wait_for(lambda: requests_counted(cloud), what="the request to be counted")
    return secret


def password(cloud):
    return base64.b64decode(cloud.api("GET", f"/api/v1/namespaces/{NS}/secrets/db")["data"]["password"]).decode()


def stored(database):
    """What a store at rest has: format, last revision, and each object as its text."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        (form,) = db.execute("PRAGMA user_version").fetchone()
        rows = {}
        for rev, key, value in db.execute("SELECT rev, key, value FROM log WHERE id != 0 ORDER BY id"):
            rows[key.decode()] = value
        return form, rev, {k: v.decode() for k, v in sorted(rows.items()) if v is not None}
