"""Server-side apply, managed fields, strategic merge patch: raw requests, and kubectl."""
import json
import re

import pytest

from cloud import GROUP, ApiError

APPLY = "application/apply-patch+yaml"
STRATEGIC = "application/strategic-merge-patch+json"


def path_of(project, name, plural="configmaps"):
    return f"/api/v1/namespaces/{project}/{plural}/{name}" if plural in ("configmaps", "secrets") else f"{GROUP}/namespaces/{project}/{plural}/{name}"


def apply(cloud, project, name, manager, force=False, plural="configmaps", sub="", **members):
    kinds = {"configmaps": ("v1", "ConfigMap"), "modelendpoints": ("seki.cloud/v1alpha1", "ModelEndpoint"), "secrets": ("v1", "Secret")}
    version, kind = kinds[plural]
    metadata = members.pop("metadata", {})
    doc = {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, **members}
    query = f"?fieldManager={manager}" + ("&force=true" if force else "")
    return cloud.api("PATCH", path_of(project, name, plural) + (f"/{sub}" if sub else "") + query, doc, content_type=APPLY)


def owners(obj):
    """{(manager, operation, subresource): set of FieldsV1}"""
    return {(e["manager"], e["operation"], e.get("subresource", "")): e["fieldsV1"] for e in obj["metadata"].get("managedFields", [])}


def test_apply_makes_and_changes(cloud, project):
    made = apply(cloud, project, "a", "one", data={"x": "1", "y": "1"})
    assert made["data"] == {"x": "1", "y": "1"}
    assert owners(made) == {("one", "Apply", ""): {"f:data": {"f:x": {}, "f:y": {}}}}
    entry = made["metadata"]["managedFields"][0]
    assert entry["apiVersion"] == "v1" and entry["fieldsType"] == "FieldsV1" and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])
    again = apply(cloud, project, "a", "one", data={"x": "1", "y": "1"})
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "applying the same changes nothing"
    changed = apply(cloud, project, "a", "one", data={"x": "2"})
    assert changed["data"] == {"x": "2"}, "what is no longer applied goes"
    assert owners(changed) == {("one", "Apply", ""): {"f:data": {"f:x": {}}}}


def test_conflict_names_manager_and_field_and_changes_nothing(cloud, project):
    apply(cloud, project, "c", "one", data={"x": "1"})
    before = cloud.api("GET", path_of(project, "c"))
    with pytest.raises(ApiError) as e:
        apply(cloud, project, "c", "two", data={"x": "2"})
    status = e.value.body
    assert e.value.status == 409 and status["reason"] == "Conflict"
    assert status["message"] == 'Apply failed with 1 conflict: conflict with "one": .data.x'
    assert status["details"]["causes"] == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.x"}]
    assert cloud.api("GET", path_of(project, "c")) == before
    forced = apply(cloud, project, "c", "two", force=True, data={"x": "2"})
    assert forced["data"] == {"x": "2"}
    assert owners(forced) == {("two", "Apply", ""): {"f:data": {"f:x": {}}}}


def test_several_conflicts_are_listed_by_manager(cloud, project):
    apply(cloud, project, "m", "one", data={"x": "1", "y": "1"})
    cloud.api("PATCH", path_of(project, "m") + "?fieldManager=hand", {"data": {"z": "1"}}, content_type="application/merge-patch+json")
    with pytest.raises(ApiError) as e:
        apply(cloud, project, "m", "two", data={"x": "2", "y": "2", "z": "2"})
    assert len(e.value.body["details"]["causes"]) == 3
    assert "Apply failed with 3 conflicts: conflicts with \"one\":\n- .data.x\n- .data.y\nconflicts with \"hand\" using v1:\n- .data.z" == e.value.body["message"]


def test_equal_values_are_shared_and_stay_until_the_last_lets_go(cloud, project):
    apply(cloud, project, "s", "one", data={"x": "1", "only": "1"})
    shared = apply(cloud, project, "s", "two", data={"x": "1"})
    assert set(owners(shared)) == {("one", "Apply", ""), ("two", "Apply", "")}
    left = apply(cloud, project, "s", "one", data={"only": "1"})
    assert left["data"] == {"x": "1", "only": "1"}
    gone = apply(cloud, project, "s", "two", metadata={"labels": {"a": "b"}})
    assert gone["data"] == {"only": "1"} and gone["metadata"]["labels"] == {"a": "b"}


def test_updates_take_fields_over(cloud, project):
    apply(cloud, project, "u", "one", data={"x": "1", "y": "1"})
    patched = cloud.api("PATCH", path_of(project, "u") + "?fieldManager=hand", {"data": {"x": "2"}}, content_type="application/merge-patch+json")
    assert owners(patched) == {("one", "Apply", ""): {"f:data": {"f:y": {}}}, ("hand", "Update", ""): {"f:data": {"f:x": {}}}}
    with pytest.raises(ApiError) as e:
        apply(cloud, project, "u", "one", data={"x": "1", "y": "1"})
    assert 'conflict with "hand" using v1' in e.value.body["message"]
    # A field that its owner's next document leaves out, and that somebody else took, stays.
    kept = apply(cloud, project, "u", "one", data={"y": "1"})
    assert kept["data"] == {"x": "2", "y": "1"}


def test_the_creator_owns_what_it_sent(cloud, project):
    made = cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps?fieldManager=maker", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "o", "labels": {"l": "1"}}, "data": {"k": "v"}})
    assert owners(made) == {("maker", "Update", ""): {"f:data": {".": {}, "f:k": {}}, "f:metadata": {"f:labels": {".": {}, "f:l": {}}}}}
    by_agent = cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agent"}, "data": {"k": "v"}}, headers={"User-Agent": "robot/1.2 (linux)"})
    assert list(owners(by_agent)) == [("robot", "Update", "")]


def test_status_and_scale_are_owned_apart(cloud, project):
    apply(cloud, project, "e", "one", plural="modelendpoints", spec={"replicas": 0, "engine": {"driver": "fake"}})
    scaled = cloud.api("PATCH", path_of(project, "e", "modelendpoints") + "/scale?fieldManager=scaler", {"spec": {"replicas": 1}}, content_type="application/merge-patch+json")
    assert scaled["kind"] == "Scale" and scaled["spec"]["replicas"] == 1
    obj = cloud.get("modelendpoints", project, "e")
    assert owners(obj)[("scaler", "Update", "scale")] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in owners(obj)[("one", "Apply", "")]["f:spec"]
    assert not any("f:status" in fields for (_, _, sub), fields in owners(obj).items() if sub != "status")
    with pytest.raises(ApiError) as e:
        apply(cloud, project, "e", "one", plural="modelendpoints", spec={"replicas": 0, "engine": {"driver": "fake"}})
    assert 'conflict with "scaler" with subresource "scale"' in e.value.body["message"]
    back = cloud.api("PATCH", path_of(project, "e", "modelendpoints") + "/scale?fieldManager=one&force=true",
                     {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "e"}, "spec": {"replicas": 0}}, content_type=APPLY)
    assert back["spec"]["replicas"] == 0


def test_lists_by_key_merge_and_sets_join(cloud, project):
    owner = cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}})
    ref = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    apply(cloud, project, "l", "one", metadata={"finalizers": ["a.example/one"], "ownerReferences": [ref]})
    both = apply(cloud, project, "l", "two", metadata={"finalizers": ["b.example/two"]})
    assert both["metadata"]["finalizers"] == ["a.example/one", "b.example/two"] and len(both["metadata"]["ownerReferences"]) == 1
    key = 'k:{"uid":"%s"}' % ref["uid"]
    assert owners(both)[("one", "Apply", "")]["f:metadata"]["f:ownerReferences"].keys() == {key}
    assert owners(both)[("two", "Apply", "")]["f:metadata"]["f:finalizers"] == {'v:"b.example/two"': {}}
    less = apply(cloud, project, "l", "one", data={"k": "v"})
    assert less["metadata"]["finalizers"] == ["b.example/two"] and "ownerReferences" not in less["metadata"]
    apply(cloud, project, "l", "two", data={})


def test_apply_over_what_nobody_kept_book_of(cloud, project):
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}, "data": {"k": "v"}})
    cleared = cloud.api("PATCH", path_of(project, "b"), {"metadata": {"managedFields": [{}]}}, content_type="application/merge-patch+json")
    assert "managedFields" not in cleared["metadata"]
    applied = apply(cloud, project, "b", "one", data={"k": "v"})
    assert set(owners(applied)) == {("before-first-apply", "Update", ""), ("one", "Apply", "")}


def test_ten_updaters_are_kept_and_older_ones_joined(cloud, project):
    path = path_of(project, "t")
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps?fieldManager=m0", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "data": {"k0": "v"}})
    for i in range(1, 15):
        obj = cloud.api("PATCH", f"{path}?fieldManager=m{i}", {"data": {f"k{i}": "v"}}, content_type="application/merge-patch+json")
    names = [e["manager"] for e in obj["metadata"]["managedFields"]]
    assert len(names) == 10 and "ancient-changes" in names
    joined = owners(obj)[("ancient-changes", "Update", "")]["f:data"]
    assert len([k for k in joined if k != "."]) == 6


@pytest.mark.parametrize("query,body,status,text", [
    ("", {"data": {}}, 422, "fieldManager: Required value"),
    ("fieldManager=" + "x" * 129, {}, 422, "fieldManager: Too long"),
    ("fieldManager=a%0Ab", {}, 422, "printable"),
    ("fieldManager=m&force=maybe", {}, 400, "force"),
    ("fieldManager=m", {"data": {"k": 1}}, 400, ".data.k: expected string, got integer"),
    ("fieldManager=m", {"data": []}, 400, ".data: expected object, got array"),
    ("fieldManager=m", {"metadata": {"finalizers": ["a.b/c", "a.b/c"]}}, 400, "metadata.finalizers"),
    ("fieldManager=m", {"metadata": {"ownerReferences": [{"name": "x"}]}}, 400, "uid"),
    ("fieldManager=m", {"metadata": {"managedFields": []}}, 400, "managedFields must be nil"),
    ("fieldManager=m", {"metadata": {"name": "other"}}, 400, "does not match the name on the URL"),
    ("fieldManager=m", {"dat": {}}, 400, 'unknown field "dat"'),
    ("fieldManager=m", {"kind": "Secret"}, 400, "kind"),
    ("fieldManager=m", [], 400, "no object"),
    ("fieldManager=m", b"a: &x [*x]", 400, "anchor"),
    ("fieldManager=m", b"{", 400, ""),
])
def test_bad_apply_is_refused(cloud, project, query, body, status, text):
    if isinstance(body, dict):
        body = {"apiVersion": "v1", "kind": "ConfigMap", **body}
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", f"{path_of(project, 'bad')}?{query}", body, content_type=APPLY)
    assert e.value.status == status and text in e.value.body["message"], e.value.body
    with pytest.raises(ApiError) as e:
        cloud.api("GET", path_of(project, "bad"))
    assert e.value.status == 404


def test_dry_run_shows_and_stores_nothing(cloud, project):
    doc = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d"}, "data": {"k": "v"}}
    shown = cloud.api("PATCH", path_of(project, "d") + "?fieldManager=m&dryRun=All", doc, content_type=APPLY)
    assert shown["data"] == {"k": "v"} and owners(shown)
    with pytest.raises(ApiError):
        cloud.api("GET", path_of(project, "d"))


def test_yaml_is_applied(cloud, project):
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n  namespace: {project}\n  creationTimestamp: null\ndata:\n  k: |\n    two\n    lines\n".encode()
    made = cloud.api("PATCH", path_of(project, "y") + "?fieldManager=m", text, content_type=APPLY)
    assert made["data"]["k"] == "two\nlines\n"


# ---- strategic merge patch ----

def test_strategic_patch_merges_lists_by_their_rows(cloud, project):
    path = path_of(project, "sm")
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sm", "finalizers": ["a.b/1", "a.b/2"]}, "data": {"x": "1", "y": "1"}})
    out = cloud.api("PATCH", path, {"metadata": {"finalizers": ["a.b/3"], "$deleteFromPrimitiveList/finalizers": ["a.b/1"], "$setElementOrder/finalizers": ["a.b/3", "a.b/2"]},
                                    "data": {"x": None, "z": "1"}}, content_type=STRATEGIC)
    assert out["metadata"]["finalizers"] == ["a.b/3", "a.b/2"] and out["data"] == {"y": "1", "z": "1"}
    out = cloud.api("PATCH", path, {"data": {"$patch": "replace", "only": "1"}, "metadata": {"finalizers": None}}, content_type=STRATEGIC)
    assert out["data"] == {"only": "1"}
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", path, {"data": {"$patch": "explode"}}, content_type=STRATEGIC)
    assert e.value.status == 400 and "$patch" in e.value.body["message"]


def test_strategic_patch_is_not_for_our_kinds(cloud, project):
    cloud.create("modelendpoints", project, "e", {"replicas": 0, "engine": {"driver": "fake"}})
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", path_of(project, "e", "modelendpoints"), {"spec": {"replicas": 0}}, content_type=STRATEGIC)
    assert e.value.status == 415 and "strategic" not in e.value.body["message"]


# ---- kubectl ----

def config(name, ns, **data):
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": ns}, "data": data})


def test_kubectl_apply_twice(cloud, project):
    text = config("k", project, x="1", y="1")
    assert "created" in cloud.kubectl("apply", "-f", "-", input=text).stdout
    assert "unchanged" in cloud.kubectl("apply", "-f", "-", input=text).stdout
    assert "configured" in cloud.kubectl("apply", "-f", "-", input=config("k", project, x="2")).stdout
    assert cloud.api("GET", path_of(project, "k"))["data"] == {"x": "2"}


def test_kubectl_apply_of_our_kinds_twice(cloud, project):
    text = "apiVersion: seki.cloud/v1alpha1\nkind: ModelEndpoint\nmetadata: {name: e, namespace: %s}\nspec: {replicas: %d, engine: {driver: fake}}\n"
    assert "created" in cloud.kubectl("apply", "-f", "-", input=text % (project, 0)).stdout
    assert "unchanged" in cloud.kubectl("apply", "-f", "-", input=text % (project, 0)).stdout
    assert "configured" in cloud.kubectl("apply", "-f", "-", input=text % (project, 1)).stdout
    assert "deleted" in cloud.kubectl("delete", "-f", "-", input=text % (project, 1)).stdout


def test_kubectl_server_side_apply_with_two_managers(cloud, project):
    one = ("apply", "--server-side", "--field-manager=one", "-f", "-")
    two = ("apply", "--server-side", "--field-manager=two", "-f", "-")
    assert "serverside-applied" in cloud.kubectl(*one, input=config("k", project, x="1")).stdout
    refused = cloud.kubectl(*two, input=config("k", project, x="2"), check=False)
    assert refused.returncode == 1 and 'conflict with "one"' in refused.stderr and ".data.x" in refused.stderr
    cloud.kubectl(*two, "--force-conflicts", input=config("k", project, x="2"))
    shown = cloud.kubectl("-n", project, "get", "configmap", "k", "-o", "yaml", "--show-managed-fields").stdout
    assert "manager: two" in shown and "manager: one" not in shown


def test_kubectl_moves_from_client_side_to_server_side_apply(cloud, project):
    cloud.kubectl("apply", "-f", "-", input=config("k", project, x="1", y="1"))
    cloud.kubectl("apply", "--server-side", "-f", "-", input=config("k", project, x="2"))
    assert cloud.api("GET", path_of(project, "k"))["data"] == {"x": "2"}


def test_kubectl_diff_edit_label_annotate_set(cloud, project):
    cloud.kubectl("apply", "-f", "-", input=config("k", project, x="1"))
    diff = cloud.kubectl("diff", "-f", "-", input=config("k", project, x="2"), check=False)
    assert diff.returncode == 1 and "+  x: \"2\"" in diff.stdout, diff.stdout + diff.stderr
    diff = cloud.kubectl("diff", "--server-side", "-f", "-", input=config("k", project, x="2"), check=False)
    assert diff.returncode == 1 and "+  x: \"2\"" in diff.stdout, diff.stdout + diff.stderr
    cloud.kubectl("-n", project, "label", "configmap", "k", "a=b")
    cloud.kubectl("-n", project, "annotate", "configmap", "k", "n=m")
    script = cloud.dir / "edit.sh"
    script.write_text("#!/bin/sh\nsed -i 's/x: \"1\"/x: \"3\"/' \"$1\"\n")
    script.chmod(0o755)
    import os
    import subprocess
    from cloud import KUBECTL
    p = subprocess.run([KUBECTL, "-n", project, "edit", "configmap", "k"], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "KUBECONFIG": cloud.kubeconfig, "HOME": str(cloud.dir), "KUBE_EDITOR": str(script)})
    assert p.returncode == 0 and "edited" in p.stdout, p.stdout + p.stderr
    obj = cloud.api("GET", path_of(project, "k"))
    assert obj["data"] == {"x": "3"} and obj["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("kind,patch", [("strategic", '{"data":{"p":"1"}}'), ("merge", '{"data":{"p":"1"}}'), ("json", '[{"op":"add","path":"/data/p","value":"1"}]')])
def test_kubectl_patch_of_every_kind(cloud, project, kind, patch):
    cloud.kubectl("apply", "-f", "-", input=config("k", project, x="1"))
    cloud.kubectl("-n", project, "patch", "configmap", "k", f"--type={kind}", "-p", patch)
    assert cloud.api("GET", path_of(project, "k"))["data"] == {"x": "1", "p": "1"}


def test_kubectl_dry_run_server_and_replace(cloud, project):
    out = cloud.kubectl("apply", "--dry-run=server", "-f", "-", input=config("k", project, x="1")).stdout
    assert "created (server dry run)" in out
    cloud.kubectl("create", "-f", "-", input=config("k", project, x="1"))
    cloud.kubectl("replace", "-f", "-", input=config("k", project, x="5"))
    assert cloud.api("GET", path_of(project, "k"))["data"] == {"x": "5"}
