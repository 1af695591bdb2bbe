"""What Argo CD and Terraform ask of a server.

Argo CD's part is played by its own library, gitops-engine, in tools/gitops. Terraform's provider could not be had in a version with `kubernetes_manifest`: its requests are
played one by one, in the order in which its sources make them.
"""
import json
import os
import subprocess
import urllib.parse

import pytest

from cloud import GROUP, ROOT, ApiError, wait_for
from raw import get

MERGE, JSON_PATCH, APPLY = "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
MANAGER = "Terraform"


# ---- Argo CD ----

CHECKS = ["follows", "tree", "client-side", "server-side", "replace", "takes-over", "differs", "limited"]


@pytest.fixture(scope="module")
def gitops():
    out = subprocess.run([ROOT / "scripts" / "gitops"], capture_output=True, text=True, timeout=2400)
    assert out.returncode == 0, out.stderr
    return out.stdout.split()[-1]


@pytest.mark.timeout(2700)  # the first check may have to wait for the build
@pytest.mark.parametrize("check", CHECKS)
def test_gitops_engine(cloud, project, gitops, check):
    p = subprocess.run([gitops, project, check], env={**os.environ, "KUBECONFIG": cloud.kubeconfig}, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and p.stdout == f"ok {check}\n", p.stdout + p.stderr[-3000:]


def listable(cloud):
    """(collection's path, kind) of all that aggregated discovery says can be listed and watched."""
    found = []
    for root in ("/api", "/apis"):
        for group in get(cloud, root, accept=AGGREGATED).json()["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                base = f"/apis/{name}/{version['version']}" if name else f"/api/{version['version']}"
                found += [(f"{base}/{r['resource']}", r["responseKind"]["kind"]) for r in version["resources"] if {"list", "watch"} <= set(r["verbs"])]
    return found


def test_every_listable_kind_is_listed_and_watched_everywhere(cloud, project):
    """List in pages, then watch from the list's version with bookmarks: no event of what the list had, all of what came behind it."""
    kinds = listable(cloud)
    assert {"ConfigMap", "Secret", "Model", "ModelEndpoint", "ClusterRole", "Lease"} <= {kind for _, kind in kinds}
    for path, kind in kinds:
        listed = get(cloud, f"{path}?limit=500&resourceVersion=").json()
        assert listed["kind"] == f"{kind}List", listed
        version = listed["metadata"]["resourceVersion"]
        text = get(cloud, f"{path}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={version}").body
        for event in map(json.loads, text.splitlines()):
            assert event["type"] in ("BOOKMARK", "ADDED", "MODIFIED", "DELETED") and int(event["object"]["metadata"]["resourceVersion"]) > int(version) - (event["type"] == "BOOKMARK")


# ---- Terraform: kubernetes_manifest ----

def test_what_is_looked_through_first_is_an_empty_list(cloud, project):
    """Before any kind the provider finds CustomResourceDefinition in discovery and lists it, as whoever it runs as."""
    cloud.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "terraform"}})
    token = cloud.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts/terraform/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    base, definition = "/apis/apiextensions.k8s.io/v1", {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"}, "spec": {}}
    (resource,) = cloud.api("GET", base)["resources"]
    assert resource["name"] == "customresourcedefinitions" and resource["verbs"] == ["get", "list", "watch"] and not resource["namespaced"]
    for headers in ({}, {"Authorization": f"Bearer {token}"}):
        listed = cloud.api("GET", f"{base}/customresourcedefinitions?limit=500", headers=headers)
        assert listed["kind"] == "CustomResourceDefinitionList" and listed["items"] == []
        assert cloud.api("GET", f"{base}/customresourcedefinitions?watch=1&timeoutSeconds=1&resourceVersion={listed['metadata']['resourceVersion']}", headers=headers, raw=True) == b""
    assert status_of(cloud, f"{base}/customresourcedefinitions/things.example.com") == 404
    for method, path in (("POST", ""), ("PUT", "/things.example.com"), ("PATCH", "/things.example.com"), ("DELETE", "/things.example.com"), ("DELETE", "")):
        with pytest.raises(ApiError) as e:
            cloud.api(method, f"{base}/customresourcedefinitions{path}", definition)
        assert e.value.status == 405 and e.value.body["reason"] == "MethodNotAllowed"
    assert "customresourcedefinitions" in cloud.kubectl("api-resources", "--api-group=apiextensions.k8s.io").stdout
    assert "No resources found" in cloud.kubectl("get", "crds").stderr
    assert set(cloud.api("GET", "/openapi/v3/apis/apiextensions.k8s.io/v1")["paths"][f"{base}/customresourcedefinitions"]) == {"get", "parameters"}


@pytest.fixture(scope="module")
def definitions(cloud):
    return get(cloud, "/openapi/v2", accept="application/json").json()["definitions"]


def type_of(definitions, schema, depth=0):
    """The type that the provider derives: names of members down to scalars. Fails where it would."""
    assert depth < 50, "types of more than 50 levels are refused"
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/definitions/")
        assert name in definitions, f"{name} is nowhere"
        return type_of(definitions, definitions[name], depth + 1)
    assert "type" in schema or "properties" not in schema
    match schema.get("type"):
        case "object" | None if "properties" in schema:
            return {name: type_of(definitions, s, depth + 1) for name, s in schema["properties"].items()}
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return {"*": type_of(definitions, schema["additionalProperties"], depth + 1)}
        case "array":
            return [type_of(definitions, schema["items"], depth + 1)]
        case kind:
            assert kind in ("string", "integer", "number", "boolean", "object", None), kind
            return kind or "object"


def test_a_type_is_derived_for_every_kind(cloud, definitions):
    marked = {(m["group"], m["version"], m["kind"]): name for name, d in definitions.items() for m in d.get("x-kubernetes-group-version-kind", [])}
    meta = type_of(definitions, definitions[META])
    assert meta["labels"] == {"*": "string"} and meta["finalizers"] == ["string"] and meta["ownerReferences"][0]["uid"] == "string"
    for path, kind in listable(cloud):
        group, version = ("", "v1") if path.startswith("/api/") else path.split("/")[2:4]
        derived = type_of(definitions, definitions[marked[group, version, kind]])
        assert derived["metadata"] == meta and derived["apiVersion"] == derived["kind"] == "string"
    endpoint = type_of(definitions, definitions[marked["seki.cloud", "v1alpha1", "ModelEndpoint"]])
    assert endpoint["spec"]["replicas"] == "integer" and endpoint["spec"]["engine"]["options"] == {"*": "string"} and isinstance(endpoint["status"]["conditions"], list)


OBJECTS = [
    (lambda ns: f"/api/v1/namespaces/{ns}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "1"}}, {"data": {"k": "2"}}, ("data", "k")),
    (lambda ns: f"{GROUP}/namespaces/{ns}/modelendpoints", {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "spec": {"replicas": 0, "engine": {"driver": "fake"}}},
     {"spec": {"replicas": 1, "engine": {"driver": "fake"}}}, ("spec", "replicas")),
]


def at(obj, path):
    for name in path:
        obj = obj[name]
    return obj


def status_of(cloud, path):
    return get(cloud, path).status


@pytest.mark.parametrize("collection, wanted, change, where", OBJECTS, ids=["ConfigMap", "ModelEndpoint"])
def test_plan_apply_read_and_destroy(cloud, project, collection, wanted, change, where):
    path = collection(project) + "/t"
    wanted = {**wanted, "metadata": {"name": "t", "namespace": project}}
    apply = f"{path}?fieldManager={MANAGER}&force=false"

    # plan: the credentials are tried, the apply is tried; nothing is there afterwards
    assert get(cloud, "/apis").status == 200
    planned = cloud.api("PATCH", apply + "&dryRun=All", wanted, content_type=APPLY)
    assert at(planned, where) == at(wanted, where) and status_of(cloud, path) == 404

    # apply: it must not exist; then every member that was planned comes back as it was planned
    made = cloud.api("PATCH", apply, wanted, content_type=APPLY)
    for name in planned:
        if name not in ("metadata", "status"):
            assert made[name] == planned[name]
    assert [m["manager"] for m in made["metadata"]["managedFields"] if m["operation"] == "Apply"] == [MANAGER]

    # refresh shows no difference, and an apply of the same neither
    read = cloud.api("GET", path)
    again = cloud.api("PATCH", apply, wanted, content_type=APPLY)
    assert at(read, where) == at(made, where) and again["metadata"]["generation"] == made["metadata"]["generation"]

    # a change
    changed = cloud.api("PATCH", apply, {**wanted, **change}, content_type=APPLY)
    assert at(changed, where) == at(change, where) and changed["metadata"]["uid"] == made["metadata"]["uid"]

    # somebody else's change is a conflict that says whose, until it is forced
    cloud.api("PATCH", path + "?fieldManager=somebody", wanted if "data" in wanted else {"spec": wanted["spec"]}, content_type=MERGE)
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", apply, {**wanted, **change}, content_type=APPLY)
    assert e.value.status == 409 and e.value.body["reason"] == "Conflict"
    assert [c["reason"] for c in e.value.body["details"]["causes"]] == ["FieldManagerConflict"] and "somebody" in e.value.body["message"]
    forced = cloud.api("PATCH", apply.replace("false", "true"), {**wanted, **change}, content_type=APPLY)
    assert at(forced, where) == at(change, where)

    # destroy: delete, then get until it is gone
    cloud.api("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground", "preconditions": {"uid": made["metadata"]["uid"]}})
    wait_for(lambda: status_of(cloud, path) == 404, what="what was destroyed to go")
    with pytest.raises(ApiError) as e:
        cloud.api("DELETE", path)
    assert e.value.status == 404 and e.value.body["reason"] == "NotFound"


def test_waiting_for_fields_and_conditions(cloud, project):
    path = f"{GROUP}/namespaces/{project}/modelendpoints/w"
    wanted = {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": "w", "namespace": project}, "spec": {"replicas": 1, "engine": {"driver": "fake"}}}
    cloud.api("PATCH", f"{path}?fieldManager={MANAGER}&force=false", wanted, content_type=APPLY)
    wait_for(lambda: any(c["type"] == "Ready" and c["status"] == "True" for c in cloud.api("GET", path).get("status", {}).get("conditions", [])), what="the condition")
    assert cloud.api("GET", path)["status"]["readyReplicas"] == 1
    # what controllers write is not the manager's, so the next plan has nothing to do
    before = cloud.api("GET", path)["metadata"]["generation"]
    assert cloud.api("PATCH", f"{path}?fieldManager={MANAGER}&force=false", wanted, content_type=APPLY)["metadata"]["generation"] == before


def test_import_by_name(cloud, project):
    """terraform import: a kind is found by discovery, the object by get; what is not there is NotFound."""
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "i"}, "data": {"k": "v"}})
    resource = next(r for r in cloud.api("GET", "/api/v1")["resources"] if r["kind"] == "ConfigMap" and "/" not in r["name"])
    assert resource["namespaced"] and {"get", "patch", "delete"} <= set(resource["verbs"])
    assert cloud.api("GET", f"/api/v1/namespaces/{project}/{resource['name']}/i")["data"] == {"k": "v"}
    answer = get(cloud, f"/api/v1/namespaces/{project}/{resource['name']}/none")
    assert answer.status == 404 and answer.json()["reason"] == "NotFound"


def test_resources_of_their_own_update_by_json_patch(cloud, project):
    """kubernetes_config_map and its like: POST, JSON patch by paths with escapes, DELETE, get until 404."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own", "annotations": {"a.b/c": "1"}, "labels": {"l": "1"}}, "data": {"k": "1"}})
    steps = [{"op": "replace", "path": "/metadata/annotations/a.b~1c", "value": "2"}, {"op": "remove", "path": "/metadata/labels/l"}, {"op": "add", "path": "/metadata/annotations/d.e~1f", "value": "3"},
             {"op": "replace", "path": "/data/k", "value": "2"}]
    changed = cloud.api("PATCH", f"{base}/own", steps, content_type=JSON_PATCH)
    assert changed["metadata"]["annotations"] == {"a.b/c": "2", "d.e/f": "3"} and not changed["metadata"].get("labels") and changed["data"] == {"k": "2"}
    listed = get(cloud, f"{base}?{urllib.parse.urlencode({'fieldSelector': 'metadata.name=own'})}").json()  # kubernetes_resources, the data source
    assert [o["metadata"]["name"] for o in listed["items"]] == ["own"]
    cloud.api("DELETE", f"{base}/own")
    assert status_of(cloud, f"{base}/own") == 404
