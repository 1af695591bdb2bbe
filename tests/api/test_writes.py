"""Options of writes: what is tried only, names that the server makes, preconditions and what becomes of dependents; refused as Kubernetes refuses them."""
import re

import pytest

from cloud import GROUP, ApiError, wait_for

MERGE, JSON_PATCH, APPLY = "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"


def maps(ns, name=None):
    return f"/api/v1/namespaces/{ns}/configmaps" + (f"/{name}" if name else "")


def config_map(name, **more):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more}, "data": {"k": "v"}}


def options(**members):
    return {"apiVersion": "v1", "kind": "DeleteOptions", **members}


def refused(code, *args, **kwargs):
    with pytest.raises(ApiError) as e:
        args[0].api(*args[1:], **kwargs)
    assert e.value.status == code, e.value
    return e.value.body


# ---- dryRun ----

@pytest.mark.parametrize("what, method, path, body, how", [
    ("create", "POST", "", config_map("new"), None),
    ("update", "PUT", "/old", {**config_map("old"), "data": {"k": "other"}}, None),
    ("merge", "PATCH", "/old", {"data": {"k": "other"}}, MERGE),
    ("json", "PATCH", "/old", [{"op": "replace", "path": "/data/k", "value": "other"}], JSON_PATCH),
    ("apply", "PATCH", "/old", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "other"}}, APPLY),
    ("apply that makes", "PATCH", "/new", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "other"}}, APPLY),
    ("delete", "DELETE", "/old", None, None),
    ("delete, by the body", "DELETE", "/old", options(dryRun=["All"]), None),
    ("delete in the foreground", "DELETE", "/old", options(dryRun=["All"], propagationPolicy="Foreground"), None),
    ("collection", "DELETE", "", None, None),
    ("collection, by the body", "DELETE", "", options(dryRun=["All"]), None)])
def test_a_dry_run_of_each_verb_stores_nothing(cloud, project, what, method, path, body, how):
    before = cloud.api("POST", maps(project), config_map("old"))
    query = "" if "body" in what or "foreground" in what else "?dryRun=All" + ("&fieldManager=m&force=true" if how == APPLY else "")
    shown = cloud.api(method, maps(project) + path + query, body, **({"content_type": how} if how else {}))
    if method in ("PUT", "PATCH"):
        assert shown["data"]["k"] == "other"
    assert cloud.api("GET", maps(project))["items"] == [before]  # its version too
    seen = cloud.api("GET", f"{maps(project)}?watch=1&timeoutSeconds=1&resourceVersion={before['metadata']['resourceVersion']}", raw=True)
    assert not seen.strip()


def test_a_dry_run_checks_everything(cloud, project):
    cloud.api("POST", maps(project), config_map("old"))
    assert refused(409, cloud, "POST", maps(project) + "?dryRun=All", config_map("old"))["reason"] == "AlreadyExists"
    assert refused(422, cloud, "POST", maps(project) + "?dryRun=All", config_map("No_Name"))["reason"] == "Invalid"
    assert refused(409, cloud, "PUT", maps(project, "old") + "?dryRun=All", config_map("old", resourceVersion="1"))["reason"] == "Conflict"
    assert refused(404, cloud, "DELETE", maps(project, "none") + "?dryRun=All")["reason"] == "NotFound"
    assert refused(409, cloud, "DELETE", maps(project, "old") + "?dryRun=All", options(preconditions={"uid": "other"}))["reason"] == "Conflict"


def test_a_dry_run_of_scale_stores_nothing(cloud, project):
    cloud.create("modelendpoints", project, "e", {"replicas": 0, "engine": {"driver": "fake"}})
    path = f"{GROUP}/namespaces/{project}/modelendpoints/e/scale"
    assert cloud.api("PATCH", path + "?dryRun=All", {"spec": {"replicas": 3}}, content_type=MERGE)["spec"]["replicas"] == 3
    assert cloud.api("GET", path)["spec"]["replicas"] == 0


# ---- options that are refused ----

NAMES = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions", "DELETE": "DeleteOptions"}


@pytest.mark.parametrize("method, query, body, field, reason, message", [
    ("POST", "dryRun=Some", config_map("new"), "dryRun", "FieldValueNotSupported", 'Unsupported value: ["Some"]: supported values: "All"'),
    ("PUT", "dryRun=Some", config_map("old"), "dryRun", "FieldValueNotSupported", 'Unsupported value: ["Some"]: supported values: "All"'),
    ("PATCH", "dryRun=Some", {}, "dryRun", "FieldValueNotSupported", 'Unsupported value: ["Some"]: supported values: "All"'),
    ("DELETE", "dryRun=Some", None, "dryRun", "FieldValueNotSupported", 'Unsupported value: ["Some"]: supported values: "All"'),
    ("DELETE", "", options(dryRun=["All", "Some"]), "dryRun", "FieldValueNotSupported", 'Unsupported value: ["All","Some"]: supported values: "All"'),
    ("DELETE", "propagationPolicy=Sideways", options(dryRun=[]), "propagationPolicy", "FieldValueNotSupported",
     'Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil"'),
    ("POST", "fieldValidation=Loose", config_map("new"), "fieldValidation", "FieldValueNotSupported", 'Unsupported value: "Loose": supported values: "", "Ignore", "Strict", "Warn"'),
    ("PATCH", "force=true", {}, "force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch"),
    ("POST", "fieldManager=" + "m" * 129, config_map("new"), "fieldManager", "FieldValueTooLong", "Too long: may not be more than 128 bytes"),
    ("DELETE", "propagationPolicy=Sideways", None, "propagationPolicy", "FieldValueNotSupported",
     'Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil"'),
    ("DELETE", "", options(propagationPolicy="Sideways"), "propagationPolicy", "FieldValueNotSupported",
     'Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil"'),
    ("DELETE", "", options(propagationPolicy="Orphan", orphanDependents=True), "propagationPolicy", "FieldValueInvalid",
     'Invalid value: "Orphan": orphanDependents and deletionPropagation cannot be both set')])
def test_options_are_refused_as_options(cloud, project, method, query, body, field, reason, message):
    cloud.api("POST", maps(project), config_map("old"))
    status = refused(422, cloud, method, f"{maps(project, None if method == 'POST' else 'old')}?{query}", body, content_type=MERGE if method == "PATCH" else "application/json")
    assert status["reason"] == "Invalid" and status["message"] == f'{NAMES[method]}.meta.k8s.io "" is invalid: {field}: {message}'
    assert status["details"] == {"group": "meta.k8s.io", "kind": NAMES[method], "causes": [{"reason": reason, "message": message, "field": field}]}
    assert [o["metadata"]["name"] for o in cloud.api("GET", maps(project))["items"]] == ["old"]


def test_an_apply_without_a_manager(cloud, project):
    status = refused(422, cloud, "PATCH", maps(project, "a"), {"apiVersion": "v1", "kind": "ConfigMap"}, content_type=APPLY)
    assert status["message"] == 'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
    assert status["details"]["kind"] == "PatchOptions" and status["details"]["causes"][0]["reason"] == "FieldValueRequired"


# ---- generateName ----

def test_the_server_makes_names(cloud, project):
    made = [cloud.api("POST", maps(project), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-"}}) for _ in range(20)]
    names = {o["metadata"]["name"] for o in made}
    assert len(names) == 20 and all(re.fullmatch("some-[a-z0-9]{5}", n) for n in names) and {o["metadata"]["generateName"] for o in made} == {"some-"}
    long = cloud.api("POST", maps(project), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x" * 80}})
    assert re.fullmatch("x{58}[a-z0-9]{5}", long["metadata"]["name"])
    named = cloud.api("POST", maps(project), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-", "name": "mine"}})
    assert named["metadata"]["name"] == "mine"
    ours = cloud.api("POST", f"{GROUP}/namespaces/{project}/modelendpoints", {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"generateName": "e-"},
                                                                             "spec": {"replicas": 0, "engine": {"driver": "fake"}}})
    assert re.fullmatch("e-[a-z0-9]{5}", ours["metadata"]["name"])
    status = refused(422, cloud, "POST", maps(project), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})
    assert status["details"]["causes"] == [{"reason": "FieldValueRequired", "message": "Required value: name or generateName is required", "field": "metadata.name"}]


# ---- preconditions, propagation ----

def test_preconditions_of_a_deletion(cloud, project):
    meta = cloud.api("POST", maps(project), config_map("p"))["metadata"]
    for wrong, text in (({"uid": "other"}, f"UID in precondition: other, UID in object meta: {meta['uid']}"),
                        ({"resourceVersion": "1"}, f"ResourceVersion in precondition: 1, ResourceVersion in object meta: {meta['resourceVersion']}"),
                        ({"uid": meta["uid"], "resourceVersion": "1"}, "ResourceVersion in precondition: 1")):
        status = refused(409, cloud, "DELETE", maps(project, "p"), options(preconditions=wrong))
        assert status["reason"] == "Conflict" and status["details"] == {"name": "p", "kind": "configmaps"}
        assert status["message"].startswith('Operation cannot be fulfilled on configmaps "p": Precondition failed: ' + text)
    assert cloud.api("DELETE", maps(project, "p"), options(preconditions={"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}))["status"] == "Success"


@pytest.mark.parametrize("query, body", [("?orphanDependents=true", None), ("", options(orphanDependents=True)), ("?propagationPolicy=Orphan", None)])
def test_orphans_in_the_older_form_too(cloud, project, query, body):
    meta = cloud.api("POST", maps(project), config_map("parent"))["metadata"]
    cloud.api("POST", maps(project), config_map("child", ownerReferences=[{"apiVersion": "v1", "kind": "ConfigMap", "name": "parent", "uid": meta["uid"]}]))
    cloud.api("DELETE", maps(project, "parent") + query, body)

    def orphaned():
        items = cloud.api("GET", maps(project))["items"]
        return [o["metadata"]["name"] for o in items] == ["child"] and "ownerReferences" not in items[0]["metadata"]
    wait_for(orphaned, what="the child alone to stay")


# ---- patches of our kinds ----

def test_json_and_merge_patch_of_our_kinds(cloud, project):
    cloud.create("modelendpoints", project, "e", {"replicas": 0, "engine": {"driver": "fake", "options": {"a": "1", "b": "1"}}})
    path = f"{GROUP}/namespaces/{project}/modelendpoints/e"
    assert cloud.api("PATCH", path, {"spec": {"engine": {"options": {"a": None, "c": "1"}}}}, content_type=MERGE)["spec"]["engine"]["options"] == {"b": "1", "c": "1"}
    steps = [{"op": "test", "path": "/spec/replicas", "value": 0}, {"op": "move", "from": "/spec/engine/options/b", "path": "/spec/engine/options/d"}]
    assert cloud.api("PATCH", path, steps, content_type=JSON_PATCH)["spec"]["engine"]["options"] == {"c": "1", "d": "1"}
    status = refused(422, cloud, "PATCH", path, [{"op": "test", "path": "/spec/replicas", "value": 9}], content_type=JSON_PATCH)
    assert status["reason"] == "Invalid" and status["details"]["name"] == "e"
    assert refused(422, cloud, "PATCH", path, {"spec": {"replicas": -1}}, content_type=MERGE)["details"]["causes"][0]["field"] == "spec.replicas"
    assert refused(400, cloud, "PATCH", path, {"spec": {"replica": 1}}, content_type=MERGE)["message"].endswith('unknown field "spec.replica"')


@pytest.mark.parametrize("body", [{"dryRun": [None]}, {"dryRun": [1]}, {"dryRun": "All"}, {"propagationPolicy": "Sideways", "dryRun": [1]}, {"preconditions": "x"}, {"propagationPolicies": "Orphan"}, [], "All"])
def test_options_of_other_types(cloud, project, body):
    cloud.api("POST", maps(project), config_map("old"))
    assert refused(400, cloud, "DELETE", maps(project, "old"), options(**body) if isinstance(body, dict) else body)["reason"] == "BadRequest"
    assert cloud.api("GET", maps(project, "old"))


def test_a_dry_run_shows_nothing_that_may_yet_be_undone(cloud, project):
    """What a dry run starts from is what a read shows: never a version that is on its way to the disk. Else a read after it would go back in time."""
    import threading
    path = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"n": "0"}})
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            cloud.api("PATCH", f"{path}/d", {"data": {"n": str(n)}}, content_type="application/merge-patch+json")
    writers = [threading.Thread(target=write) for _ in range(3)]
    for w in writers:
        w.start()
    try:
        tries = [("PATCH", "application/merge-patch+json", {"data": {"x": "y"}}),
                 ("PATCH", "application/apply-patch+yaml", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"x": "y"}}),
                 ("PUT", "application/json", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"x": "y"}})]
        with api_connection(cloud) as ask:
            for i in range(240):
                method, content_type, body = tries[i % len(tries)]
                dry = ask(method, f"{path}/d?dryRun=All&fieldManager=dry&force=true" if "apply" in content_type else f"{path}/d?dryRun=All", body, content_type)
                now = ask("GET", f"{path}/d")
                assert int(now["metadata"]["resourceVersion"]) >= int(dry["metadata"]["resourceVersion"]), (method, content_type)
    finally:
        stop.set()
        for w in writers:
            w.join()


class api_connection:
    """Requests as admin on one kept connection."""

    def __init__(self, cloud):
        import http.client
        import ssl
        context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        context.load_cert_chain(str(cloud.data / "pki" / "admin.crt"), str(cloud.data / "pki" / "admin.key"))
        host, port = cloud.address("api").rsplit(":", 1)
        self.connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)

    def __enter__(self):
        def ask(method, path, body=None, content_type="application/json"):
            import json
            self.connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": content_type, "Accept": "application/json"})
            answer = self.connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            return json.loads(text)
        return ask

    def __exit__(self, *_):
        self.connection.close()
