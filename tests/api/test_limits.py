"""Limits: how many objects a project may have, by its Limits, its tenant and the cloud; exact however many write at once, and after each kind of end."""
import concurrent.futures
import json
import signal

import pytest

from cloud import GROUP, ApiError, wait_for
from test_tenancy import Admin

_n = iter(range(1, 1 << 20))


@pytest.fixture
def tenant(cloud):
    name = f"l{next(_n)}"
    cloud.tenant(name)
    return name


def config_map(name=None):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name} if name else {"generateName": "c-"}, "data": {"k": "v"}}


def limit(name="tight", objects=None, **counts):
    spec = {"counts": [{"resource": r.replace("__", "."), "max": n} for r, n in counts.items()]}
    return {"apiVersion": "seki.cloud/v1alpha1", "kind": "Limit", "metadata": {"name": name}, "spec": {**({"objects": objects} if objects is not None else {}), **spec}}


def limits(ns, name=""):
    return f"{GROUP}/namespaces/{ns}/projectlimits{'/' + name if name else ''}"


def merge(cloud, path, patch):
    return cloud.api("PATCH", path, patch, content_type="application/merge-patch+json")


def refused(cloud, method, path, body, status=403, **kwargs):
    with pytest.raises(ApiError) as e:
        cloud.api(method, path, body, **kwargs)
    assert e.value.status == status, e.value
    return e.value.body


def status_of(cloud, ns, name="tight"):
    """It is written a moment after the Limit."""
    return cloud.api("GET", limits(ns, name)).get("status") or {"conditions": [{"reason": ""}]}


def names(cloud, ns, plural="configmaps"):
    return [o["metadata"]["name"] for o in cloud.api("GET", f"/api/v1/namespaces/{ns}/{plural}")["items"]]


def many(cloud, ns, count, path="configmaps"):
    """Creates at once; how many of each status."""
    def one(_):
        try:
            cloud.api("POST", f"/api/v1/namespaces/{ns}/{path}", config_map())
            return 201
        except ApiError as e:
            return e.status
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(one, range(count)))
    return {s: statuses.count(s) for s in set(statuses)}


def test_a_limit_is_exact_however_many_create_at_once(cloud, project):
    cloud.api("POST", limits(project), limit(configmaps=10))
    assert many(cloud, project, 32) == {201: 10, 403: 22}
    assert len(names(cloud, project)) == 10


def test_the_refusal_says_the_rule_and_whom_to_ask(cloud, tenant):
    cloud.api("POST", limits(tenant), limit(configmaps=1))
    cloud.api("POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("a"))
    body = refused(cloud, "POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("b"))
    assert body["reason"] == "Forbidden" and body["code"] == 403 and body["details"] == {"name": "b", "kind": "configmaps"}
    assert body["message"] == (f'configmaps "b" is forbidden: limit reached: Limit "tight" allows 1 configmaps in project "{tenant}"; requested: configmaps=1, used: configmaps=1, limited: configmaps=1 '
                               f'(rule Limit/tight): ask an admin of tenant "{tenant}"')
    # What is there already is said so, though there is no room.
    assert refused(cloud, "POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("a"), 409)["reason"] == "AlreadyExists"
    rows = [json.loads(x) for x in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--format", "json", "--tenant", tenant).stdout.splitlines()]
    denied = [r for r in rows if r["type"] == "denied" and r["name"] == "b"]
    assert denied and denied[0]["rule"] == "Limit/tight" and denied[0]["status"] == 403 and denied[0]["resource"] == "configmaps"


def test_dry_runs_are_judged_and_do_not_count(cloud, project):
    cloud.api("POST", limits(project), limit(configmaps=1))
    path = f"/api/v1/namespaces/{project}/configmaps"
    for _ in range(3):
        cloud.api("POST", path + "?dryRun=All", config_map("a"))
    cloud.api("POST", path, config_map("a"))
    assert "limit reached" in refused(cloud, "POST", path + "?dryRun=All", config_map("b"))["message"]


def test_every_way_to_create_is_limited_and_updates_are_not(cloud, project):
    path = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", path, config_map("a"))
    cloud.api("POST", limits(project), limit(configmaps=1))
    refused(cloud, "POST", path, config_map("b"))
    refused(cloud, "PATCH", path + "/b?fieldManager=x", config_map("b"), content_type="application/apply-patch+yaml")
    cloud.api("PATCH", path + "/a?fieldManager=x&force=true", config_map("a"), content_type="application/apply-patch+yaml")
    cloud.api("PUT", path + "/a", {**config_map("a"), "data": {"k": "w"}})
    merge(cloud, path + "/a", {"data": {"k": "x"}})


def test_deletions_give_back(cloud, project):
    path = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", limits(project), limit(configmaps=2))
    for name in ("a", "b"):
        cloud.api("POST", path, config_map(name))
    cloud.api("DELETE", path + "/a")
    cloud.api("POST", path, config_map("c"))
    refused(cloud, "POST", path, config_map("d"))
    # What waits for a finalizer is still there.
    merge(cloud, path + "/b", {"metadata": {"finalizers": ["example.com/wait"]}})
    cloud.api("DELETE", path + "/b")
    refused(cloud, "POST", path, config_map("d"))
    merge(cloud, path + "/b", {"metadata": {"finalizers": None}})
    cloud.api("POST", path, config_map("d"))
    cloud.api("DELETE", path)
    assert many(cloud, project, 4) == {201: 2, 403: 2}


def test_a_deleted_namespace_gives_back(cloud, tenant):
    merge(cloud, f"{GROUP}/tenants/{tenant}", {"spec": {"limits": {"projects": 2}}})
    cloud.project(f"{tenant}-two", tenant=tenant)
    body = refused(cloud, "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{tenant}-three", "labels": {"seki.cloud/tenant": tenant}}})
    assert f'limit reached: Tenant "{tenant}" allows 2 namespaces; requested: namespaces=1, used: namespaces=2, limited: namespaces=2 (rule Tenant/{tenant}): ask the operator of this cloud' in body["message"]
    for _ in range(2):
        cloud.api("POST", f"/api/v1/namespaces/{tenant}-two/configmaps", config_map())
    cloud.api("DELETE", f"/api/v1/namespaces/{tenant}-two")

    def made():
        try:
            return cloud.project(f"{tenant}-three", tenant=tenant)
        except ApiError as e:
            assert e.status == 403
    wait_for(made, what="the room of the deleted project")
    assert names(cloud, f"{tenant}-three") == []


def test_objects_counts_all_kinds_but_events_and_leases(cloud, project):
    wait_for(lambda: names(cloud, project, "serviceaccounts"), what="the standing account")
    cloud.api("POST", limits(project), limit(objects=16))
    there = wait_for(lambda: cloud.api("GET", limits(project, "tight")).get("status", {}).get("used"), what="the status")["objects"]
    assert there >= 1
    assert many(cloud, project, 32) == {201: 16 - there, 403: 32 - 16 + there}
    body = refused(cloud, "POST", f"/api/v1/namespaces/{project}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    assert 'Limit "tight" allows 16 objects' in body["message"] and "used: objects=16" in body["message"]
    cloud.api("POST", f"/apis/coordination.k8s.io/v1/namespaces/{project}/leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}})
    cloud.api("POST", f"/api/v1/namespaces/{project}/events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "ConfigMap", "name": "x", "namespace": project}, "reason": "R", "message": "m", "type": "Normal"})
    cloud.api("POST", limits(project), limit("another"))


def test_the_tightest_of_several_holds(cloud, project):
    for name, n in (("a", 5), ("b", 3), ("c", 4)):
        cloud.api("POST", limits(project), limit(name, configmaps=n))
    assert many(cloud, project, 8) == {201: 3, 403: 5}
    cloud.api("DELETE", limits(project, "b"))
    assert many(cloud, project, 8) == {201: 1, 403: 7}
    merge(cloud, limits(project, "c"), {"spec": {"counts": [{"resource": "configmaps", "max": 9}]}})
    assert many(cloud, project, 8) == {201: 1, 403: 7}


def test_bad_limits_are_refused_by_field(cloud, project):
    for bad, field in ((limit(objects=1), "spec.objects"), (limit(nothing=1), "spec.counts[0].resource"), (limit(namespaces=1), "spec.counts[0].resource"), (limit(configmaps=-1), "spec.counts[0].max"),
                       (limit(events__events__k8s__io=1), "spec.counts[0].resource")):
        body = refused(cloud, "POST", limits(project), bad, 422)
        assert [c["field"] for c in body["details"]["causes"]] == [field]
    twice = limit(configmaps=1)
    twice["spec"]["counts"] *= 2
    refused(cloud, "POST", limits(project), twice, 422)


def test_there_are_not_endlessly_many_limits(cloud, project):
    for i in range(32):
        cloud.api("POST", limits(project), limit(f"l{i}"))
    assert "limited: projectlimits.seki.cloud=32" in refused(cloud, "POST", limits(project), limit("more"))["message"]


def test_a_limit_is_no_wider_than_the_tenants(cloud, tenant):
    admin = Admin(cloud, tenant)
    merge(cloud, f"{GROUP}/tenants/{tenant}", {"spec": {"limits": {"objects": 100, "counts": [{"resource": "secrets", "max": 5}]}}})
    for wide, field, numbers in ((limit(objects=101), "spec.objects", ("101", "100")), (limit(secrets=6), "spec.counts[0].max", ("6", "5"))):
        body = refused(admin, "POST", limits(tenant), wide, 422)
        assert [c["field"] for c in body["details"]["causes"]] == [field]
        for text in (*numbers, f'tenant "{tenant}"', "ask the operator"):
            assert text in body["message"]
    admin.api("POST", limits(tenant), limit(objects=50, secrets=3))
    # Lowered above: the tighter holds, and the Limit says so.
    wait_for(lambda: status_of(admin, tenant)["conditions"][0]["reason"] == "Holds", what="the condition")
    merge(cloud, f"{GROUP}/tenants/{tenant}", {"spec": {"limits": {"objects": 100, "counts": [{"resource": "secrets", "max": 1}]}}})
    found = wait_for(lambda: (lambda s: s["conditions"][0]["reason"] == "Narrowed" and s)(status_of(admin, tenant)), what="the condition")
    assert found["conditions"][0]["status"] == "False" and "secrets: 3 here, 1 holds" in found["conditions"][0]["message"]
    assert {"resource": "secrets", "max": 1} in found["effective"]["counts"] and found["effective"]["objects"] == 50
    admin.api("POST", f"/api/v1/namespaces/{tenant}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}})
    body = refused(admin, "POST", f"/api/v1/namespaces/{tenant}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}})
    assert f"(rule Tenant/{tenant}): ask the operator of this cloud" in body["message"]
    # What it says already may stay.
    admin.api("PATCH", limits(tenant, "tight"), {"metadata": {"labels": {"a": "b"}}}, content_type="application/merge-patch+json")
    refused(admin, "PATCH", limits(tenant, "tight"), {"spec": {"counts": [{"resource": "secrets", "max": 2}]}}, 422, content_type="application/merge-patch+json")
    admin.api("PATCH", limits(tenant, "tight"), {"spec": {"counts": [{"resource": "secrets", "max": 1}]}}, content_type="application/merge-patch+json")
    wait_for(lambda: status_of(admin, tenant)["conditions"][0]["reason"] == "Holds", what="the condition")


def test_who_may_write_limits(cloud, tenant):
    admin = Admin(cloud, tenant)
    admin.api("POST", f"/api/v1/namespaces/{tenant}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ed"}})
    admin.api("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{tenant}/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "ed"}, "roleRef":
              {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "ServiceAccount", "name": "ed", "namespace": tenant}]})
    editor = Admin(cloud, tenant)
    token = cloud.api("POST", f"/api/v1/namespaces/{tenant}/serviceaccounts/ed/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    editor.headers = {"Authorization": f"Bearer {token}"}
    assert wait_for(lambda: editor.api("GET", limits(tenant))["items"], what="the editor to read")
    editor.refused("POST", limits(tenant), limit())
    editor.refused("DELETE", limits(tenant, "default"))
    merge_type = {"content_type": "application/merge-patch+json"}
    admin.api("PATCH", limits(tenant, "default"), {"spec": {"counts": [{"resource": "secrets", "max": 7}]}}, **merge_type)
    admin.refused("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"limits": {"objects": 100000}}}, **merge_type)


def test_a_tenant_is_made_with_a_limit_in_each_project(cloud):
    made = cloud.tenant("policied", limits={"projects": 3, "objects": 500, "counts": [{"resource": "secrets", "max": 20}]})
    first = cloud.api("GET", limits("policied", "default"))
    assert first["spec"]["objects"] == 500 and {"resource": "secrets", "max": 20} in first["spec"]["counts"] and {"resource": "modelendpoints.seki.cloud", "max": 100} in first["spec"]["counts"]
    assert first["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    cloud.project("policied-two", tenant="policied")
    cloud.project("policied-three", tenant="policied")

    def spec(ns):
        try:
            return cloud.api("GET", limits(ns, "default"))["spec"]
        except ApiError as e:
            assert e.status == 404
    wait_for(lambda: spec("policied-two") == first["spec"] and spec("policied-three") == first["spec"], what="the Limits of the further projects")
    # One that somebody changed is his; the others follow the tenant.
    merge(cloud, limits("policied-two", "default"), {"spec": {"objects": 400}})
    merge(cloud, f"{GROUP}/tenants/policied", {"spec": {"limits": {"objects": 600}}})
    wait_for(lambda: spec("policied")["objects"] == 600 and spec("policied-three")["objects"] == 600, what="the others to follow")
    assert spec("policied-two")["objects"] == 400


def test_without_a_limit_the_clouds_holds_and_a_reload_changes_it(own_cloud, tmp_path):
    conf = tmp_path / "seki.conf"
    conf.write_text("[limits]\nobjects-per-project = 20\n")
    cloud = own_cloud(args=[f"--config={conf}"])
    cloud.project("small")
    wait_for(lambda: names(cloud, "small", "serviceaccounts"), what="the standing account")
    assert many(cloud, "small", 32) == {201: 19, 403: 13}
    message = refused(cloud, "POST", "/api/v1/namespaces/small/configmaps", config_map("x"))["message"]
    assert 'this cloud allows 20 objects in project "small"' in message and "(rule limits-objects-per-project): ask the operator of this cloud" in message
    body = refused(cloud, "POST", limits("small"), limit(objects=21), 422)
    assert "must be at most 20, which this cloud (option limits-objects-per-project) allows" in body["message"]
    conf.write_text("[limits]\nobjects-per-project = 22\n")
    cloud.process.send_signal(signal.SIGHUP)

    def room():
        try:
            return cloud.api("POST", "/api/v1/namespaces/small/configmaps?dryRun=All", config_map("x"))
        except ApiError as e:
            assert e.status == 403
    wait_for(room, what="the reload")
    assert many(cloud, "small", 8) == {201: 2, 403: 6}
    cloud.tenant("rich", limits={"objects": 40})  # the operator may give a tenant more than everybody has
    assert cloud.api("GET", limits("rich", "default"))["spec"]["objects"] == 40


def test_counts_are_the_same_after_a_restart_and_after_a_kill(own_cloud):
    cloud = own_cloud()
    cloud.tenant("acme", limits={"projects": 2})
    cloud.project("acme-two", tenant="acme")
    cloud.api("POST", limits("acme"), limit(configmaps=10))
    assert many(cloud, "acme", 4) == {201: 4}
    cloud.api("DELETE", f"/api/v1/namespaces/acme/configmaps/{names(cloud, 'acme')[0]}")
    for again in range(2):
        if again:
            cloud.kill_role("control")
        else:
            cloud.stop()
            cloud.start(wait=False)
        cloud.wait_ready()
        left = 10 - len(names(cloud, "acme"))
        assert many(cloud, "acme", 32) == {201: left, 403: 32 - left}
        refused(cloud, "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acme-three", "labels": {"seki.cloud/tenant": "acme"}}})
        cloud.api("DELETE", f"/api/v1/namespaces/acme/configmaps/{names(cloud, 'acme')[0]}")


def test_used_is_kept_up(cloud, project):
    cloud.api("POST", limits(project), limit(configmaps=10))

    def used():
        status = cloud.api("GET", limits(project, "tight")).get("status", {})
        return {c["resource"]: c["used"] for c in status.get("used", {}).get("counts", [])}
    wait_for(lambda: used() == {"configmaps": 0}, what="the first status")
    many(cloud, project, 7)
    wait_for(lambda: used() == {"configmaps": 7}, what="the count")
    cloud.api("DELETE", f"/api/v1/namespaces/{project}/configmaps")
    wait_for(lambda: used() == {"configmaps": 0}, what="the count to fall")
    # It settles: nothing is written while nothing changes.
    rows = [json.loads(x) for x in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--format", "json", "--tenant", project).stdout.splitlines()]
    assert [(r["verb"], r["name"]) for r in rows if r.get("resource") == "projectlimits"] == [("create", "tight")]
    rev = cloud.api("GET", limits(project, "tight"))["metadata"]["resourceVersion"]
    cloud.api("POST", limits(project), limit("other", configmaps=10))
    wait_for(lambda: cloud.api("GET", limits(project, "other")).get("status"), what="the other's status")
    assert cloud.api("GET", limits(project, "tight"))["metadata"]["resourceVersion"] == rev


def test_kubectl_knows_limits(cloud, tenant):
    text = cloud.kubectl("-n", tenant, "get", "plim").stdout
    assert text.split()[:4] == ["NAME", "OBJECTS", "EFFECTIVE", "AGE"] and "default" in text
    wait_for(lambda: "/10000" in cloud.kubectl("-n", tenant, "get", "projectlimits", "default").stdout and "Holds" in cloud.kubectl("-n", tenant, "get", "limit", "default").stdout, what="the figures")
    assert "such as secrets or modelendpoints.seki.cloud" in cloud.kubectl("explain", "projectlimits.spec.counts").stdout
    cloud.kubectl("apply", "-f", "-", input=json.dumps({**limit(secrets=0), "metadata": {"name": "tight", "namespace": tenant}}))
    p = cloud.kubectl("-n", tenant, "create", "secret", "generic", "s", check=False)
    assert p.returncode == 1 and 'secrets "s" is forbidden: limit reached: Limit "tight" allows 0 secrets' in p.stderr


def test_seki_tenant_create_takes_limits(cloud):
    cloud.seki("tenant", "create", "bounded", "--limit", "projects=3", "--limit", "objects=200", "--limit", "secrets=4", "--limit", "modelendpoints.seki.cloud=2")
    assert cloud.api("GET", f"{GROUP}/tenants/bounded")["spec"]["limits"] == {"projects": 3, "objects": 200, "counts": [{"resource": "secrets", "max": 4}, {"resource": "modelendpoints.seki.cloud", "max": 2}]}
    wait_for(lambda: "1/3" in next(x for x in cloud.seki("tenant", "list").stdout.splitlines() if x.startswith("bounded ")), what="its projects")
    for bad in ("projects", "=3", "secrets=many", "secrets=-1"):
        p = cloud.seki("tenant", "create", "never", "--limit", bad, check=False)
        assert p.returncode == 2 and "expected KEY=N" in p.stderr
    p = cloud.seki("tenant", "create", "never", "--limit", "sekrets=1", check=False)
    assert p.returncode == 1 and "spec.limits.counts[0].resource" in p.stderr


def test_an_endpoint_says_that_its_replicas_find_no_room(cloud, tenant):
    cloud.api("POST", limits(tenant), limit(modelreplicas__seki__cloud=1))
    cloud.fake_endpoint(tenant, "chat", wait=False, replicas=3)

    def said():
        return [c["message"] for c in cloud.api("GET", f"{GROUP}/namespaces/{tenant}/modelendpoints/chat").get("status", {}).get("conditions", []) if c["type"] == "Reconciled" and c["status"] == "False"]
    message = wait_for(said, what="the condition")[0]
    assert 'Limit "tight" allows 1 modelreplicas.seki.cloud' in message
    assert len(cloud.api("GET", f"{GROUP}/namespaces/{tenant}/modelreplicas")["items"]) == 1
    cloud.api("DELETE", limits(tenant, "tight"))
    wait_for(lambda: len(cloud.api("GET", f"{GROUP}/namespaces/{tenant}/modelreplicas")["items"]) == 3, timeout=90, what="the other replicas")


def test_leases_are_not_endless_either(cloud, project):
    cloud.api("POST", limits(project), limit(leases__coordination__k8s__io=3))
    path = f"/apis/coordination.k8s.io/v1/namespaces/{project}/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"generateName": "l-"}, "spec": {}}
    for _ in range(3):
        cloud.api("POST", path, lease)
    assert "limited: leases.coordination.k8s.io=3" in refused(cloud, "POST", path, lease)["message"]
    assert "seki_limits_refused_total" in cloud.metrics() and not cloud.metrics().count("seki_limits_refused_total 0\n")
