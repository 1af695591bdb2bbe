"""Kubernetes' own conformance suite, where it can hold for a server without pods and nodes.

Each test bears the name of the conformance test that it follows, and checks what that one's description says, on kinds that are served here: a ConfigMap where
the original takes a Pod or a PodTemplate, a ModelEndpoint where it takes a custom resource. docs/use/conformance.md lists them, and those that do not apply.
"""
import base64
import json
import random
import re
import subprocess
import threading
import urllib.parse

import pytest

from cloud import GROUP, KUBECTL, ApiError, wait_for
from raw import call, connection_to, get

MERGE, STRATEGIC, JSON_PATCH = "application/merge-patch+json", "application/strategic-merge-patch+json", "application/json-patch+json"
CORE, LEASES, EVENTS, RBAC = "/api/v1", "/apis/coordination.k8s.io/v1", "/apis/events.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1"
AUTHZ = "/apis/authorization.k8s.io/v1"
NOW = "2026-01-02T03:04:05.000000Z"


def quoted(**query):
    return "?" + urllib.parse.urlencode(query)


def maps(ns, name=None):
    return f"{CORE}/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def named(kind, name, version="v1", labels=None, owners=None, **members):
    meta = {"name": name, **({"labels": labels} if labels else {}), **({"ownerReferences": owners} if owners else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **members}


def make_map(cloud, ns, name, data=None, **more):
    return cloud.api("POST", maps(ns), named("ConfigMap", name, data=data or {"k": "v"}, **more))


def patch(cloud, path, change, how=MERGE):
    return cloud.api("PATCH", path, change, content_type=how)


def names(listed):
    return [o["metadata"]["name"] for o in listed["items"]]


def refused(code, act, *args, **kwargs):
    with pytest.raises(ApiError) as e:
        act(*args, **kwargs)
    assert e.value.status == code, e.value
    return e.value.body


def is_gone(cloud, path):
    try:
        cloud.api("GET", path)
    except ApiError as e:
        return e.status == 404
    return False


class Watch:
    """A watch of its own connection; its events are read one by one."""

    def __init__(self, cloud, path, **query):
        self.connection = connection_to(cloud, 60)
        self.connection.request("GET", path + quoted(watch="1", **query))
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, self.answer.read()

    def next(self):
        line = self.answer.readline()
        if not line:
            return None
        event = json.loads(line)
        return event["type"], event["object"]

    def expect(self, *wanted):
        """Exactly these come next, as (type, name)."""
        seen = [self.next() for _ in wanted]
        assert [(t, o["metadata"]["name"]) for t, o in seen] == list(wanted), seen
        return seen[-1][1]

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ---- watchers ----

def test_watchers_observe_add_update_delete(cloud, project):
    """watch-configmaps-with-multiple-watchers"""
    selectors = {"a": "watch=a", "b": "watch=b", "either": "watch in (a,b)"}
    watches = {k: Watch(cloud, maps(project), labelSelector=s, resourceVersion="0") for k, s in selectors.items()}
    make_map(cloud, project, "nobody", labels={"watch": "c"})
    make_map(cloud, project, "a", labels={"watch": "a"})
    for i in (1, 2):
        patch(cloud, maps(project, "a"), {"data": {"mutation": str(i)}})
    cloud.api("DELETE", maps(project, "a"))
    make_map(cloud, project, "b", labels={"watch": "b"})
    cloud.api("DELETE", maps(project, "b"))
    a = [("ADDED", "a"), ("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    b = [("ADDED", "b"), ("DELETED", "b")]
    for name, expected in (("a", a), ("b", b), ("either", a + b)):
        watches[name].expect(*expected)
        watches[name].close()


def test_a_watch_starts_from_a_version(cloud, project):
    """watch-configmaps-from-resource-version"""
    make_map(cloud, project, "m")
    first = patch(cloud, maps(project, "m"), {"data": {"mutation": "1"}})
    patch(cloud, maps(project, "m"), {"data": {"mutation": "2"}})
    cloud.api("DELETE", maps(project, "m"))
    with Watch(cloud, maps(project), resourceVersion=first["metadata"]["resourceVersion"]) as w:
        kind, obj = w.next()
        assert kind == "MODIFIED" and obj["data"]["mutation"] == "2"
        assert w.expect(("DELETED", "m"))["data"]["mutation"] == "2"


def test_a_closed_watch_goes_on(cloud, project):
    """watch-configmaps-closed-and-restarted"""
    with Watch(cloud, maps(project), resourceVersion="0") as w:
        make_map(cloud, project, "m")
        patch(cloud, maps(project, "m"), {"data": {"mutation": "1"}})
        last = w.expect(("ADDED", "m"), ("MODIFIED", "m"))["metadata"]["resourceVersion"]
    patch(cloud, maps(project, "m"), {"data": {"mutation": "2"}})
    cloud.api("DELETE", maps(project, "m"))
    with Watch(cloud, maps(project), resourceVersion=last) as w:
        w.expect(("MODIFIED", "m"), ("DELETED", "m"))


def test_an_object_stops_matching(cloud, project):
    """watch-configmaps-label-changed"""
    with Watch(cloud, maps(project), labelSelector="seen=yes", resourceVersion="0") as w:
        make_map(cloud, project, "m", labels={"seen": "yes"})
        patch(cloud, maps(project, "m"), {"data": {"mutation": "1"}})
        patch(cloud, maps(project, "m"), {"metadata": {"labels": {"seen": "no"}}})
        w.expect(("ADDED", "m"), ("MODIFIED", "m"), ("DELETED", "m"))
        patch(cloud, maps(project, "m"), {"data": {"mutation": "2"}})  # nobody hears of it
        patch(cloud, maps(project, "m"), {"metadata": {"labels": {"seen": "yes"}}})
        patch(cloud, maps(project, "m"), {"data": {"mutation": "3"}})
        cloud.api("DELETE", maps(project, "m"))
        kind, obj = w.next()
        assert kind == "ADDED" and obj["data"]["mutation"] == "2"
        assert w.expect(("MODIFIED", "m"), ("DELETED", "m"))["data"]["mutation"] == "3"


def test_concurrent_watches_agree(cloud, project):
    """watch-consistency"""
    writes = 60

    def write():
        alive, rnd = [], random.Random(7)
        for i in range(writes):
            if not alive or rnd.random() < 0.4:
                make_map(cloud, project, f"m{i}")
                alive.append(f"m{i}")
            elif rnd.random() < 0.6:
                patch(cloud, maps(project, rnd.choice(alive)), {"data": {"i": str(i)}})
            else:
                cloud.api("DELETE", maps(project, alive.pop(rnd.randrange(len(alive)))))
    start = cloud.api("GET", maps(project))["metadata"]["resourceVersion"]
    writer = threading.Thread(target=write)
    watches, seen = [Watch(cloud, maps(project), resourceVersion=start)], []
    writer.start()
    try:
        for i in range(writes):
            versions = [w.next()[1]["metadata"]["resourceVersion"] for w in watches]
            assert len(set(versions)) == 1, versions
            seen.append(int(versions[0]))
            if i % 3 == 0:
                watches.append(Watch(cloud, maps(project), resourceVersion=versions[0]))
    finally:
        writer.join()
        for w in watches:
            w.close()
    assert seen == sorted(set(seen))


# ---- ConfigMaps and Secrets ----

def test_config_map_lifecycle(cloud, project):
    """ConfigMap lifecycle"""
    label = {"configmap-lifecycle": project}
    with Watch(cloud, maps(project), labelSelector=f"configmap-lifecycle={project}", resourceVersion="0") as w:
        make_map(cloud, project, "m", data={"value": "1"}, labels=label)
        w.expect(("ADDED", "m"))
        patch(cloud, maps(project, "m"), {"metadata": {"labels": {"patched": "yes"}}, "data": {"value": "2"}}, STRATEGIC)
        obj = w.expect(("MODIFIED", "m"))
        assert obj["metadata"]["labels"] == {**label, "patched": "yes"} and obj["data"] == {"value": "2"}
        got = cloud.api("GET", maps(project, "m"))
        assert got["data"] == {"value": "2"}
        everywhere = cloud.api("GET", f"{CORE}/configmaps{quoted(labelSelector=f'configmap-lifecycle={project}')}")
        assert [(o["metadata"]["namespace"], o["metadata"]["name"]) for o in everywhere["items"]] == [(project, "m")]
        cloud.api("DELETE", maps(project) + quoted(labelSelector=f"configmap-lifecycle={project}"))
        w.expect(("DELETED", "m"))
    assert cloud.api("GET", maps(project) + quoted(labelSelector=f"configmap-lifecycle={project}"))["items"] == []


@pytest.mark.parametrize("kind, plural, value", [("ConfigMap", "configmaps", "v"), ("Secret", "secrets", "dg==")])
def test_immutable_values(cloud, project, kind, plural, value):
    """ConfigMap Volume, immutability; Secrets Volume, immutability"""
    path = f"{CORE}/namespaces/{project}/{plural}"
    obj = cloud.api("POST", path, named(kind, "m", data={"a": value}))
    obj["data"]["b"] = value
    obj = cloud.api("PUT", f"{path}/m", obj)
    obj = cloud.api("PUT", f"{path}/m", {**obj, "immutable": True})
    for change in ({"data": {**obj["data"], "c": value}}, {"immutable": False}, {"immutable": None}):
        body = refused(422, cloud.api, "PUT", f"{path}/m", {**obj, **change})
        assert "field is immutable when `immutable` is set" in body["message"]
    obj = cloud.api("PUT", f"{path}/m", {**obj, "metadata": {**obj["metadata"], "labels": {"still": "mine"}}})
    assert obj["metadata"]["labels"] == {"still": "mine"} and set(obj["data"]) == {"a", "b"}
    cloud.api("DELETE", f"{path}/m")
    assert is_gone(cloud, f"{path}/m")


def test_binary_data(cloud, project):
    """ConfigMap Volume, text data, binary data"""
    binary = base64.b64encode(bytes(range(256))).decode()
    cloud.api("POST", maps(project), named("ConfigMap", "m", data={"data-1": "value-1"}, binaryData={"dump.bin": binary}))
    got = cloud.api("GET", maps(project, "m"))
    assert got["data"] == {"data-1": "value-1"} and got["binaryData"] == {"dump.bin": binary}
    refused(422, cloud.api, "POST", maps(project), named("ConfigMap", "bad", binaryData={"dump.bin": "no base64"}))


@pytest.mark.parametrize("kind, plural, value", [("ConfigMap", "configmaps", "v"), ("Secret", "secrets", "dg==")])
def test_empty_keys_are_refused(cloud, project, kind, plural, value):
    """ConfigMap, with empty-key; Secrets, with empty-key"""
    path = f"{CORE}/namespaces/{project}/{plural}"
    body = refused(422, cloud.api, "POST", path, named(kind, "m", data={"": value}))
    assert body["reason"] == "Invalid" and body["details"]["causes"][0]["field"].startswith("data")
    refused(422, cloud.api, "POST", path, named(kind, "m", data={"a key": value}))
    assert is_gone(cloud, f"{path}/m")


def test_secret_patching(cloud, project):
    """Secret patching"""
    path = f"{CORE}/namespaces/{project}/secrets"
    everywhere = f"{CORE}/secrets{quoted(labelSelector=f'testsecret={project}')}"
    assert cloud.api("GET", everywhere)["items"] == []
    cloud.api("POST", path, named("Secret", "s", data={"key": "dmFsdWU="}, type="Opaque", labels={"testsecret-constant": "true"}))
    patch(cloud, f"{path}/s", {"metadata": {"labels": {"testsecret": project}}, "data": {"key": "dmFsdWUx"}}, STRATEGIC)
    found = cloud.api("GET", everywhere)["items"]
    assert len(found) == 1 and found[0]["data"] == {"key": "dmFsdWUx"}
    cloud.api("DELETE", path + quoted(labelSelector=f"testsecret={project}"))
    assert cloud.api("GET", everywhere)["items"] == []


# ---- namespaces ----

def space(cloud, name, **meta):
    return cloud.api("POST", f"{CORE}/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, **meta}})


def test_namespace_patch(cloud, project):
    """Namespace patching"""
    patch(cloud, f"{CORE}/namespaces/{project}", {"metadata": {"labels": {"testLabel": "testValue"}}}, STRATEGIC)
    assert cloud.api("GET", f"{CORE}/namespaces/{project}")["metadata"]["labels"]["testLabel"] == "testValue"


def test_namespace_update(cloud, project):
    """Namespace, apply update to a namespace"""
    path = f"{CORE}/namespaces/{project}"
    obj = cloud.api("GET", path)
    obj["metadata"].setdefault("labels", {})[project] = "updated"
    assert cloud.api("PUT", path, obj)["metadata"]["labels"][project] == "updated"
    assert cloud.api("GET", path)["metadata"]["labels"]["kubernetes.io/metadata.name"] == project


def test_namespace_status(cloud, project):
    """Namespace, apply changes to a namespace status"""
    path = f"{CORE}/namespaces/{project}/status"
    assert cloud.api("GET", path)["status"]["phase"] == "Active"
    condition = {"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test"}
    patched = patch(cloud, path, {"metadata": {"annotations": {"e2e-patched-ns-status": project}}, "status": {"conditions": [condition]}})
    assert patched["metadata"]["annotations"]["e2e-patched-ns-status"] == project
    assert [c for c in patched["status"]["conditions"] if c["type"] == "StatusPatch"][0]["reason"] == "E2E"
    patched["status"]["conditions"].append({**condition, "type": "StatusUpdate"})
    updated = cloud.api("PUT", path, patched)
    assert {c["type"] for c in updated["status"]["conditions"]} == {"StatusPatch", "StatusUpdate"} and updated["status"]["phase"] == "Active"


def test_namespace_finalizer(cloud):
    """Namespace, apply finalizer to a namespace: by metadata.finalizers, as for all other objects; there is no /finalize for spec.finalizers"""
    obj = cloud.api("POST", f"{CORE}/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "e2e-ns-"}})
    name, fake = obj["metadata"]["name"], "e2e.example.com/fakeFinalizer"
    path = f"{CORE}/namespaces/{name}"
    assert re.fullmatch("e2e-ns-[a-z0-9]{5}", name)
    obj["metadata"]["finalizers"].append(fake)
    assert fake in cloud.api("PUT", path, obj)["metadata"]["finalizers"]
    cloud.api("DELETE", path)
    wait_for(lambda: cloud.api("GET", path)["metadata"]["finalizers"] == [fake], what="the server to have emptied it")
    assert cloud.api("GET", path)["status"]["phase"] == "Terminating"
    refused(403, make_map, cloud, name, "late")
    patch(cloud, path, {"metadata": {"finalizers": None}})
    wait_for(lambda: is_gone(cloud, path), what="the namespace to go")


def test_namespace_deletion_removes_what_is_inside(cloud):
    """namespace-deletion-removes-pods; namespace-deletion-removes-services"""
    space(cloud, "emptied")
    make_map(cloud, "emptied", "m")
    cloud.api("POST", f"{CORE}/namespaces/emptied/secrets", named("Secret", "s"))
    cloud.create("models", "emptied", "x", {"source": "file:///nowhere", "format": "GGUF", "license": {"id": "test"}, "files": [{"name": "a.gguf", "digest": "sha256:" + "0" * 64, "sizeBytes": 1}]})
    cloud.api("DELETE", f"{CORE}/namespaces/emptied")
    wait_for(lambda: is_gone(cloud, f"{CORE}/namespaces/emptied"), what="the namespace to go")
    space(cloud, "emptied")
    for path in (f"{CORE}/namespaces/emptied/configmaps", f"{CORE}/namespaces/emptied/secrets", f"{GROUP}/namespaces/emptied/models"):
        assert cloud.api("GET", path)["items"] == []


# ---- leases, events, service accounts, roles ----

def test_lease_api(cloud, project):
    """lease API should be available"""
    path = f"{LEASES}/namespaces/{project}/leases"
    spec = {"holderIdentity": "holder", "leaseDurationSeconds": 30, "acquireTime": NOW, "renewTime": NOW, "leaseTransitions": 0}
    cloud.api("POST", path, named("Lease", "one", "coordination.k8s.io/v1", spec=spec))
    got = cloud.api("GET", f"{path}/one")
    assert got["spec"] == spec
    got["spec"] = {"holderIdentity": "holder2", "leaseDurationSeconds": 10, "acquireTime": "2026-01-02T03:04:15.000000Z", "renewTime": "2026-01-02T03:04:15.000000Z", "leaseTransitions": 1}
    cloud.api("PUT", f"{path}/one", got)
    assert cloud.api("GET", f"{path}/one")["spec"] == got["spec"]
    patch(cloud, f"{path}/one", {"spec": {"holderIdentity": "holder3", "leaseDurationSeconds": 60, "leaseTransitions": 2}}, STRATEGIC)
    assert cloud.api("GET", f"{path}/one")["spec"] == {**got["spec"], "holderIdentity": "holder3", "leaseDurationSeconds": 60, "leaseTransitions": 2}
    cloud.api("POST", path, named("Lease", "two", "coordination.k8s.io/v1", labels={"deletecollection": "true"}, spec=spec))
    assert names(cloud.api("GET", path)) == ["one", "two"]
    cloud.api("DELETE", path + quoted(labelSelector="deletecollection=true"))
    assert names(cloud.api("GET", path)) == ["one"]
    cloud.api("DELETE", f"{path}/one")
    refused(404, cloud.api, "GET", f"{path}/one")


def core_event(ns, name, **more):
    return named("Event", name, involvedObject={"namespace": ns}, message="This is a test event", reason="Test", type="Normal", source={"component": "test"},
                 firstTimestamp="2026-01-02T03:04:05Z", lastTimestamp="2026-01-02T03:04:05Z", count=1, **more)


def new_event(ns, name, **more):
    return named("Event", name, "events.k8s.io/v1", regarding={"namespace": ns}, note="This is a test event", reason="Test", type="Normal", action="Do",
                 eventTime=NOW, reportingController="test-controller", reportingInstance="test-node", **more)


def test_event_lifecycle(cloud, project):
    """Event, manage lifecycle of an Event"""
    path, chosen = f"{CORE}/namespaces/{project}/events", quoted(labelSelector=f"testevent-constant={project}")
    cloud.api("POST", path, core_event(project, "e", labels={"testevent-constant": project}))
    found = cloud.api("GET", f"{CORE}/events{chosen}")
    assert names(found) == ["e"] and found["items"][0]["message"] == "This is a test event"
    patch(cloud, f"{path}/e", {"message": "This is a test event - patched"}, STRATEGIC)
    got = cloud.api("GET", f"{path}/e")
    assert got["message"].endswith("patched")
    cloud.api("PUT", f"{path}/e", {**got, "series": {"count": 100, "lastObservedTime": "2026-01-02T03:09:05.000000Z"}})
    assert cloud.api("GET", f"{path}/e")["series"]["count"] == 100
    cloud.api("DELETE", f"{path}/e")
    assert cloud.api("GET", f"{CORE}/events{chosen}")["items"] == []


def test_new_event_lifecycle(cloud, project):
    """New Event resource lifecycle, testing a single event"""
    path, chosen = f"{EVENTS}/namespaces/{project}/events", quoted(labelSelector=f"testevent-constant={project}")
    cloud.api("POST", path, new_event(project, "e", labels={"testevent-constant": project}))
    assert names(cloud.api("GET", f"{EVENTS}/events{chosen}")) == ["e"] == names(cloud.api("GET", f"{path}{chosen}"))
    series = {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}
    patch(cloud, f"{path}/e", {"series": series})
    got = cloud.api("GET", f"{path}/e")
    assert got["series"] == series
    cloud.api("PUT", f"{path}/e", {**got, "series": {**series, "count": 100}})
    assert cloud.api("GET", f"{path}/e")["series"]["count"] == 100
    assert names(cloud.api("GET", path + quoted(fieldSelector="reportingController=test-controller"))) == ["e"]
    assert cloud.api("GET", path + quoted(fieldSelector="reportingController=other"))["items"] == []
    cloud.api("DELETE", f"{path}/e")
    assert cloud.api("GET", f"{EVENTS}/events{chosen}")["items"] == []


@pytest.mark.parametrize("base, event", [(CORE, core_event), (EVENTS, new_event)])
def test_event_collections(cloud, project, base, event):
    """Event, delete a collection; New Event resource lifecycle, testing a list of events"""
    path, chosen = f"{base}/namespaces/{project}/events", quoted(labelSelector="testevent-set=true")
    for i in range(3):
        cloud.api("POST", path, event(project, f"e{i}", labels={"testevent-set": "true"}))
    cloud.api("POST", path, event(project, "other"))
    assert names(cloud.api("GET", path + chosen)) == ["e0", "e1", "e2"]
    cloud.api("DELETE", path + chosen)
    assert names(cloud.api("GET", path)) == ["other"]


def test_service_account_lifecycle(cloud, project):
    """ServiceAccount lifecycle test; ServiceAccount, update a ServiceAccount"""
    path = f"{CORE}/namespaces/{project}/serviceaccounts"
    with Watch(cloud, path, labelSelector="test-serviceaccount-static=true", resourceVersion="0") as w:
        cloud.api("POST", path, named("ServiceAccount", "sa", labels={"test-serviceaccount-static": "true"}))
        w.expect(("ADDED", "sa"))
        patch(cloud, f"{path}/sa", {"automountServiceAccountToken": False}, STRATEGIC)
        assert w.expect(("MODIFIED", "sa"))["automountServiceAccountToken"] is False
        found = cloud.api("GET", f"{CORE}/serviceaccounts" + quoted(labelSelector="test-serviceaccount-static=true", fieldSelector=f"metadata.namespace={project}"))
        assert [o["automountServiceAccountToken"] for o in found["items"]] == [False]
        updated = cloud.api("PUT", f"{path}/sa", {**found["items"][0], "automountServiceAccountToken": True})
        assert updated["automountServiceAccountToken"] is True and w.expect(("MODIFIED", "sa"))
        cloud.api("DELETE", path + quoted(labelSelector="test-serviceaccount-static=true"))
        w.expect(("DELETED", "sa"))


@pytest.mark.parametrize("allowed", [False, True])
def test_subject_reviews(cloud, project, allowed):
    """SubjectReview, API Operations: what a review says of a service account is what the account meets, impersonated"""
    cloud.api("POST", f"{CORE}/namespaces/{project}/serviceaccounts", named("ServiceAccount", "e2e"))
    user = f"system:serviceaccount:{project}:e2e"
    if allowed:
        cloud.api("POST", f"{RBAC}/namespaces/{project}/rolebindings", named("RoleBinding", "e2e", "rbac.authorization.k8s.io/v1", subjects=[{"kind": "ServiceAccount", "name": "e2e", "namespace": project}],
                                                                             roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}))
    spec = {"user": user, "resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": project, "version": "v1"}}
    said = []
    for place, kind in (("", "SubjectAccessReview"), (f"/namespaces/{project}", "LocalSubjectAccessReview")):
        review = cloud.api("POST", f"{AUTHZ}{place}/{kind.lower()}s", {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
        assert review["kind"] == kind and review["spec"]["user"] == user
        said.append(review["status"]["allowed"])
    answer = get(cloud, maps(project), impersonate_user=user)
    assert said == [answer.status == 200] * 2 == [allowed] * 2 and answer.status in (200, 403)


RULES = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]


@pytest.mark.parametrize("plural, kind", [("roles", "Role"), ("clusterroles", "ClusterRole"), ("rolebindings", "RoleBinding"), ("clusterrolebindings", "ClusterRoleBinding")])
def test_rbac_lifecycle(cloud, project, plural, kind):
    """Create, get, list, watch, update, patch, delete and deletecollection of the RBAC API (the suite has no test of its own for it)."""
    local = not plural.startswith("cluster")
    path = f"{RBAC}/namespaces/{project}/{plural}" if local else f"{RBAC}/{plural}"
    binding = {"subjects": [{"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"}], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind[:-7], "name": "r"}}
    body = binding if kind.endswith("Binding") else {"rules": RULES}
    label, chosen = {"rbac-test": project}, quoted(labelSelector=f"rbac-test={project}")
    with Watch(cloud, path, labelSelector=f"rbac-test={project}", resourceVersion="0") as w:
        made = cloud.api("POST", path, named(kind, f"{project}:one", "rbac.authorization.k8s.io/v1", labels=label, **body))
        w.expect(("ADDED", f"{project}:one"))
        assert cloud.api("GET", f"{path}/{project}:one")["metadata"]["uid"] == made["metadata"]["uid"]
        assert names(cloud.api("GET", f"{RBAC}/{plural}{chosen}")) == [f"{project}:one"]
        patch(cloud, f"{path}/{project}:one", {"metadata": {"annotations": {"patched": "true"}}})
        obj = w.expect(("MODIFIED", f"{project}:one"))
        assert obj["metadata"]["annotations"] == {"patched": "true"}
        if kind.endswith("Binding"):
            refused(422, cloud.api, "PUT", f"{path}/{project}:one", {**obj, "roleRef": {**obj["roleRef"], "name": "other"}})
            obj["subjects"].append({"kind": "Group", "name": "g", "apiGroup": "rbac.authorization.k8s.io"})
        else:
            obj["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]})
        cloud.api("PUT", f"{path}/{project}:one", obj)
        assert len((o := w.expect(("MODIFIED", f"{project}:one"))).get("rules", o.get("subjects"))) == 2
        cloud.api("POST", path, named(kind, f"{project}:two", "rbac.authorization.k8s.io/v1", labels=label, **body))
        cloud.api("DELETE", f"{path}/{project}:one")
        w.expect(("ADDED", f"{project}:two"), ("DELETED", f"{project}:one"))
        cloud.api("DELETE", path + chosen)
        w.expect(("DELETED", f"{project}:two"))
    assert cloud.api("GET", path + chosen)["items"] == []


# ---- garbage collection ----

def owner(obj, **more):
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"], **more}


def family(cloud, ns, children=5, **more):
    parent = make_map(cloud, ns, "parent")
    for i in range(children):
        make_map(cloud, ns, f"child{i}", owners=[owner(parent, blockOwnerDeletion=True, **more)])
    return parent


def delete(cloud, path, policy):
    return cloud.api("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy})


def test_background_deletion(cloud, project):
    """Garbage Collector, delete replication controller, propagation policy background; …, delete deployment, …: what an owned object owns goes too"""
    family(cloud, project)
    make_map(cloud, project, "grandchild", owners=[owner(cloud.api("GET", maps(project, "child0")))])
    delete(cloud, maps(project, "parent"), "Background")
    assert is_gone(cloud, maps(project, "parent"))
    wait_for(lambda: not names(cloud.api("GET", maps(project))), what="what it owned to go")


def test_orphans_stay(cloud, project):
    """Garbage Collector, delete replication controller, propagation policy orphan; …, delete deployment, …"""
    family(cloud, project)
    delete(cloud, maps(project, "parent"), "Orphan")
    wait_for(lambda: is_gone(cloud, maps(project, "parent")), what="the owner to go")
    left = cloud.api("GET", maps(project))["items"]
    assert len(left) == 5 and not any("ownerReferences" in o["metadata"] or "deletionTimestamp" in o["metadata"] for o in left)


def test_foreground_deletion_waits(cloud, project):
    """Garbage Collector, delete replication controller, after owned pods"""
    family(cloud, project)
    patch(cloud, maps(project, "child0"), {"metadata": {"finalizers": ["example.com/hold"]}})
    delete(cloud, maps(project, "parent"), "Foreground")
    wait_for(lambda: names(cloud.api("GET", maps(project))) == ["child0", "parent"], what="the free children to go")
    parent = cloud.api("GET", maps(project, "parent"))
    assert parent["metadata"]["deletionTimestamp"] and parent["metadata"]["finalizers"] == ["foregroundDeletion"]
    patch(cloud, maps(project, "child0"), {"metadata": {"finalizers": None}})
    wait_for(lambda: not names(cloud.api("GET", maps(project))), what="owner and child to go")


def test_foreground_deletion_waits_for_those_who_block_it(cloud, project):
    """Only who says blockOwnerDeletion is waited for."""
    parent = make_map(cloud, project, "parent")
    make_map(cloud, project, "free", owners=[owner(parent)])
    patch(cloud, maps(project, "free"), {"metadata": {"finalizers": ["example.com/hold"]}})
    delete(cloud, maps(project, "parent"), "Foreground")
    wait_for(lambda: is_gone(cloud, maps(project, "parent")), what="the owner to go")
    wait_for(lambda: cloud.api("GET", maps(project, "free"))["metadata"].get("deletionTimestamp"), what="the child to be on its way")
    patch(cloud, maps(project, "free"), {"metadata": {"finalizers": None}})
    assert is_gone(cloud, maps(project, "free"))


def test_dependents_of_several_owners_stay(cloud, project):
    """Garbage Collector, multiple owners"""
    first, second = family(cloud, project, 4), make_map(cloud, project, "second")
    for i in (0, 1):
        patch(cloud, maps(project, f"child{i}"), [{"op": "add", "path": "/metadata/ownerReferences/-", "value": owner(second, blockOwnerDeletion=True)}], JSON_PATCH)
    delete(cloud, maps(project, "parent"), "Foreground")
    wait_for(lambda: names(cloud.api("GET", maps(project))) == ["child0", "child1", "second"], what="the first owner, and what is its alone, to go")
    for i in (0, 1):
        meta = cloud.api("GET", maps(project, f"child{i}"))["metadata"]
        assert [o["uid"] for o in meta["ownerReferences"]] == [second["metadata"]["uid"]] and "deletionTimestamp" not in meta
    assert first


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
def test_circles_do_not_block(cloud, project, policy):
    """Garbage Collector, dependency cycle"""
    made = [make_map(cloud, project, f"m{i}") for i in range(3)]
    for i in range(3):
        patch(cloud, maps(project, f"m{i}"), {"metadata": {"ownerReferences": [owner(made[i - 1], controller=True, blockOwnerDeletion=True)]}})
    delete(cloud, maps(project, "m0"), policy)
    wait_for(lambda: not names(cloud.api("GET", maps(project))), what="the circle to go")


def test_owners_of_unknown_kinds_are_nobodys_business(cloud, project):
    """What another server owns stays, and what nobody owns any more goes."""
    foreign = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "6f2c1a3e-0000-4000-8000-000000000001"}
    alike = {"apiVersion": "example.com/v1", "kind": "ConfigMap", "name": "gone", "uid": "6f2c1a3e-0000-4000-8000-000000000002"}
    gone = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "6f2c1a3e-0000-4000-8000-000000000003"}
    make_map(cloud, project, "foreign", owners=[foreign])
    make_map(cloud, project, "alike", owners=[alike])
    make_map(cloud, project, "mixed", owners=[foreign, gone])
    make_map(cloud, project, "orphan", owners=[gone])
    wait_for(lambda: is_gone(cloud, maps(project, "orphan")), what="the orphan to go")
    assert names(cloud.api("GET", maps(project))) == ["alike", "foreign", "mixed"]


# ---- pages and tables ----

def test_chunks(cloud, project):
    """API Chunking, server should return chunks of results for list calls"""
    for i in range(40):
        make_map(cloud, project, f"template-{i:04}")
    left, version, token, seen = 40, None, "", []
    while True:
        page = cloud.api("GET", maps(project) + quoted(limit=17, **({"continue": token} if token else {})))
        version = version or page["metadata"]["resourceVersion"]
        assert page["metadata"]["resourceVersion"] == version and len(page["items"]) <= 17
        seen += names(page)
        left -= len(page["items"])
        token = page["metadata"].get("continue", "")
        assert page["metadata"].get("remainingItemCount", 0) == left
        if not token:
            break
        make_map(cloud, project, f"template-{len(seen):04}-late")  # belongs to no page
    assert seen == [f"template-{i:04}" for i in range(40)]
    assert len(cloud.api("GET", maps(project))["items"]) == 42


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_an_expired_token_goes_on_inconsistently(own_cloud):
    """API Chunking, server should support continue listing from the last key even if the original version has been compacted away"""
    cloud = own_cloud()
    space(cloud, "pages")
    for i in range(40):
        make_map(cloud, "pages", f"template-{i:04}")
    first = cloud.api("GET", maps("pages") + "?limit=10")
    ask = maps("pages") + quoted(limit=10, **{"continue": first["metadata"]["continue"]})

    def expired():
        make_map(cloud, "pages", f"late-{random.getrandbits(64):x}")
        answer = get(cloud, ask)
        return answer.status == 410 and answer.json()
    status = wait_for(expired, 420, "the history to be dropped")
    assert status["reason"] == "Expired"
    page, seen = cloud.api("GET", maps("pages") + quoted(limit=10, **{"continue": status["metadata"]["continue"]})), []
    version = page["metadata"]["resourceVersion"]
    assert int(version) > int(first["metadata"]["resourceVersion"])
    while True:
        assert page["metadata"]["resourceVersion"] == version and len(page["items"]) <= 10
        seen += names(page)
        if not page["metadata"].get("continue"):
            break
        page = cloud.api("GET", maps("pages") + quoted(limit=10, **{"continue": page["metadata"]["continue"]}))
    assert seen == [f"template-{i:04}" for i in range(10, 40)]


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def test_tables(cloud, project):
    """Servers with support for Table transformation (before the suite kept the refusal alone): columns, and a row an object"""
    for name in "ab":
        make_map(cloud, project, name)
    table = get(cloud, maps(project), accept=TABLE).json()
    assert table["kind"] == "Table" and table["apiVersion"] == "meta.k8s.io/v1" and table["metadata"]["resourceVersion"]
    columns = [c["name"] for c in table["columnDefinitions"]]
    assert columns[0] == "Name" and all(len(row["cells"]) == len(columns) for row in table["rows"])
    assert [(row["cells"][0], row["object"]["kind"]) for row in table["rows"]] == [("a", "PartialObjectMetadata"), ("b", "PartialObjectMetadata")]


def test_what_is_no_table_is_406(cloud):
    """API metadata HTTP return"""
    answers = [get(cloud, path, accept=TABLE) for path in ("/api", "/apis", "/api/v1")]
    answers.append(get(cloud, "/api/v1/namespaces", accept="application/json;as=Unknown;v=v1;g=meta.k8s.io"))
    assert [a.status for a in answers] == [406] * len(answers)
    assert all(a.json()["reason"] == "NotAcceptable" for a in answers)


# ---- field validation and apply ----

def endpoint(name, text='"replicas": 0, "engine": {"driver": "fake"}', meta=""):
    return f'{{"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {{"name": "{name}"{meta}}}, "spec": {{{text}}}}}'.encode()


def post(cloud, ns, body, how="Strict"):
    return call(cloud, "POST", f"{GROUP}/namespaces/{ns}/modelendpoints?fieldValidation={how}", body, content_type="application/json")


def strict_error(answer, *parts):
    assert answer.status == 400 and answer.json()["reason"] == "BadRequest", answer.body
    message = answer.json()["message"]
    assert "strict decoding error" in message and all(p in message for p in parts), message


def test_unknown_and_duplicate_fields(cloud, project):
    """Server side field validation, typed object; …, CR duplicates; …, unknown fields CR fails validation. Of duplicates the first is named, without its path."""
    unknown = endpoint("e", '"replicas": 0, "unknown1": "x", "engine": {"driver": "fake", "unknown2": 1}')
    strict_error(post(cloud, project, unknown), 'unknown field "spec.unknown1"', 'unknown field "spec.engine.unknown2"')
    for how in ("Strict", "Warn", "Ignore"):
        answer = post(cloud, project, endpoint("e", '"replicas": 0, "replicas": 1, "engine": {"driver": "fake"}'), how)
        assert answer.status == 400 and "duplicate object key near '\"replicas\"'" in answer.json()["message"]
    assert is_gone(cloud, f"{GROUP}/namespaces/{project}/modelendpoints/e")


@pytest.mark.parametrize("how, warnings", [("Warn", ['unknown field "spec.unknown1"', 'unknown field "spec.unknown2"']), ("Ignore", [])])
def test_warnings_instead(cloud, project, how, warnings):
    """Server side field validation, typed object: the same under Warn and Ignore"""
    answer = post(cloud, project, endpoint("e", '"unknown1": "x", "replicas": 0, "unknown2": {}, "engine": {"driver": "fake"}'), how)
    assert answer.status == 201 and not {"unknown1", "unknown2"} & set(answer.json()["spec"])
    said = answer.headers.get_all("Warning") or []
    assert len(said) == len(warnings) and all(any(w in s.replace("\\", "") for s in said) for w in warnings), said


def test_unknown_metadata(cloud, project):
    """Server side field validation, typed unknown metadata; …, unknown metadata"""
    strict_error(post(cloud, project, endpoint("e", meta=', "unknownMeta": "foo"')), 'unknown field "metadata.unknownMeta"')
    answer = call(cloud, "POST", maps(project) + "?fieldValidation=Strict", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "unknownMeta": 1}, "extra": 1})
    strict_error(answer, 'unknown field "metadata.unknownMeta"', 'unknown field "extra"')


def test_apply_of_a_valid_object(cloud, project):
    """Server side field validation, valid CR with validation schema"""
    path = f"{GROUP}/namespaces/{project}/modelendpoints/e"
    apply = {"content_type": "application/apply-patch+yaml"}
    made = call(cloud, "PATCH", path + "?fieldManager=m&fieldValidation=Strict", endpoint("e"), **apply)
    assert made.status == 201, made.body
    again = call(cloud, "PATCH", path + "?fieldManager=m&fieldValidation=Strict", endpoint("e", '"replicas": 0, "engine": {"driver": "fake", "parallel": 2}'), **apply)
    assert again.status == 200 and again.json()["spec"]["engine"]["parallel"] == 2
    strict = call(cloud, "PATCH", path + "?fieldManager=m&fieldValidation=Strict", endpoint("e", '"unknown1": 1, "engine": {"driver": "fake"}'), **apply)
    assert strict.status in (400, 500) and "unknown1" in strict.json()["message"]
    patched = call(cloud, "PATCH", path + "?fieldValidation=Strict", {"spec": {"unknown1": 1}}, content_type=MERGE)
    assert patched.status in (400, 422) and 'unknown field "spec.unknown1"' in patched.json()["message"]


# ---- discovery, version, OpenAPI ----

def test_preferred_versions(cloud):
    """Discovery, confirm the PreferredVersion for each api group"""
    groups = cloud.api("GET", "/apis")["groups"]
    assert {"seki.cloud", "coordination.k8s.io", "events.k8s.io", "rbac.authorization.k8s.io"} <= {g["name"] for g in groups}
    for group in groups:
        alone = cloud.api("GET", f"/apis/{group['name']}")
        assert alone["preferredVersion"] == group["preferredVersion"] and alone["preferredVersion"] in alone["versions"]


def test_a_resource_of_each_group(cloud):
    """Discovery, confirm the groupVersion and a resource from each apiGroup"""
    for group in cloud.api("GET", "/apis")["groups"]:
        for version in group["versions"]:
            listed = cloud.api("GET", f"/apis/{version['groupVersion']}")
            assert listed["groupVersion"] == version["groupVersion"] and listed["resources"]
            for resource in listed["resources"]:
                if "/" not in resource["name"] and "list" in resource["verbs"]:
                    assert cloud.api("GET", f"/apis/{version['groupVersion']}/{resource['name']}")["kind"] == resource["kind"] + "List"


def test_aggregated_discovery(cloud):
    """Aggregated Discovery Interface; Aggregated Discovery Endpoint Accept Headers; the CRDs' two, for our own kinds"""
    found = {}
    for path in ("/api", "/apis"):
        answer = get(cloud, path, accept="application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList,application/json")
        assert answer.headers["Content-Type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        for group in answer.json()["items"]:
            for version in group["versions"]:
                found[group["metadata"].get("name", ""), version["version"]] = {r["resource"] for r in version["resources"]}
    assert {"namespaces", "configmaps", "secrets", "events", "serviceaccounts"} <= found["", "v1"]
    assert {"models", "modelendpoints", "modelreplicas", "apikeys", "usagereports"} <= found["seki.cloud", "v1alpha1"]
    assert get(cloud, "/apis", accept="application/json").json()["kind"] == "APIGroupList"


def test_server_version(cloud):
    """Confirm a server version"""
    version = cloud.api("GET", "/version")
    assert re.fullmatch("[0-9]+", version["major"]) and re.fullmatch("[0-9]+", version["minor"])


def test_health(cloud):
    """/healthz, /livez and /readyz answer ok to anybody (the suite takes them for granted)."""
    for path in ("/healthz", "/livez", "/readyz"):
        answer = get(cloud, path)
        assert answer.status == 200 and answer.body.startswith(b"ok")


def test_openapi_of_our_kinds(cloud, project):
    """Custom Resource OpenAPI Publish, with validation schema; …, varying kinds; …, varying groups"""
    manifest = 'apiVersion: seki.cloud/v1alpha1\nkind: {}\nmetadata: {{name: x, namespace: ' + project + '}}\nspec: {}\n'
    good = manifest.format("ModelEndpoint", "{replicas: 0, engine: {driver: fake}}")
    for verb in ("create", "apply"):
        cloud.kubectl(verb, "-f", "-", input=good)
        for bad, word in (("{replicas: 0, engine: {driver: fake}, unknown: 1}", 'unknown field "spec.unknown"'), ("{replicas: many, engine: {driver: fake}}", "spec.replicas")):
            p = cloud.kubectl(verb, "-f", "-", input=manifest.format("ModelEndpoint", bad), check=False)
            assert p.returncode == 1 and word in p.stderr, p.stderr
        if verb == "create":
            cloud.kubectl("delete", "-f", "-", input=good)
    p = cloud.kubectl("create", "-f", "-", input=manifest.format("Model", "{format: GGUF}"), check=False)
    assert p.returncode == 1 and "spec.source" in p.stderr
    assert "ModelEndpoint serves a Model" in cloud.kubectl("explain", "modelendpoints").stdout
    assert "what runs the model" in cloud.kubectl("explain", "modelendpoints.spec.engine.driver").stdout
    assert "does not exist" in cloud.kubectl("explain", "modelendpoints.spec.nothing", check=False).stderr
    documents = cloud.api("GET", "/openapi/v3")["paths"]
    assert {"api/v1", "apis/seki.cloud/v1alpha1", "apis/coordination.k8s.io/v1", "apis/rbac.authorization.k8s.io/v1"} <= set(documents)


# ---- kubectl ----

def test_kubectl_versions(cloud):
    """Kubectl, check version v1; Kubectl, version"""
    assert "v1" in cloud.kubectl("api-versions").stdout.split()
    said = json.loads(cloud.kubectl("version", "-o", "json").stdout)
    assert said["clientVersion"]["major"] and said["serverVersion"]["major"] and said["serverVersion"]["gitVersion"] and "gitCommit" in said["serverVersion"]


def test_kubectl_changes(cloud, project):
    """Kubectl, label update; Kubectl, patch to annotate; Kubectl, replace; Kubectl, server-side dry-run Pod; Kubectl, diff Deployment; Kubectl, describe pod or rc"""
    k = lambda *args, **kw: cloud.kubectl("-n", project, *args, **kw)  # noqa: E731
    manifest = json.dumps(named("ConfigMap", "m", data={"image": "httpd"}))
    k("create", "-f", "-", input=manifest)
    k("label", "configmap", "m", "testing-label=testing-label-value")
    assert k("get", "configmap", "-L", "testing-label", "--no-headers").stdout.split()[-1] == "testing-label-value"
    k("label", "configmap", "m", "testing-label-")
    assert "testing-label-value" not in k("get", "configmap", "m", "-L", "testing-label").stdout
    k("patch", "configmap", "m", "-p", '{"metadata":{"annotations":{"x":"y"}}}')
    assert k("get", "configmap", "m", "-o", "jsonpath={.metadata.annotations.x}").stdout == "y"
    k("patch", "configmap", "m", "-p", '{"data":{"image":"busybox"}}', "--dry-run=server")
    assert k("get", "configmap", "m", "-o", "jsonpath={.data.image}").stdout == "httpd"
    changed = manifest.replace("httpd", "busybox")
    p = k("diff", "-f", "-", input=changed, check=False)
    assert p.returncode == 1 and "-  image: httpd" in p.stdout and "+  image: busybox" in p.stdout
    k("replace", "-f", "-", input=changed)
    uid = k("get", "configmap", "m", "-o", "jsonpath={.metadata.uid} {.data.image}").stdout
    assert uid.endswith(" busybox")
    k("replace", "--force", "-f", "-", input=manifest)
    assert k("get", "configmap", "m", "-o", "jsonpath={.metadata.uid}").stdout != uid.split()[0]
    described = k("describe", "configmap", "m").stdout
    assert "Name:         m" in described and "httpd" in described
    assert f"Name:         {project}" in cloud.kubectl("describe", "namespace", project).stdout


@pytest.mark.parametrize("how", ["port", "socket"])
def test_kubectl_proxy(cloud, how, tmp_path):
    """Kubectl, proxy port zero; Kubectl, proxy socket"""
    socket = tmp_path / "proxy.sock"
    where = ["--port=0", "--disable-filter=true"] if how == "port" else [f"--unix-socket={socket}"]
    p = subprocess.Popen([KUBECTL, f"--kubeconfig={cloud.kubeconfig}", "proxy", *where], stdout=subprocess.PIPE, text=True)
    try:
        line = p.stdout.readline()
        assert line.startswith("Starting to serve on"), line
        curl = ["--unix-socket", str(socket), "http://localhost/api/"] if how == "socket" else [f"http://{line.split()[-1]}/api/"]
        out = subprocess.run(["curl", "-s", "--noproxy", "*", "--max-time", "20", *curl], capture_output=True, text=True, timeout=30)
        assert json.loads(out.stdout)["versions"] == ["v1"]
    finally:
        p.terminate()
        p.wait()
        p.stdout.close()
