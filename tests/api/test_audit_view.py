"""A tenant reads its part of the audit ledger through the API: all of it, nothing else, page by page, and that it was read is in it."""
import concurrent.futures
import json
import time
import urllib.error
import urllib.request

import pytest

from cloud import GROUP, ApiError, wait_for
from test_tenancy import RBAC, Admin, User, config_map, grant


def view(who, tenant, **query):
    text = "&".join(f"{k.rstrip('_')}={v}" for k, v in query.items())
    return who.api("GET", f"{GROUP}/tenants/{tenant}/audit{'?' + text if text else ''}")


def whole(who, tenant, **query):
    items, token = [], None
    while True:
        page = view(who, tenant, **query, **({"continue_": token} if token else {}))
        items += page["items"]
        token = page["metadata"].get("continue")
        if not token:
            return items


def key(r):
    return (r["type"], r.get("user", ""), r.get("verb", ""), r.get("resource", ""), r.get("name", ""))


@pytest.fixture
def acme(cloud, request):
    name = f"v{abs(hash(request.node.name)) % 100000}"
    cloud.tenant(name)
    return Admin(cloud, name)


def test_a_tenant_reads_its_part_and_nothing_else(cloud, acme):
    other = Admin(cloud, cloud.tenant(f"b-{acme.tenant}")["metadata"]["name"])
    other.api("POST", f"/api/v1/namespaces/{other.tenant}/configmaps", config_map("theirs"))
    acme.api("POST", f"/api/v1/namespaces/{acme.tenant}/configmaps", config_map("mine"))
    acme.refused("GET", f"/api/v1/namespaces/{other.tenant}/secrets/s", status=404)
    other.refused("GET", f"/api/v1/namespaces/{acme.tenant}/secrets/s", status=404)
    me, they = (f"system:serviceaccount:{a.tenant}:tenant-admin" for a in (acme, other))

    def complete():
        items = whole(acme, acme.tenant)
        found = [key(r) for r in items]
        return ("denied", me, "get", "secrets", "s") in found and ("denied", "", "get", "secrets", "s") in found and items
    items = wait_for(complete, what="both denials")
    assert {r.get("tenant") for r in items} == {acme.tenant}
    made = [r for r in items if r["type"] == "write" and r["verb"] == "create"]
    assert {(r["resource"], r.get("name")) for r in made} >= {("tenants", acme.tenant), ("configmaps", "mine")}
    assert ("token", me, "use", "", "") in [key(r) for r in items]
    assert [r["sequence"] for r in items] == sorted({r["sequence"] for r in items}) and all(r["time"].endswith("Z") and len(r["previous_sha256"]) == 64 for r in items)
    # Of who was refused without being told anything, it says as much; of its own people, whom they were refused, it has them.
    (mine,), (theirs,) = ([r for r in items if key(r) == ("denied", user, "get", "secrets", "s")] for user in (me, ""))
    assert theirs["rule"] == "ForeignTenant" and theirs["namespace"] == acme.tenant and not {"groups", "source", "agent", "uid", "id", "actor_tenant"} & set(theirs)
    assert mine["rule"] == "ForeignTenant" and mine["namespace"] == other.tenant and mine["source"]
    assert they not in json.dumps(items)
    # The operator's view of the files has both.
    rows = [json.loads(x) for x in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--format", "json").stdout.splitlines()]
    assert [(r["user"], r["actor_tenant"]) for r in rows if r["type"] == "denied" and r.get("tenant") == acme.tenant and r.get("name") == "s"] == [(they, other.tenant)]
    acme.refused("GET", f"{GROUP}/tenants/{other.tenant}/audit", status=404)
    acme.refused("GET", f"{GROUP}/tenants/not-there/audit", status=404)


def test_an_auditor_who_is_no_admin_reads_it_and_nothing_else(cloud, acme):
    """The tenant's admin names him; the operator is not asked."""
    cloud.tenant(f"b-{acme.tenant}")
    path, ns = f"{GROUP}/tenants/{acme.tenant}", acme.tenant
    cloud.api("POST", f"/api/v1/namespaces/{ns}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "siem"}})
    siem = Admin(cloud, ns, "siem")
    siem.refused("GET", f"{path}/audit")
    auditors = [{"kind": "ServiceAccount", "name": "siem", "namespace": ns}, {"name": "olga@firm.example"}, {"kind": "Group", "name": "red:audit"}]
    acme.api("PATCH", path, {"spec": {"auditors": auditors}}, content_type="application/merge-patch+json")

    def reads():
        try:
            return whole(siem, ns)
        except ApiError as e:
            assert e.status == 403
            return None
    items = wait_for(reads, what="the auditor to read")
    assert ("write", f"system:serviceaccount:{ns}:tenant-admin", "patch", "tenants", ns) in map(key, items)
    for headers in ({"Impersonate-User": "olga@firm.example"}, {"Impersonate-User": "x", "Impersonate-Group": "red:audit"}):
        cloud.api("GET", f"{path}/audit?limit=1", headers=headers)
    for method, where in (("GET", path), ("GET", f"/api/v1/namespaces/{ns}/secrets"), ("GET", f"/api/v1/namespaces/{ns}/configmaps"), ("GET", f"{GROUP}/tenants")):
        siem.refused(method, where)
    siem.refused("GET", f"{path}-b/audit", status=404)
    # Taken back, it ends; what is wrong is refused by field; the operator's part stays his.
    acme.api("PATCH", path, {"spec": {"auditors": []}}, content_type="application/merge-patch+json")
    wait_for(lambda: not reads(), what="the auditor to be none any more")
    for bad in ({"name": "system:admin"}, {"kind": "Group", "name": "system:authenticated"}, {"kind": "Group", "name": f"seki:tenant:{ns}-b"}, {"kind": "ServiceAccount", "name": "siem"}, {"name": "a", "namespace": ns}):
        with pytest.raises(ApiError) as e:
            acme.api("PATCH", path, {"spec": {"auditors": [bad]}}, content_type="application/merge-patch+json")
        assert e.value.status == 422 and [c["field"] for c in e.value.body["details"]["causes"]] == ["spec.auditors[0]"], bad


def test_that_it_was_read_is_in_it(cloud, acme):
    view(acme, acme.tenant, limit=1)
    me = f"system:serviceaccount:{acme.tenant}:tenant-admin"
    (r, *_) = wait_for(lambda: [r for r in whole(acme, acme.tenant) if key(r) == ("read", me, "get", "tenants", acme.tenant)], what="the read's record")
    assert r["subresource"] == "audit" and r["rule"].endswith(f"ClusterRole/seki:tenant:{acme.tenant}") and r["tenant"] == acme.tenant


def test_pages(cloud, acme):
    for i in range(12):
        acme.api("POST", f"/api/v1/namespaces/{acme.tenant}/configmaps", config_map(f"c{i}"))
    page = view(acme, acme.tenant, limit=5)
    assert page["kind"] == "AuditRecordList" and page["apiVersion"] == "seki.cloud/v1alpha1" and len(page["items"]) == 5
    seen, token = list(page["items"]), page["metadata"]["continue"]
    while token:
        page = view(acme, acme.tenant, limit=5, continue_=token)
        assert len(page["items"]) <= 5
        seen, token = seen + page["items"], page["metadata"].get("continue")
    assert [r["name"] for r in seen if r.get("resource") == "configmaps" and r["verb"] == "create"] == [f"c{i}" for i in range(12)]
    assert len({r["sequence"] for r in seen}) == len(seen)
    middle = seen[len(seen) // 2]["sequence"]
    later = whole(acme, acme.tenant, after=middle)
    assert later[0]["sequence"] > middle and [r for r in later if r["sequence"] <= seen[-1]["sequence"]] == seen[len(seen) // 2 + 1:]
    assert view(acme, acme.tenant, after=10**12) == {"kind": "AuditRecordList", "apiVersion": "seki.cloud/v1alpha1", "metadata": {}, "items": []}
    for query, status in (({"limit": "x"}, 400), ({"limit": -1}, 400), ({"after": "-1"}, 400), ({"continue_": "abc"}, 400), ({"continue_": "1-31-0"}, 400), ({"continue_": "1-33-0"}, 410), ({"continue_": "9-32-1"}, 410)):
        with pytest.raises(ApiError) as e:
            view(acme, acme.tenant, **query)
        assert e.value.status == status, (query, e.value)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        acme.refused(method, f"{GROUP}/tenants/{acme.tenant}/audit", {}, status=405)


def test_events_as_security_departments_read_them(cloud, acme):
    acme.api("POST", f"/api/v1/namespaces/{acme.tenant}/configmaps", config_map("a"))
    acme.headers["Accept"] = "application/x-ndjson"
    path, lines = f"{GROUP}/tenants/{acme.tenant}/audit?limit=4", []
    while path:
        status, headers, text = acme.raw("GET", path)
        headers = dict(headers)
        assert status == 200 and headers["content-type"] == "application/x-ndjson"
        lines += text.splitlines()
        path = headers["link"].split(">")[0].removeprefix("<") if "link" in headers else None
        assert path is None or "rel=\"next\"" in headers["link"]
    mine = [json.loads(line) for line in lines]
    assert {e["class_uid"] for e in mine} == {6003} and {e["metadata"].get("tenant_uid") for e in mine} == {acme.tenant}
    file = [json.loads(x) for x in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--tenant", acme.tenant).stdout.splitlines()]
    files = {e["metadata"]["sequence"]: e for e in file}
    assert all(files[e["metadata"]["sequence"]] == e for e in mine if e["unmapped"]["type"] == "write") and len(mine) > 6
    # What fails is a Status.
    status, _, text = acme.raw("GET", f"{GROUP}/tenants/{acme.tenant}/audit?limit=x")
    assert status == 400 and json.loads(text)["kind"] == "Status"


def test_seki_reads_it_through_the_api(cloud, acme, tmp_path):
    acme.api("POST", f"/api/v1/namespaces/{acme.tenant}/configmaps", config_map("by-cli"))
    file = tmp_path / "kubeconfig"
    cloud.seki("tenant", "create", f"cli-{acme.tenant}", "--kubeconfig-out", str(file))
    with_file = {"KUBECONFIG": str(file), "SEKI_LEDGER_DIR": str(cloud.data / "ledger")}  # files are known, and not named
    text = cloud.seki("audit", "list", "--tenant", f"cli-{acme.tenant}", "-o", "wide", env=with_file).stdout
    assert f"tenants/cli-{acme.tenant}" in text and "Group/system:masters" in text and "by-cli" not in text
    p = cloud.seki("audit", "list", "--tenant", acme.tenant, env=with_file, check=False)
    assert p.returncode == 1 and "not found" in p.stderr and p.stdout == ""
    # By the operator, who has the files, too: the same events, wherever they come from.
    for form in ("ocsf", "json"):
        by_api, by_file = ([json.loads(x) for x in cloud.seki("audit", "export", *words, "--format", form, "--tenant", acme.tenant, env={"SEKI_LEDGER_DIR": ""}).stdout.splitlines()]
                           for words in ([], [str(cloud.data / "ledger")]))
        writes = [[e for e in events if (e["unmapped"] if form == "ocsf" else e)["type"] == "write"] for events in (by_api, by_file)]
        assert writes[0] == writes[1] and len(writes[0]) > 3
    first = by_api[2]["sequence"]
    rest = cloud.seki("audit", "export", "--format", "json", "--tenant", acme.tenant, "--after", str(first), env={"SEKI_LEDGER_DIR": ""}).stdout.splitlines()
    assert json.loads(rest[0])["sequence"] == by_api[3]["sequence"]
    # Without a tenant, or with a directory, files are read as ever.
    p = cloud.seki("audit", "list", str(tmp_path / "nothing"), "--tenant", acme.tenant, check=False)
    assert p.returncode == 1 and "there is no audit ledger in" in p.stderr


def test_few_read_at_once_and_others_are_asked_to_wait(cloud, acme):
    def ask(_):
        try:
            return len(view(acme, acme.tenant)["items"]) > 0 and 200
        except ApiError as e:
            return e.status if "being read" in e.body["message"] or e.status != 429 else 429
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert set(answers) <= {200, 429} and 200 in answers
    assert view(acme, acme.tenant)["items"]


def test_existing_tenants_get_the_right_and_an_earlier_tenant_of_the_name_stays_hidden(cloud):
    cloud.tenant("reborn")
    admin = Admin(cloud, "reborn")
    role = f"{RBAC}/clusterroles/seki:tenant:reborn"
    old = cloud.api("GET", role)
    old["rules"] = [r for r in old["rules"] if r["resources"] != ["tenants/audit"]] + [{"apiGroups": ["seki.cloud"], "resources": ["tenants"], "resourceNames": ["reborn"], "verbs": ["patch"]}]
    cloud.api("PUT", role, old)  # as an earlier release made it, and somebody added to it
    admin.refused("GET", f"{GROUP}/tenants/reborn/audit")
    cloud.api("PATCH", f"{GROUP}/tenants/reborn", {"spec": {"displayName": "x"}}, content_type="application/merge-patch+json")

    def may():
        try:
            return view(admin, "reborn")["items"]
        except ApiError as e:
            assert e.status == 403
    wait_for(may, what="the role to be mended")
    assert [r for r in cloud.api("GET", role)["rules"] if "patch" in r["verbs"]]
    admin.api("POST", "/api/v1/namespaces/reborn/configmaps", config_map("of-the-first"))
    cloud.api("PATCH", f"{GROUP}/tenants/reborn", {"spec": {"state": "Closing"}}, content_type="application/merge-patch+json")
    cloud.api("DELETE", f"{GROUP}/tenants/reborn")

    def gone():
        try:
            cloud.api("GET", f"{GROUP}/tenants/reborn")
        except ApiError as e:
            return e.status == 404
    wait_for(gone, what="the tenant to go")

    def again():
        try:
            return cloud.tenant("reborn")
        except ApiError as e:
            assert e.status == 409
    gone_at = int(time.time())
    made = wait_for(lambda: int(time.time()) > gone_at and again(), what="another tenant of the name, in another second")
    items = whole(Admin(cloud, "reborn"), "reborn")
    assert items and "of-the-first" not in json.dumps(items) and min(r["time"][:19] for r in items) >= made["metadata"]["creationTimestamp"][:19]
    assert [r for r in items if key(r)[2:] == ("create", "tenants", "reborn")]


def test_grants_and_what_was_read_under_them(own_cloud, tmp_path):
    import hashlib
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{hashlib.sha256(b'of-olga').hexdigest()} olga night-shift\n")
    cloud = own_cloud(options={"api-token-file": tokens})
    cloud.tenant("acme")
    cloud.api("POST", f"{RBAC}/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "night-shift"}, "roleRef":
              {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "night-shift"}]})
    admin, olga = Admin(cloud, "acme"), User(cloud, "of-olga")
    admin.api("POST", "/api/v1/namespaces/acme/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}})
    olga.refused("GET", "/api/v1/namespaces/acme/secrets/s")
    made = admin.api("POST", f"{GROUP}/namespaces/acme/accessgrants", grant("olga"))

    def reads():
        try:
            return olga.api("GET", "/api/v1/namespaces/acme/secrets/s")["data"]
        except ApiError as e:
            assert e.status == 403
    wait_for(reads, what="the grant to open")
    assert [r for r in whole(olga, "acme")]  # the operator may look, too; and that shows:

    def complete():
        items = whole(admin, "acme")
        return any(key(r) == ("read", "olga", "get", "tenants", "acme") for r in items) and any(r["type"] == "denied" for r in items) and items
    items = wait_for(complete, what="all records")
    order = [i for i, r in enumerate(items) if key(r) in (("denied", "olga", "get", "secrets", "s"), ("write", "system:serviceaccount:acme:tenant-admin", "create", "accessgrants", made["metadata"]["name"]),
                                                          ("read", "olga", "get", "secrets", "s"))]
    assert len(order) >= 2
    (read, *_) = [r for r in items if key(r) == ("read", "olga", "get", "secrets", "s")]
    assert read["rule"].endswith("ClusterRole/seki:content-reader") and "actor_tenant" not in read
    assert [r for r in items if key(r) == ("write", "system:serviceaccount:acme:tenant-admin", "create", "accessgrants", made["metadata"]["name"])]


def test_discovery_and_openapi_have_the_part(cloud):
    resources = {r["name"]: r for r in cloud.api("GET", GROUP)["resources"]}
    assert resources["tenants/audit"] == {"name": "tenants/audit", "singularName": "", "namespaced": False, "kind": "AuditRecordList", "verbs": ["get"]}
    doc = cloud.api("GET", "/openapi/v3/apis/seki.cloud/v1alpha1")
    operation = doc["paths"]["/apis/seki.cloud/v1alpha1/tenants/{name}/audit"]
    assert set(operation) == {"get", "parameters"} and {p["name"] for p in operation["get"]["parameters"]} == {"after", "continue", "limit"}
    schema = operation["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
    items = doc["components"]["schemas"][schema]["properties"]["items"]["items"]
    assert "actor_tenant" in json.dumps(doc["components"]["schemas"][str(items).split("/")[-1].rstrip("'}]")]["properties"])
