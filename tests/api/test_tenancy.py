"""Tenants: made whole or not at all, suspended within a second, closed for good; their admins do everything within, and nothing without."""
import json
import os
import re
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from cloud import GROUP, KUBECTL, SEKI, ApiError, wait_for

RBAC = "/apis/rbac.authorization.k8s.io/v1"
_n = iter(range(1, 1 << 20))


class Admin:
    """The first admin of a tenant, by the account that was made with it."""

    def __init__(self, cloud, tenant, account="tenant-admin"):
        self.cloud, self.tenant = cloud, tenant
        answer = cloud.api("POST", f"/api/v1/namespaces/{tenant}/serviceaccounts/{account}/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
        self.headers = {"Authorization": "Bearer " + answer["status"]["token"]}
        self.context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))

    def api(self, method, path, body=None, **kwargs):
        return self.cloud.api(method, path, body, headers=self.headers, context=self.context, **kwargs)

    def raw(self, method, path, body=None):
        """Status, headers but for those that differ anyway, and body."""
        request = urllib.request.Request(self.cloud.api_url + path, data=None if body is None else json.dumps(body).encode(), method=method, headers={"Content-Type": "application/json", **self.headers})
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.context) as r:
                answer = r
                text = r.read()
        except urllib.error.HTTPError as e:
            answer, text = e, e.read()
        return answer.status, sorted((k.lower(), v) for k, v in answer.headers.items() if k.lower() not in ("date", "audit-id", "x-request-id")), text

    def project(self, name, tenant=None):
        labels = {} if tenant == "" else {"seki.cloud/tenant": tenant or self.tenant}
        return self.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def refused(self, method, path, body=None, status=403, **kwargs):
        with pytest.raises(ApiError) as e:
            self.api(method, path, body, **kwargs)
        assert e.value.status == status, e.value
        return e.value.body["message"]


@pytest.fixture
def tenant(cloud):
    name = f"t{next(_n)}"
    cloud.tenant(name)
    return name


def config_map(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}}


def test_a_tenant_is_made_whole_in_one_transaction(cloud):
    made = cloud.tenant("whole", displayName="Whole K.K.", admins=["alice@whole.example"])
    rev = made["metadata"]["resourceVersion"]
    for path in ("/api/v1/namespaces/whole", "/api/v1/namespaces/whole/serviceaccounts/tenant-admin", f"{RBAC}/clusterroles/seki:tenant:whole",
                 f"{RBAC}/clusterrolebindings/seki:tenant:whole", f"{RBAC}/namespaces/whole/rolebindings/tenant-admins", f"{RBAC}/namespaces/whole/rolebindings/tenant-owners"):
        obj = cloud.api("GET", path)
        assert obj["metadata"]["labels"]["seki.cloud/tenant"] == "whole", path
        if "namespaces/whole/" in path or "cluster" in path:
            assert obj["metadata"]["resourceVersion"] == rev, path
    subjects = cloud.api("GET", f"{RBAC}/namespaces/whole/rolebindings/tenant-admins")["subjects"]
    assert {s["name"] for s in subjects} == {"seki:tenant:whole:admins", "tenant-admin", "alice@whole.example"}
    wait_for(lambda: cloud.api("GET", f"{GROUP}/tenants/whole").get("status", {}).get("projects") == ["whole"], what="its status")
    assert cloud.api("GET", f"{GROUP}/tenants/whole")["status"]["conditions"][0]["reason"] == "Active"


def test_no_tenants_names_lie_within_anothers(cloud):
    """However it is made, from either side: else the admins of both could take the same names, and each would hear what the other has."""
    def made(name):
        return cloud.api("POST", f"{GROUP}/tenants", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": name}})

    def refused(name, because_of):
        with pytest.raises(ApiError) as e:
            made(name)
        assert e.value.status == 422 and f'there is tenant "{because_of}"' in e.value.body["message"] and "TenantNames" in e.value.body["message"]
        p = cloud.seki("tenant", "create", name, check=False)
        assert p.returncode == 1 and "TenantNames" in p.stderr
    made("inn-keep")
    for name in ("inn-keep-two", "inn-keep-two-three"):
        refused(name, "inn-keep")
    refused("inn", "inn-keep")
    for name in ("inns", "in", "inn-kee", "inn-keeper", "keep"):
        made(name)
    cloud.api("PATCH", f"{GROUP}/tenants/inn-keep", {"spec": {"displayName": "x"}}, content_type="application/merge-patch+json")


def test_nothing_is_made_when_one_part_is_there(cloud):
    cloud.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "part"}})
    with pytest.raises(ApiError) as e:
        cloud.tenant("part")
    assert e.value.status == 409 and 'namespaces "part" already exists' in e.value.body["message"] and "nothing was made" in e.value.body["message"]
    for path in (f"{GROUP}/tenants/part", f"{RBAC}/clusterroles/seki:tenant:part"):
        with pytest.raises(ApiError) as e:
            cloud.api("GET", path)
        assert e.value.status == 404
    cloud.api("POST", f"{GROUP}/tenants?dryRun=All", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": "dry"}})
    with pytest.raises(ApiError):
        cloud.api("GET", "/api/v1/namespaces/dry")


@pytest.mark.parametrize("name,spec,field", [("x", {"admins": ["system:admin"]}, "spec.admins"), ("x", {"state": "Asleep"}, "spec.state"), ("default", {}, "metadata.name"), ("X", {}, "metadata.name"),
                                             ("x", {"contacts": [{"role": "Billing"}]}, "spec.contacts[0].email")])
def test_bad_tenants_are_refused_by_field(cloud, name, spec, field):
    with pytest.raises(ApiError) as e:
        cloud.tenant(name, **spec)
    assert e.value.status == 422 and [c["field"] for c in e.value.body["details"]["causes"]] == [field]


def test_an_admin_does_everything_within_and_nothing_without(cloud, tenant):
    other = f"other-{tenant}"
    cloud.tenant(other)
    admin = Admin(cloud, tenant)
    admin.project(f"{tenant}-two")

    def works():
        try:
            return admin.api("POST", f"/api/v1/namespaces/{tenant}-two/configmaps", config_map("a"))
        except ApiError as e:
            assert e.status == 403
            return None
    wait_for(works, what="the admin to have the new project")
    admin.api("POST", f"{GROUP}/namespaces/{tenant}-two/apikeys", {"apiVersion": "seki.cloud/v1alpha1", "kind": "APIKey", "metadata": {"name": "k"}})
    admin.api("POST", f"{RBAC}/namespaces/{tenant}-two/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "bob"}, "roleRef":
              {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"}]})
    assert admin.api("GET", f"{GROUP}/tenants/{tenant}")["metadata"]["name"] == tenant
    admin.api("DELETE", f"/api/v1/namespaces/{tenant}-two")
    wait_for(lambda: cloud.api("GET", f"{GROUP}/tenants/{tenant}")["status"]["projects"] == [tenant], what="the project to go")
    # Without:
    assert other in admin.refused("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stolen", "labels": {"seki.cloud/tenant": other}}}, status=404)
    assert "say which with the label" in admin.refused("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nobodys"}})
    for method, path in (("GET", f"{GROUP}/tenants"), ("GET", "/api/v1/namespaces"), ("DELETE", f"{GROUP}/tenants/{tenant}"), ("GET", "/api/v1/secrets")):
        admin.refused(method, path)
    for method, path in (("GET", f"{GROUP}/tenants/{other}"), ("GET", f"/api/v1/namespaces/{other}"), ("DELETE", f"/api/v1/namespaces/{other}"), ("GET", f"/api/v1/namespaces/{other}/secrets")):
        admin.refused(method, path, status=404)
    for state in ("Suspended", "Closing"):
        admin.refused("PUT", f"{GROUP}/tenants/{tenant}", {**cloud.api("GET", f"{GROUP}/tenants/{tenant}"), "spec": {"state": state}})


def patch(admin, path, body):
    return admin.api("PATCH", path, body, content_type="application/merge-patch+json")


def patch_refused(admin, path, body, status=403):
    with pytest.raises(ApiError) as e:
        patch(admin, path, body)
    assert e.value.status == status, e.value
    return e.value.body["message"]


def test_an_admin_says_who_the_others_are(cloud, tenant):
    """Colleagues come and go without the operator; the rest of the Tenant is his, and so is who was the last one."""
    cloud.tenant(f"other-{tenant}")
    admin, path = Admin(cloud, tenant), f"{GROUP}/tenants/{tenant}"
    assert patch(admin, path, {"spec": {"admins": ["carol"]}})["spec"]["admins"] == ["carol"]
    carol = {"Impersonate-User": "carol"}

    def carol_reads():
        try:
            return cloud.api("GET", f"/api/v1/namespaces/{tenant}/secrets", headers=carol)
        except ApiError as e:
            assert e.status == 403
            return None
    wait_for(carol_reads, what="carol to be an admin")
    # Who is one by name alone has the same rights.
    wait_for(lambda: "dave" in cloud.api("PATCH", path, {"spec": {"admins": ["carol", "dave"], "contacts": [{"role": "Billing", "email": "dave@x.example"}]}}, content_type="application/merge-patch+json",
                                         headers=carol)["spec"]["admins"], what="dave")
    assert patch(admin, path, {"spec": {"admins": ["dave"]}})["spec"]["admins"] == ["dave"]
    assert "no admin by name any more" in patch_refused(admin, path, {"spec": {"admins": []}})
    assert "no admin by name any more" in patch_refused(admin, path, {"spec": {"admins": None}})
    for body in ({"spec": {"state": "Suspended"}}, {"spec": {"limits": {"projects": 100}}}, {"spec": {"billingAccount": "0815"}}, {"spec": {"admins": ["eve"], "displayName": "x"}},
                 {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"annotations": {"a": "b"}}}, {"metadata": {"finalizers": None}}):
        message = patch_refused(admin, path, body)
        assert "spec.admins, spec.auditors and spec.contacts" in message and "ask the operator" in message, (body, message)
    patch_refused(admin, f"{GROUP}/tenants/other-{tenant}", {"spec": {"admins": ["carol"]}}, status=404)
    patch_refused(admin, f"{GROUP}/tenants/{tenant}-none", {"spec": {"admins": ["carol"]}}, status=404)
    assert patch_refused(admin, path + "/status", {"status": {"projects": []}})
    assert [c for c in cloud.api("GET", path)["spec"]["admins"]] == ["dave"]
    # While the tenant is suspended nothing of it is changed; and who runs the cloud may take out the last one.
    cloud.seki("tenant", "suspend", tenant)
    assert "TenantSuspended" in patch_refused(admin, path, {"spec": {"admins": ["eve"]}})
    cloud.seki("tenant", "resume", tenant)
    cloud.api("PATCH", path, {"spec": {"admins": []}}, content_type="application/merge-patch+json")


def test_an_admin_lists_the_projects_of_the_tenant(cloud, tenant):
    cloud.tenant(f"other-{tenant}")
    admin = Admin(cloud, tenant)
    cloud.project(f"{tenant}-two", tenant=tenant)
    for selector in (f"seki.cloud/tenant={tenant}", f"seki.cloud/tenant%20in%20({tenant}),!x"):
        assert [n["metadata"]["name"] for n in admin.api("GET", f"/api/v1/namespaces?labelSelector={selector}")["items"]] == [tenant, f"{tenant}-two"]
    for selector in ("", f"seki.cloud/tenant=other-{tenant}", f"seki.cloud/tenant!={tenant}", f"seki.cloud/tenant%20in%20({tenant},other-{tenant})", "seki.cloud/tenant", f"seki.cloud/tenantx={tenant}"):
        admin.refused("GET", f"/api/v1/namespaces?labelSelector={selector}")


def test_no_name_that_is_refused_tells_what_another_tenant_has(cloud, tenant):
    """Names of projects and of revocations are one space over the cloud; so a tenant's admins make theirs under the tenant's own name, and never hear that another is taken."""
    cloud.tenant("n-theirs")
    cloud.api("POST", f"{GROUP}/userrevocations", {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": "n-theirs"}, "spec": {"username": "x", "tenant": "n-theirs"}})
    admin = Admin(cloud, tenant)
    for dry in ("", "?dryRun=All"):
        for path, body in (("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "NAME", "labels": {"seki.cloud/tenant": tenant}}}),
                           (f"{GROUP}/userrevocations", {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": "NAME"}, "spec": {"username": "x", "tenant": tenant}})):
            answers = set()
            for name in ("n-theirs", "n-absent", "default", f"{tenant}x"):
                status, _, text = admin.raw("POST", path + dry, json.loads(json.dumps(body).replace("NAME", name)))
                answers.add((status, text.replace(name.encode(), b"NAME")))
            assert len(answers) == 1 and {a[0] for a in answers} == {403}, answers
            assert "Names" in json.loads(answers.pop()[1])["message"]
    admin.project(f"{tenant}-own")
    revocation = {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": f"{tenant}-bob"}, "spec": {"username": "x", "tenant": tenant}}
    admin.api("POST", f"{GROUP}/userrevocations", revocation)
    assert "already exists" in admin.refused("POST", f"{GROUP}/userrevocations", revocation, status=409)  # of one's own one is told
    cloud.project(f"any-{tenant}", tenant=tenant)  # who may use all tenants gives any name


def test_an_admin_gives_the_tenant_new_keys(cloud, tenant):
    cloud.tenant(f"other-{tenant}")
    admin, path = Admin(cloud, tenant), f"{GROUP}/keyrotations"
    for ns in (tenant, f"other-{tenant}"):
        cloud.api("POST", f"/api/v1/namespaces/{ns}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})

    def rotation(of, **spec):
        return {"apiVersion": "seki.cloud/v1alpha1", "kind": "KeyRotation", "spec": {"tenant": of, **spec}}
    assert [k["version"] for k in admin.api("POST", path, rotation(tenant))["status"]["keys"]] == [1, 2]
    assert {k["tenant"] for k in admin.api("POST", path, rotation(tenant, reportOnly=True))["status"]["keys"]} == {tenant}
    for report in (False, True):
        admin.refused("POST", path, rotation(f"other-{tenant}", reportOnly=report), status=404)
        admin.refused("POST", path, rotation(f"{tenant}-none", reportOnly=report), status=404)
        admin.refused("POST", path, rotation("", reportOnly=report))
    assert [k["version"] for k in cloud.api("POST", path, rotation(f"other-{tenant}", reportOnly=True))["status"]["keys"]] == [1]


def test_the_role_of_a_tenant_made_by_an_earlier_release_gets_what_it_lacks(cloud, tenant):
    path = f"{RBAC}/clusterroles/seki:tenant:{tenant}"
    role = cloud.api("GET", path)
    everything = json.dumps(role["rules"])
    role["rules"] = [{"apiGroups": ["seki.cloud"], "resources": ["tenants"], "resourceNames": [tenant], "verbs": ["get", "list", "watch", "use"]}, {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["create"]}]
    cloud.api("PUT", path, role)
    for plural in ("clusterroles", "clusterrolebindings"):  # of a release that knew no auditors
        cloud.api("DELETE", f"{RBAC}/{plural}/seki:tenant:{tenant}:auditor")
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"displayName": "looked at"}}, content_type="application/merge-patch+json")
    wait_for(lambda: all(word in json.dumps(cloud.api("GET", path)["rules"]) for word in ("administer", "rotate", "revoke", "tenants/audit")), what="the rules to be there again")
    assert all(verb in everything for verb in ("administer", "rotate", "revoke"))
    wait_for(lambda: all(f"seki:tenant:{tenant}:auditor" in {o["metadata"]["name"] for o in cloud.api("GET", f"{RBAC}/{plural}")["items"]} for plural in ("clusterroles", "clusterrolebindings")),
             what="the auditors' role")


REQUESTS = {"get": ("GET", "/x", None), "list": ("GET", "", None), "watch": ("GET", "?watch=1&timeoutSeconds=1", None), "create": ("POST", "", {}), "update": ("PUT", "/x", {}),
            "patch": ("PATCH", "/x", {}), "delete": ("DELETE", "/x", None), "deletecollection": ("DELETE", "", None)}
NAMED = {"watch": ("GET", "?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dx", None)}  # one object, as Kubernetes watches it


def resources(cloud):
    for group in [{"groupVersion": "v1"}, *[g["preferredVersion"] for g in cloud.api("GET", "/apis")["groups"]]]:
        root = f"/api/{group['groupVersion']}" if group["groupVersion"] == "v1" else f"/apis/{group['groupVersion']}"
        for resource in cloud.api("GET", root)["resources"]:
            yield root, resource


def same_but_for_the_name(admin, method, path, body, names, status=404):
    """The answers, to the byte, with each of the names (of one length) in the place of NAME."""
    answers = set()
    for name in names:
        code, headers, text = admin.raw(method, path.replace("NAME", name), body)
        assert code == status, (method, path, name, code, text)
        answers.add((tuple(headers), text.replace(name.encode(), b"NAME")))
    assert len(answers) == 1, (method, path, answers)
    return json.loads(answers.pop()[1])


def test_what_is_not_there_and_what_is_anothers_look_the_same(cloud, tenant):
    """Every verb on every kind and what it has beside, in another's project, in one of the cloud's own and in one that does not exist: not found, the same bytes but for the name."""
    cloud.tenant("other-one")
    cloud.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cloud-own"}})
    for ns in ("other-one", "cloud-own"):
        cloud.api("POST", f"/api/v1/namespaces/{ns}/configmaps", config_map("x"))
        cloud.api("POST", f"/api/v1/namespaces/{ns}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}})
    cloud.fake_endpoint("other-one", "x", wait=False)
    admin = Admin(cloud, tenant)
    seen = set()
    for root, resource in resources(cloud):
        if not resource["namespaced"]:
            continue
        plural, _, sub = resource["name"].partition("/")
        for verb in resource["verbs"]:
            method, suffix, body = ("POST", "/x", {}) if sub and verb == "create" else REQUESTS[verb]
            answer = same_but_for_the_name(admin, method, f"{root}/namespaces/NAME/{plural}{suffix}{'/' + sub if sub else ''}", body, ("other-one", "cloud-own", "not-there"))
            assert answer["message"] == 'namespaces "NAME" not found' and answer["reason"] == "NotFound" and answer["details"] == {"name": "NAME", "kind": "namespaces"}
            seen.add((resource["name"], verb))
    assert len(seen) > 100 and {("serviceaccounts/token", "create"), ("modelendpoints/scale", "patch"), ("localsubjectaccessreviews", "create")} <= seen


def test_objects_of_the_cluster_that_are_anothers_are_not_there(cloud, tenant):
    cloud.tenant("t-theirs")
    cloud.api("POST", f"{GROUP}/userrevocations", {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": "t-theirs"}, "spec": {"username": "x@theirs.example"}})
    for name in ("seki:tenant:t-theirs", "t-theirs"):
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": []}
        binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": [],
                   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}
        if name == "t-theirs":
            cloud.api("POST", f"{RBAC}/clusterroles", role)
            cloud.api("POST", f"{RBAC}/clusterrolebindings", binding)
    admin = Admin(cloud, tenant)
    seen = set()
    for root, resource in resources(cloud):
        plural, _, sub = resource["name"].partition("/")
        if resource["namespaced"] or set(resource["verbs"]) == {"create"}:
            continue
        text = f"{plural}{'.' if '/apis/' in root else ''}{root.split('/')[2] if '/apis/' in root else ''}"
        for verb in set(resource["verbs"]) - {"create", "list", "watch", "deletecollection"}:
            method, suffix, body = REQUESTS[verb]
            names = ("t-theirs", "t-absent")
            for pattern in ("NAME", "seki:tenant:NAME") if plural.startswith("clusterrole") else ("NAME",):
                answer = same_but_for_the_name(admin, method, f"{root}/{plural}{suffix.replace('x', pattern)}{'/' + sub if sub else ''}", body, names)
                assert answer["message"] == f'{text} "{pattern}" not found' and answer["details"]["name"] == pattern and answer["details"]["kind"] == plural
            seen.add((resource["name"], verb))
        if plural == "customresourcedefinitions":  # of which there are none, and everybody may see that
            continue
        for verb in set(resource["verbs"]) & {"list", "watch", "deletecollection"}:  # what is the whole cloud's is forbidden, whatever it would have shown
            for method, suffix, body in (REQUESTS[verb], NAMED.get(verb, REQUESTS[verb])):
                answer = same_but_for_the_name(admin, method, f"{root}/{plural}{suffix.replace('Dx', 'DNAME')}", body, ("t-theirs", "t-absent"), status=403)
                assert "ask the operator of this cloud" in answer["message"]
    assert {("tenants", "get"), ("tenants/status", "patch"), ("namespaces", "delete"), ("namespaces/status", "update"), ("clusterroles", "update"), ("clusterrolebindings", "get"),
            ("userrevocations", "delete")} <= seen
    # What names another's on the way:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stolen", "labels": {"seki.cloud/tenant": "NAME"}}}
    for path in ("/api/v1/namespaces", "/api/v1/namespaces?dryRun=All"):
        answers = [admin.raw("POST", path, json.loads(json.dumps(body).replace("NAME", name))) for name in ("t-theirs", "t-absent")]
        assert {a[0] for a in answers} == {404} and len({a[2].replace(b"t-theirs", b"NAME").replace(b"t-absent", b"NAME") for a in answers}) == 1
        assert json.loads(answers[0][2])["message"] == 'tenants.seki.cloud "t-theirs" not found'
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "x"}],
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "seki:tenant:NAME"}}
    answers = [admin.raw("POST", f"{RBAC}/namespaces/{tenant}/rolebindings", json.loads(json.dumps(binding).replace("NAME", name))) for name in ("t-theirs", "t-absent")]
    assert {a[0] for a in answers} == {404} and len({a[2].replace(b"t-theirs", b"NAME").replace(b"t-absent", b"NAME") for a in answers}) == 1, answers
    for name in ("t-theirs", "t-absent"):
        admin.headers["Impersonate-User"] = f"system:serviceaccount:{name}:tenant-admin"
        assert admin.refused("GET", "/version", status=404) == f'namespaces "{name}" not found'


def test_within_ones_own_tenant_a_refusal_says_whom_to_ask(cloud, tenant):
    cloud.api("POST", f"/api/v1/namespaces/{tenant}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ci"}})
    admin, ci = Admin(cloud, tenant), Admin(cloud, tenant, "ci")
    assert f'ask the admins of tenant "{tenant}"' in ci.refused("GET", f"/api/v1/namespaces/{tenant}/secrets")
    assert f'ask the admins of tenant "{tenant}"' in ci.refused("GET", f"/api/v1/namespaces/{tenant}")
    with pytest.raises(ApiError) as e:
        ci.project(f"{tenant}-no")
    assert e.value.status == 403 and f'ask the admins of tenant "{tenant}"' in e.value.body["message"]
    for path in ("/metrics", "/api/v1/namespaces", "/api/v1/secrets"):
        assert "ask the operator of this cloud" in ci.refused("GET", path)
    # As whom one asks is what counts, also for those who belong to no tenant.
    admin.headers["Impersonate-User"] = f"system:serviceaccount:{tenant}:ci"
    assert f'ask the admins of tenant "{tenant}"' in admin.refused("GET", f"/api/v1/namespaces/{tenant}/secrets")
    admin.refused("GET", "/api/v1/namespaces/kube-system/secrets", status=404)
    for user, groups, status in (("ann", f"seki:tenant:{tenant}", 404), ("ann", f"seki:tenant:{tenant}:admins", 404), ("ann", "staff", 403)):
        with pytest.raises(ApiError) as e:
            cloud.api("GET", "/api/v1/namespaces/kube-system/secrets", headers={"Impersonate-User": user, "Impersonate-Group": groups})
        assert e.value.status == status, (groups, e.value)
    # Reviews say what they said.
    for ns in ("kube-system", "not-there"):
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"namespace": ns, "verb": "get", "resource": "secrets"}}}
        assert ci.api("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"] is False


def test_kubectl_and_the_gateway_find_nothing_of_anothers(cloud, tenant, tmp_path):
    cloud.tenant("k-theirs")
    cloud.api("POST", "/api/v1/namespaces/k-theirs/configmaps", config_map("x"))
    cloud.fake_endpoint("k-theirs", "theirs")
    file = tmp_path / "kubeconfig"
    cloud.seki("tenant", "create", "k-mine", "--kubeconfig-out", str(file))
    for args in (["get", "configmaps"], ["get", "configmap", "x"], ["get", "secrets"], ["describe", "configmap", "x"], ["delete", "configmap", "x"], ["delete", "configmaps", "--all"],
                 ["create", "configmap", "y"], ["label", "configmap", "x", "a=b"], ["annotate", "mep", "theirs", "a=b"], ["scale", "mep", "theirs", "--replicas=0"], ["create", "token", "tenant-admin"],
                 ["get", "configmaps", "--watch"], ["events"]):
        said = set()
        for ns in ("k-theirs", "k-absent"):
            p = cloud.kubectl("--kubeconfig", str(file), "-n", ns, *args, check=False)
            assert p.returncode == 1 and "not found" in p.stderr or "--all" in args, (args, p.stdout, p.stderr)  # who deletes all is content to find none
            assert "orbidden" not in p.stdout + p.stderr
            said.add((p.stdout + p.stderr).replace(ns, "NS"))
        assert len(said) == 1, said
    for args in (["get", "tenant", "NAME"], ["get", "namespace", "NAME"], ["delete", "namespace", "NAME"], ["describe", "tenant", "NAME"]):  # describe, when nothing is found, lists what begins so
        said = {re.sub("k-(theirs|absent)", "NAME", (p := cloud.kubectl("--kubeconfig", str(file), *[a.replace("NAME", name) for a in args], check=False)).stdout + p.stderr)
                for name in ("k-theirs", "k-absent")}
        assert len(said) == 1 and ("NotFound" in str(said) or args[0] == "describe"), said
    cloud.api("GET", "/api/v1/namespaces/k-theirs/configmaps/x")
    key = cloud.key(tenant)
    assert cloud.gateway_status("/models/theirs", cloud.key("k-theirs")) == 200
    answers = set()
    for model in ("theirs", "absent"):  # by every route and to the byte: tests/gateway/test_isolation.py
        request = urllib.request.Request(cloud.base_url + "/chat/completions", json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]}).encode(),
                                         {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(request, timeout=60)
        error = json.loads(e.value.read())["error"]
        assert e.value.code == 404 and error["code"] == "model_not_found" and error.pop("request_id")
        answers.add(json.dumps(error).replace(model, "MODEL"))
    assert len(answers) == 1


def test_suspension_holds_within_a_second(cloud, tenant):
    admin = Admin(cloud, tenant)
    cloud.fake_endpoint(tenant, "fake", tokens_per_second=20, tokens=60)
    key = cloud.key(tenant)
    request = urllib.request.Request(cloud.base_url + "/chat/completions", json.dumps({"model": "fake", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode(),
                                     {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    stream = urllib.request.urlopen(request, timeout=60)
    assert stream.readline().startswith(b"data:")
    rest = []
    reader = threading.Thread(target=lambda: rest.append(stream.read()))
    reader.start()
    cloud.seki("tenant", "suspend", tenant)
    begun = time.monotonic()
    wait_for(lambda: cloud.gateway_status("/models", key) == 403, what="the gateway to refuse")
    took = time.monotonic() - begun
    message = admin.refused("GET", f"/api/v1/namespaces/{tenant}/configmaps")
    assert "TenantSuspended" in message and "ask the operator" in message
    admin.refused("POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("late"))
    reader.join(60)
    assert rest and rest[0].endswith(b"data: [DONE]\n\n")  # what ran has ended as it would have
    assert cloud.api("GET", f"/api/v1/namespaces/{tenant}/configmaps")["items"] == []  # the operator still sees it
    assert took < 1, f"the gateway took {took:.2f} s"
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(request, timeout=60)
    error = json.loads(e.value.read())["error"]
    assert e.value.code == 403 and error["code"] == "tenant_suspended" and "ask the operator" in error["message"]
    cloud.seki("tenant", "resume", tenant)
    wait_for(lambda: cloud.gateway_status("/models", key) == 200, what="the gateway to serve again")
    admin.api("POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("again"))


class Watch(threading.Thread):
    """Reads a watch over HTTP to its end: its events."""

    def __init__(self, user, path):
        super().__init__(daemon=True)
        request = urllib.request.Request(user.cloud.api_url + path + "?watch=1&timeoutSeconds=600", headers=user.headers)
        self.answer = urllib.request.urlopen(request, timeout=600, context=user.context)
        self.events = []
        self.ended = None
        self.start()

    def run(self):
        for line in self.answer:
            self.events.append(json.loads(line))
        self.ended = time.monotonic()


def test_suspension_ends_watches(cloud, tenant):
    """A watch that began before does not go on behind it; its client asks again and gets 403."""
    cloud.api("POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("a"))
    other = f"other-{tenant}"
    cloud.tenant(other)
    theirs, path = Admin(cloud, other), f"/api/v1/namespaces/{tenant}/configmaps"
    admin = Admin(cloud, tenant)
    watch, unhurt, own = Watch(admin, path), Watch(theirs, f"/api/v1/namespaces/{other}/configmaps"), Watch(admin, f"{GROUP}/tenants/{tenant}")
    wait_for(lambda: watch.events and own.events, what="the first events")
    cloud.seki("tenant", "suspend", tenant)
    suspended = time.monotonic()
    watch.join(30)
    assert watch.ended and watch.ended - suspended < 1
    assert [e["type"] for e in watch.events] == ["ADDED", "ERROR"], watch.events
    status = watch.events[-1]["object"]
    assert status["kind"] == "Status" and status["code"] == 403 and status["reason"] == "Forbidden" and "rule TenantSuspended" in status["message"], status
    admin.refused("GET", path + "?watch=1")
    cloud.api("POST", f"/api/v1/namespaces/{other}/configmaps", config_map("b"))
    wait_for(lambda: unhurt.events, what="the other tenant's event")
    assert unhurt.ended is None
    wait_for(lambda: any(e["object"].get("spec", {}).get("state") == "Suspended" for e in own.events), what="the admin to see that his tenant is suspended")
    assert own.ended is None
    cloud.seki("tenant", "resume", tenant)


def test_kubectl_watches_end_with_suspension(cloud, tmp_path):
    file = tmp_path / "kubeconfig"
    cloud.seki("tenant", "create", "kw-mine", "--kubeconfig-out", str(file))
    cloud.api("POST", "/api/v1/namespaces/kw-mine/configmaps", config_map("a"))
    p = subprocess.Popen([KUBECTL, "--kubeconfig", str(file), "-n", "kw-mine", "get", "configmaps", "-w"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert p.stdout.readline().startswith("NAME") and p.stdout.readline().startswith("a ")
        cloud.seki("tenant", "suspend", "kw-mine")
        out, said = p.communicate(timeout=30)
    finally:
        p.kill()
    assert re.search("^Failure +Forbidden .*rule TenantSuspended", out, re.M), (out, said)
    p = cloud.kubectl("--kubeconfig", str(file), "-n", "kw-mine", "get", "configmaps", "-w", check=False)
    assert p.returncode == 1 and "rule TenantSuspended" in p.stderr


def test_watches_end_with_the_account_and_with_the_right(cloud, tenant):
    """Without another change that would show it: nothing happens in the project meanwhile."""
    accounts, path = f"/api/v1/namespaces/{tenant}/serviceaccounts", f"/api/v1/namespaces/{tenant}/configmaps"
    watches = {}
    for name in ("gone", "taken"):
        cloud.api("POST", accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        cloud.api("POST", f"{RBAC}/namespaces/{tenant}/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef":
                  {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": tenant}]})
        watches[name] = Watch(Admin(cloud, tenant, name), path)
    stays = Watch(Admin(cloud, tenant), path)
    cloud.api("DELETE", f"{accounts}/gone")
    watches["gone"].join(30)
    assert watches["gone"].ended and watches["gone"].events[-1]["object"]["code"] == 401
    assert watches["taken"].ended is None
    cloud.api("DELETE", f"{RBAC}/namespaces/{tenant}/rolebindings/taken")
    watches["taken"].join(30)
    assert watches["taken"].ended
    # Who is no admin any more, too.
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"admins": ["carol"]}}, content_type="application/merge-patch+json")
    carol = Admin(cloud, tenant)
    carol.headers, carol.context = {"Impersonate-User": "carol"}, None
    carol.context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    carol.context.load_cert_chain(str(cloud.data / "pki" / "admin.crt"), str(cloud.data / "pki" / "admin.key"))

    def carol_watches():
        try:
            return Watch(carol, path)
        except urllib.error.HTTPError as e:
            assert e.code == 403
            return None
    watch = wait_for(carol_watches, what="carol to be an admin")
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"admins": []}}, content_type="application/merge-patch+json")
    watch.join(30)
    assert watch.ended and stays.ended is None


def test_closing_keeps_usage_and_leaves_nothing_else(cloud, tenant, tmp_path):
    cloud.fake_endpoint(tenant, "fake", tokens=2)
    key = cloud.key(tenant)
    request = urllib.request.Request(cloud.base_url + "/chat/completions", json.dumps({"model": "fake", "messages": [{"role": "user", "content": "x"}]}).encode(),
                                     {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()
    wait_for(lambda: cloud.api("GET", f"{GROUP}/namespaces/{tenant}/usagereports")["items"], what="the usage")
    cloud.project(f"{tenant}-two", tenant=tenant)
    wait_for(lambda: len(cloud.api("GET", f"{GROUP}/tenants/{tenant}")["status"]["projects"]) == 2, what="both projects")
    out = tmp_path / "usage.json"
    for args, said in ((["--yes"], "--export"), (["--export", str(out)], "--yes")):
        p = cloud.seki("tenant", "close", tenant, *args, check=False)
        assert p.returncode == 2 and said in p.stderr
    # What a close that did not come to its end has written is the last bill: by then its projects are gone.
    out.write_text("the last bill")
    p = cloud.seki("tenant", "close", tenant, "--export", str(out), "--yes", check=False)
    assert p.returncode == 1 and "is there already" in p.stderr and out.read_text() == "the last bill"
    assert cloud.api("GET", f"{GROUP}/tenants/{tenant}")["spec"]["state"] == "Active"
    out.unlink()
    text = cloud.seki("tenant", "close", tenant, "--export", str(out), "--yes", "--ledger", str(cloud.data / "ledger")).stdout
    assert re.search(r"nothing of it is left but 1 usage reports", text)
    report, statement = json.loads(out.read_text())
    assert report["status"]["requests"] == 1
    # What was deleted, by kind and number, and where the ledger proves it.
    assert statement["kind"] == "ClosingStatement" and statement["tenant"] == tenant
    assert statement["deleted"]["namespaces"] == 2 and statement["deleted"]["apikeys.seki.cloud"] == 1 and statement["deleted"]["serviceaccounts"] == 3, statement
    proof = statement["ledger"]
    assert proof["after"] < proof["first"] < proof["last"] <= proof["end"]
    check = f"{proof['end']}:{proof['sha256']}"
    assert f"seki audit verify --record {check} {cloud.data / 'ledger'}\n" in text and re.search(r"1  apikeys.seki.cloud", text)
    ledger = str(cloud.data / "ledger")
    assert "none is changed" in cloud.seki("audit", "verify", ledger, "--record", check).stdout
    cloud.project(f"{tenant}-later", tenant=f"other-{tenant}")  # records behind it
    assert cloud.seki("audit", "verify", ledger, "--record", check).returncode == 0
    for bad, said in ((f"{proof['end'] - 1}:{proof['sha256']}", "another hash"), (f"{10 ** 9}:{proof['sha256']}", "no record 1000000000")):
        p = cloud.seki("audit", "verify", ledger, "--record", bad, check=False)
        assert p.returncode == 1 and said in p.stderr
    p = cloud.seki("audit", "verify", ledger, "--record", "12", check=False)
    assert p.returncode == 2 and "sequence and hash" in p.stderr
    for plural in ("configmaps", "secrets", "serviceaccounts"):
        assert cloud.api("GET", f"/api/v1/namespaces/{tenant}/{plural}")["items"] == []
    for ns in (tenant, f"{tenant}-two"):
        with pytest.raises(ApiError) as e:
            cloud.api("GET", f"/api/v1/namespaces/{ns}")
        assert e.value.status == 404
    assert cloud.gateway_status("/models", key) in (401, 403)
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"state": "Active"}}, content_type="application/merge-patch+json")
    assert "cannot be opened again" in e.value.body["message"]
    ledger = cloud.seki("audit", "list", str(cloud.data / "ledger"), "-o", "wide", "--tenant", tenant).stdout
    assert f"namespaces {tenant}" in ledger or f"namespaces/{tenant}" in ledger
    cloud.api("DELETE", f"{GROUP}/tenants/{tenant}")

    def gone():
        try:
            cloud.api("GET", f"{GROUP}/tenants/{tenant}")
        except ApiError as e:
            return e.status == 404
    wait_for(gone, what="the tenant to go")
    wait_for(lambda: not [r for r in cloud.api("GET", f"{RBAC}/clusterroles")["items"] if r["metadata"]["name"] == f"seki:tenant:{tenant}"], what="its role to go")


def test_a_tenant_with_projects_is_not_deleted_by_accident(cloud, tenant):
    cloud.api("DELETE", f"{GROUP}/tenants/{tenant}")
    wait_for(lambda: "ProjectsLeft" in json.dumps(cloud.api("GET", f"{GROUP}/tenants/{tenant}").get("status")), what="the condition")
    assert cloud.api("GET", f"/api/v1/namespaces/{tenant}")["status"]["phase"] == "Active"


def test_admins_follow_the_spec(cloud, tenant):
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"admins": ["carol"]}}, content_type="application/merge-patch+json")
    for path in (f"{RBAC}/namespaces/{tenant}/rolebindings/tenant-admins", f"{RBAC}/clusterrolebindings/seki:tenant:{tenant}"):
        wait_for(lambda: "carol" in json.dumps(cloud.api("GET", path)["subjects"]), what="carol to be an admin")
    cloud.api("DELETE", f"{RBAC}/namespaces/{tenant}/rolebindings/tenant-admins")
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"admins": []}}, content_type="application/merge-patch+json")
    wait_for(lambda: "carol" not in json.dumps(cloud.api("GET", f"{RBAC}/clusterrolebindings/seki:tenant:{tenant}")["subjects"]), what="carol to be none any more")


def test_seki_tenant_create_gives_credentials(cloud, tmp_path):
    file = tmp_path / "acme.kubeconfig"
    text = cloud.seki("tenant", "create", "acme", "--display-name", "Acme K.K.", "--kubeconfig-out", str(file)).stdout
    assert "tenant acme is made" in text and file.stat().st_mode & 0o777 == 0o600
    assert cloud.kubectl("--kubeconfig", str(file), "auth", "can-i", "create", "secrets").stdout.strip() == "yes"
    assert cloud.kubectl("--kubeconfig", str(file), "auth", "can-i", "get", "secrets", "-n", "kube-system", check=False).stdout.strip() == "no"
    assert re.search(r"^acme +Active +\d+ +Acme K.K.", cloud.seki("tenant", "list").stdout, re.M)
    p = cloud.seki("tenant", "create", "acme", check=False)
    assert p.returncode == 1 and "already exists" in p.stderr
    p = cloud.seki("tenant", "suspend", "nobody", check=False)
    assert p.returncode == 1 and "there is no tenant nobody" in p.stderr


def test_an_operator_sees_how_things_are_and_nothing_of_what_is_in_them(cloud, tenant):
    cloud.project("ops") if "ops" not in {n["metadata"]["name"] for n in cloud.api("GET", "/api/v1/namespaces")["items"]} else None
    cloud.api("POST", "/api/v1/namespaces/ops/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op"}})
    cloud.api("POST", f"{RBAC}/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "op"},
              "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}, "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": "ops"}]})
    token = cloud.api("POST", "/api/v1/namespaces/ops/serviceaccounts/op/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    operator = Admin.__new__(Admin)
    operator.cloud, operator.headers, operator.context = cloud, {"Authorization": f"Bearer {token}"}, ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    for path in (f"{GROUP}/tenants", f"{GROUP}/modelendpoints", f"{GROUP}/modelreplicas", f"{GROUP}/models", f"{GROUP}/usagereports", "/api/v1/namespaces", "/api/v1/events", f"{RBAC}/rolebindings"):
        operator.api("GET", path)
    for path in ("/api/v1/secrets", f"/api/v1/namespaces/{tenant}/secrets/x", "/api/v1/configmaps", f"{GROUP}/apikeys", f"{GROUP}/namespaces/{tenant}/apikeys?watch=1"):
        said = operator.refused("GET", path)
        assert (f'ask an admin of tenant "{tenant}" for an AccessGrant' if tenant in path else "ask who administers this cloud") in said
    for ns in ("kube-system", "not-there"):
        assert "ask who administers this cloud" in operator.refused("GET", f"/api/v1/namespaces/{ns}/secrets")
    said = operator.refused("POST", f"/api/v1/namespaces/{tenant}/configmaps", config_map("x"))
    assert f'ask the admins of tenant "{tenant}"' in said and "AccessGrant" not in said  # it lets nobody write
    operator.refused("POST", f"/api/v1/namespaces/{tenant}/serviceaccounts/tenant-admin/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    operator.refused("POST", f"{RBAC}/namespaces/{tenant}/rolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "me"}, "roleRef":
                     {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": "ops"}]})
    operator.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"state": "Suspended"}}, content_type="application/merge-patch+json")
    operator.api("GET", f"{GROUP}/namespaces/{tenant}/modelendpoints")  # what is suspended is still looked after
    operator.api("POST", f"{GROUP}/userrevocations?dryRun=All", {"apiVersion": "seki.cloud/v1alpha1", "kind": "UserRevocation", "metadata": {"name": "gone"}, "spec": {"username": "somebody@acme.example"}})
    operator.api("POST", f"{GROUP}/tenants", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": f"made-{tenant}"}})


# ---- what reaches beyond a tenant ----

MERGE = {"content_type": "application/merge-patch+json"}
SHAREABLE = {"modelendpoints": ("ModelEndpoint", {"engine": {"driver": "fake"}}), "modelroutes": ("ModelRoute", {"backends": [{"endpoint": "own"}]})}


def shared(plural, name, **spec):
    kind, rest = SHAREABLE[plural]
    return {"apiVersion": "seki.cloud/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": {**rest, **spec}}


@pytest.mark.parametrize("plural", list(SHAREABLE))
def test_only_an_operator_shares_a_model_beyond_its_tenant(cloud, tenant, plural):
    """Else a tenant takes a name such as gpt-4o for all others, reads what they ask and says what it costs."""
    other, path = f"other-{tenant}", f"{GROUP}/namespaces/{tenant}/{plural}"
    cloud.tenant(other)
    admin = Admin(cloud, tenant)
    admin.api("POST", path, shared(plural, "own"))
    for spec, names in (({"visibility": "Everyone"}, "Everyone"), ({"visibility": "Tenants", "tenants": [tenant, other]}, other), ({"visibility": "Tenants", "tenants": ["not-there"]}, "not-there")):
        ways = [("POST", path, shared(plural, "gpt", servedName="gpt-4o", **spec), {}), ("POST", path + "?dryRun=All", shared(plural, "gpt", **spec), {}),
                ("PATCH", f"{path}/own", {"spec": spec}, MERGE), ("PUT", f"{path}/own", shared(plural, "own", **spec), {}),
                ("PATCH", f"{path}/applied?fieldManager=x", shared(plural, "applied", **spec), {"content_type": "application/apply-patch+yaml"})]
        for method, where, body, more in ways:
            said = admin.refused(method, where, body, **more)
            assert "spec.visibility" in said and f'"{names}"' in said and "operator" in said, said
    assert {o["metadata"]["name"] for o in admin.api("GET", path)["items"]} == {"own"}
    # Within the tenant it is the tenant's to say.
    admin.api("PATCH", f"{path}/own", {"spec": {"visibility": "Tenants", "tenants": [tenant]}}, **MERGE)
    admin.api("PATCH", f"{path}/own", {"spec": {"servedName": "ours"}}, **MERGE)
    # Who runs the cloud shares it where he may write it at all.
    cloud.project(f"ops-{tenant}")
    cloud.api("POST", f"/api/v1/namespaces/ops-{tenant}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op"}})
    for where, kind, role in ((f"{RBAC}/clusterrolebindings", "ClusterRoleBinding", "operator"), (f"{RBAC}/namespaces/{tenant}/rolebindings", "RoleBinding", "edit")):
        cloud.api("POST", where, {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": f"op-{plural}-{tenant}"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": [{"kind": "ServiceAccount", "name": "op", "namespace": f"ops-{tenant}"}]})
    operator = Admin(cloud, f"ops-{tenant}", "op")
    for spec in ({"visibility": "Tenants", "tenants": [other]}, {"visibility": "Everyone", "tenants": None}):
        operator.api("PATCH", f"{path}/own", {"spec": spec}, **MERGE)


@pytest.mark.parametrize("plural", list(SHAREABLE))
def test_what_an_operator_shared_stays_the_tenants_to_run_and_to_take_back(cloud, tenant, plural):
    other, path = f"other-{tenant}", f"{GROUP}/namespaces/{tenant}/{plural}"
    cloud.tenant(other)
    admin, change = Admin(cloud, tenant), {"modelendpoints": {"startTimeoutSeconds": 60}, "modelroutes": {"sticky": True}}[plural]
    cloud.api("POST", path, shared(plural, "offer", visibility="Everyone", servedName="offer-1"))
    admin.api("PATCH", f"{path}/offer", {"metadata": {"labels": {"a": "b"}}, "spec": change}, **MERGE)
    if plural == "modelendpoints":
        admin.api("PATCH", f"{path}/offer/scale", {"spec": {"replicas": 2}}, **MERGE)

    def renamed(refused_in, **spec):
        """A name is what was shared: another one is as good as new."""
        said = admin.refused("PATCH", f"{path}/offer", {"spec": spec}, **MERGE)
        assert refused_in in said and "spec.visibility" in said and "operator" in said, said
    renamed("spec.servedName", servedName="gpt-4o")
    renamed("spec.servedName", servedName=None)
    if plural == "modelendpoints":
        renamed("spec.adapters", model="m", engine={"driver": "llamacpp"}, adapters=[{"name": "gpt-4o", "model": "m"}])
    admin.api("PATCH", f"{path}/offer", {"spec": {"visibility": "Tenants", "tenants": [other, tenant]}}, **MERGE)  # narrower
    renamed("spec.servedName", servedName="gpt-4o")
    assert "spec.visibility" in admin.refused("PATCH", f"{path}/offer", {"spec": {"visibility": "Everyone", "tenants": None}}, **MERGE)
    assert "spec.visibility" in admin.refused("PATCH", f"{path}/offer", {"spec": {"tenants": [other, "third"]}}, **MERGE)
    admin.api("PATCH", f"{path}/offer", {"spec": {"visibility": "Project", "tenants": None}}, **MERGE)
    admin.api("PATCH", f"{path}/offer", {"spec": {"servedName": "gpt-4o"}}, **MERGE)
    assert "spec.visibility" in admin.refused("PATCH", f"{path}/offer", {"spec": {"visibility": "Tenants", "tenants": [other]}}, **MERGE)


class User(Admin):
    """Somebody of the operator's, by a static token."""

    def __init__(self, cloud, token):
        self.cloud, self.headers, self.context = cloud, {"Authorization": f"Bearer {token}"}, ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))


def soon(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def grant(user, purpose="incident 4711: the key does not unlock", seconds=3600):
    return {"apiVersion": "seki.cloud/v1alpha1", "kind": "AccessGrant", "metadata": {"generateName": "g-"}, "spec": {"user": user, "purpose": purpose, "expiresAt": soon(seconds)}}


def test_a_tenant_opens_what_it_holds_to_an_operator_for_a_time(own_cloud, tmp_path):
    import hashlib
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{hashlib.sha256(b'of-olga').hexdigest()} olga night-shift\n")
    cloud = own_cloud(options={"api-token-file": tokens})
    cloud.tenant("acme")
    cloud.api("POST", f"{RBAC}/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "night-shift"}, "roleRef":
              {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "night-shift"}]})
    admin, olga = Admin(cloud, "acme"), User(cloud, "of-olga")
    admin.api("POST", "/api/v1/namespaces/acme/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}})
    secret, grants = "/api/v1/namespaces/acme/secrets/s", f"{GROUP}/namespaces/acme/accessgrants"
    olga.refused("GET", secret)
    # Who gives it:
    olga.refused("POST", grants, grant("olga"))
    with pytest.raises(ApiError) as e:
        cloud.api("POST", grants, grant("olga"))
    assert e.value.status == 403 and "given by an admin of the tenant" in e.value.body["message"]
    assert "himself" in admin.refused("POST", grants, grant("system:serviceaccount:acme:tenant-admin"))
    for bad, field in ((grant("olga", seconds=-5), "spec.expiresAt"), (grant("olga", seconds=40 * 86400), "spec.expiresAt"), (grant("olga", purpose="x"), "spec.purpose")):
        with pytest.raises(ApiError) as e:
            admin.api("POST", grants, bad)
        assert e.value.status == 422 and e.value.body["details"]["causes"][0]["field"] == field
    made = admin.api("POST", grants, grant("olga"))
    assert made["status"]["approvedBy"] == "system:serviceaccount:acme:tenant-admin"

    def reads():
        try:
            return olga.api("GET", secret)["data"]
        except ApiError as e:
            assert e.status == 403
    wait_for(reads, what="the grant to open")
    olga.refused("DELETE", secret)
    olga.refused("GET", "/api/v1/namespaces/kube-system/secrets")
    admin.api("DELETE", f"{grants}/{made['metadata']['name']}")
    wait_for(lambda: not reads(), what="the revoked grant to close")
    admin.api("POST", grants, grant("olga", seconds=4))
    wait_for(reads, what="the second grant to open")
    wait_for(lambda: not reads(), what="it to expire")
    wait_for(lambda: "Expired" in json.dumps(admin.api("GET", grants)), what="its condition")
    # The tenant's audit view has it all: the grant, its purpose's object, and each read.
    rows = [json.loads(x) for x in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--format", "json", "--tenant", "acme").stdout.splitlines()]
    assert [r for r in rows if r.get("resource") == "accessgrants" and r.get("verb") == "create" and r["user"] == "system:serviceaccount:acme:tenant-admin"]
    assert [r for r in rows if r["type"] == "read" and r["user"] == "olga" and r["name"] == "s" and r["rule"].endswith("ClusterRole/seki:content-reader")]


def test_a_grant_that_ended_while_nothing_ran_does_not_open_again(own_cloud, tmp_path):
    """Nor while its controller is not there yet: what it gave says itself when it ends."""
    import hashlib
    import signal
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{hashlib.sha256(b'of-olga').hexdigest()} olga night-shift\n")
    cloud = own_cloud(options={"api-token-file": tokens})
    cloud.tenant("acme")
    admin, olga, secret = Admin(cloud, "acme"), User(cloud, "of-olga"), "/api/v1/namespaces/acme/secrets/s"
    admin.api("POST", "/api/v1/namespaces/acme/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}})
    ends = time.time() + 6
    admin.api("POST", f"{GROUP}/namespaces/acme/accessgrants", grant("olga", seconds=6))

    def status():
        try:
            return 200 if olga.api("GET", secret) else None
        except ApiError as e:
            return e.status
        except OSError:
            return None
    wait_for(lambda: status() == 200, what="the grant to open")
    os.killpg(cloud.process.pid, signal.SIGKILL)  # with its children: a machine that is gone
    cloud.process.wait()
    wait_for(lambda: time.time() > ends, what="the grant to be over")
    cloud.start(wait=False)
    assert wait_for(status, what="an answer") == 403
    assert status() == 403


def test_a_close_that_was_cut_is_told_whole_by_the_next(cloud, tmp_path):
    """The statement of the second try has what the first one deleted, too."""
    cloud.tenant("cut")
    for i in range(3):
        cloud.api("POST", "/api/v1/namespaces/cut/configmaps", config_map(f"c{i}"))
    ledger = str(cloud.data / "ledger")
    first = subprocess.Popen([str(SEKI), "tenant", "close", "cut", "--export", str(tmp_path / "first.json"), "--yes", "--ledger", ledger], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "KUBECONFIG": cloud.kubeconfig})
    wait_for(lambda: cloud.api("GET", f"{GROUP}/tenants/cut")["spec"].get("state") == "Closing", what="the close to begin")
    first.kill()
    first.communicate(timeout=60)
    wait_for(lambda: "True" in [c["status"] for c in cloud.api("GET", f"{GROUP}/tenants/cut")["status"]["conditions"] if c["type"] == "Closed"], what="it to be empty")
    cloud.seki("tenant", "close", "cut", "--export", str(tmp_path / "second.json"), "--yes", "--ledger", ledger)
    statement = json.loads((tmp_path / "second.json").read_text())[-1]
    assert statement["kind"] == "ClosingStatement" and statement["deleted"]["configmaps"] == 3 and statement["deleted"]["namespaces"] == 1, statement


def test_an_operator_makes_nobody_an_admin_of_a_tenant_that_is_there(own_cloud, tmp_path):
    """Who may write Tenants could otherwise write himself into one, and read all that is in it."""
    import hashlib
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{hashlib.sha256(b'of-olga').hexdigest()} olga night-shift\n")
    cloud = own_cloud(options={"api-token-file": tokens})
    cloud.tenant("acme", admins=["ann"])
    cloud.api("POST", f"{RBAC}/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "night-shift"}, "roleRef":
              {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}, "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "night-shift"}]})
    olga, path = User(cloud, "of-olga"), f"{GROUP}/tenants/acme"
    for admins in (["olga"], ["ann", "otto"]):
        for query in ("", "?dryRun=All"):
            with pytest.raises(ApiError) as e:
                olga.api("PATCH", path + query, {"spec": {"admins": admins}}, content_type="application/merge-patch+json")
            assert e.value.status == 403 and "or somebody with cluster-admin" in e.value.body["message"], e.value
    whole = olga.api("GET", path)
    whole["spec"]["admins"] = ["ann", "olga"]
    assert '"olga" an admin of tenant "acme"' in olga.refused("PUT", path, whole)
    with pytest.raises(ApiError) as e:
        olga.api("PATCH", f"{path}?fieldManager=o&force=true", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"}, "spec": {"admins": ["olga"]}}, content_type="application/apply-patch+yaml")
    assert e.value.status == 403
    # A new one gets its first admins from whoever makes it, but not himself.
    assert "himself" in olga.refused("POST", f"{GROUP}/tenants", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": "mine"}, "spec": {"admins": ["olga"]}})
    olga.api("POST", f"{GROUP}/tenants", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": "theirs"}, "spec": {"admins": ["bob"]}})
    # All else of a Tenant he writes, and takes admins away; who may bind the role adds them.
    olga.api("PATCH", path, {"spec": {"displayName": "Acme K.K.", "admins": ["ann"]}}, content_type="application/merge-patch+json")
    olga.api("PATCH", path, {"spec": {"admins": []}}, content_type="application/merge-patch+json")
    cloud.api("PATCH", path, {"spec": {"admins": ["carol"]}}, content_type="application/merge-patch+json")
    assert cloud.api("GET", path)["spec"]["admins"] == ["carol"]


@pytest.mark.parametrize("state", ["Suspended", "Closing"])
def test_nobody_makes_projects_of_a_tenant_that_is_not_active(cloud, tenant, state):
    admin = {"Impersonate-User": "ann", "Impersonate-Group": f"seki:tenant:{tenant}:admins"}  # as an issuer says it: the tenant's own account goes with its project
    project = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{tenant}-late", "labels": {"seki.cloud/tenant": tenant}}}
    cloud.api("POST", "/api/v1/namespaces?dryRun=All", project, headers=admin)
    cloud.api("PATCH", f"{GROUP}/tenants/{tenant}", {"spec": {"state": state}}, content_type="application/merge-patch+json")
    for query in ("", "?dryRun=All"):
        with pytest.raises(ApiError) as e:
            cloud.api("POST", "/api/v1/namespaces" + query, project, headers=admin)
        assert e.value.status == 403 and f"rule Tenant{state}" in e.value.body["message"] and "ask the operator" in e.value.body["message"], e.value
    if state == "Closing":  # what is closed stays so, whoever asks
        with pytest.raises(ApiError) as e:
            cloud.api("POST", "/api/v1/namespaces", project)
        assert e.value.status == 403 and "rule TenantClosing" in e.value.body["message"]
    else:
        cloud.api("POST", "/api/v1/namespaces", project)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_nothing_of_a_closed_tenant_stays_on_the_disk(own_cloud, tmp_path):
    """When history has passed, twice `store.retain`: neither its objects nor the keys of its secrets, in the database or its log. Of backups from before the secrets remain sealed with keys that are in them."""
    cloud = own_cloud()
    for name in ("acme", "other"):
        cloud.tenant(name)
        cloud.api("POST", f"/api/v1/namespaces/{name}/configmaps", {**config_map(f"name-canary-of-{name}"), "data": {"text": f"text-canary-of-{name}"}})
        cloud.api("POST", f"/api/v1/namespaces/{name}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"x": f"secret-canary-of-{name}"}})

    def on_disk(*texts):
        blob = b"".join(p.read_bytes() for p in cloud.data.glob("seki.db*"))
        return [t for t in texts if t.encode() in blob]
    mine = ("name-canary-of-acme", "text-canary-of-acme", "secret-canary-of-acme", "seki:keys/acme/")
    assert on_disk(*mine) == [mine[0], mine[1], mine[3]]
    cloud.seki("tenant", "close", "acme", "--export", str(tmp_path / "usage.json"), "--yes", "--ledger", str(cloud.data / "ledger"))
    wait_for(lambda: not on_disk(*mine), 240, "the disk to forget")
    assert on_disk("name-canary-of-other", "text-canary-of-other", "seki:keys/other/") == ["name-canary-of-other", "text-canary-of-other", "seki:keys/other/"]
    assert cloud.api("GET", "/api/v1/namespaces/other/secrets/s")["data"]
    assert {k["tenant"] for k in json.loads(cloud.seki("secrets", "status", "-o", "json").stdout)} == {"other"}
    # The ledgers have names and numbers.
    text = b"".join(p.read_bytes() for p in (cloud.data / "ledger").iterdir() if p.is_file())
    assert b"name-canary-of-acme" in text and b"text-canary-of-acme" not in text and b"secret-canary-of-acme" not in text
