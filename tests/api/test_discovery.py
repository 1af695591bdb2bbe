"""Discovery: aggregated and one document a path, entity tags, and that kubectl asks twice only."""
import base64
import hashlib
import re

import pytest

from raw import get

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
CLIENT_GO = ",".join([AGGREGATED.format("v2"), AGGREGATED.format("v2beta1"), "application/json"])


def resources(document):
    return {(group["metadata"].get("name", ""), r["resource"]): r for group in document["items"] for version in group["versions"] for r in version["resources"]}


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_aggregated_discovery(cloud, version):
    core, groups = (get(cloud, path, accept=AGGREGATED.format(version)) for path in ("/api", "/apis"))
    for answer in (core, groups):
        assert answer.status == 200 and answer.headers["Content-Type"] == AGGREGATED.format(version)
        assert answer.headers["Vary"] == "Accept" and re.fullmatch(r'"\w{64}"', answer.headers["ETag"])
        document = answer.json()
        assert (document["kind"], document["apiVersion"]) == ("APIGroupDiscoveryList", f"apidiscovery.k8s.io/{version}")
    assert [group["metadata"].get("name") for group in core.json()["items"]] == [None]
    seen = resources(groups.json())
    assert {group for group, _ in seen} >= {"seki.cloud", "coordination.k8s.io", "rbac.authorization.k8s.io"} and ("", "configmaps") not in seen
    endpoint = seen["seki.cloud", "modelendpoints"]
    assert endpoint["scope"] == "Namespaced" and endpoint["singularResource"] == "modelendpoint" and endpoint["shortNames"] == ["mep"]
    assert endpoint["responseKind"] == {"group": "seki.cloud", "version": "v1alpha1", "kind": "ModelEndpoint"}
    parts = {p["subresource"]: p for p in endpoint["subresources"]}
    assert parts["status"]["responseKind"] == endpoint["responseKind"] and parts["status"]["verbs"] == ["get", "patch", "update"]
    assert parts["scale"]["responseKind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}
    assert resources(core.json())["", "namespaces"]["scope"] == "Cluster"


def test_aggregated_tells_what_the_single_documents_tell(cloud):
    for path in ("/api", "/apis"):
        for (group, name), r in resources(get(cloud, path, accept=CLIENT_GO).json()).items():
            base = f"/apis/{group}/{r['responseKind']['version']}" if group else "/api/v1"
            single = {s["name"]: s for s in get(cloud, base, accept="application/json").json()["resources"]}
            assert single[name]["kind"] == r["responseKind"]["kind"] and single[name]["verbs"] == r["verbs"]
            assert single[name]["namespaced"] == (r["scope"] == "Namespaced")
            assert {s.split("/")[1] for s in single if s.startswith(name + "/")} == {p["subresource"] for p in r.get("subresources", [])}


def test_not_modified_when_the_client_has_it(cloud):
    for accept in (AGGREGATED.format("v2"), AGGREGATED.format("v2beta1")):
        tag = get(cloud, "/apis", accept=accept).headers["ETag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = get(cloud, "/apis", accept=accept, if_none_match=known)
            assert again.status == 304 and again.body == b"" and again.headers["ETag"] == tag
        assert get(cloud, "/apis", accept=accept, if_none_match='"other"').status == 200
        assert get(cloud, "/api", accept=accept, if_none_match=tag).status == 200


@pytest.mark.parametrize("accept, aggregated", [
    (CLIENT_GO, True), ("application/json", False), ("*/*", False), (None, False), ("", False),
    ("application/json;q=0.5," + AGGREGATED.format("v2"), True), ("application/json," + AGGREGATED.format("v2") + ";q=0.9", False),
    (AGGREGATED.format("v9") + ",application/json", False), (AGGREGATED.format("v2").replace("application/json", "application/vnd.kubernetes.protobuf") + ",*/*", False)])
def test_the_best_clause_of_accept_wins(cloud, accept, aggregated):
    answer = get(cloud, "/apis", accept=accept)
    assert answer.status == 200 and answer.json()["kind"] == ("APIGroupDiscoveryList" if aggregated else "APIGroupList")


@pytest.mark.parametrize("accept", [AGGREGATED.format("v9"), "application/vnd.kubernetes.protobuf", "text/html", "application/json;q=0"])
def test_not_acceptable(cloud, accept):
    answer = get(cloud, "/apis", accept=accept)
    assert answer.status == 406 and answer.json()["reason"] == "NotAcceptable" and "application/json" in answer.json()["message"]


def test_storage_version_hash_is_kubernetes_own(cloud):
    core = {r["name"]: r for r in cloud.api("GET", "/api/v1")["resources"]}
    assert core["configmaps"]["storageVersionHash"] == "qFsyl6wFWjQ=" and core["namespaces"]["storageVersionHash"] == "Q3oi5N2YM8M="
    ours = {r["name"]: r for r in cloud.api("GET", "/apis/seki.cloud/v1alpha1")["resources"]}
    assert ours["models"]["storageVersionHash"] == base64.b64encode(hashlib.sha256(b"seki.cloud/v1alpha1/Model").digest()[:8]).decode()
    assert "storageVersionHash" not in ours["models/status"]
    assert ours["modelendpoints/scale"] == {"name": "modelendpoints/scale", "singularName": "", "namespaced": True, "group": "autoscaling", "version": "v1", "kind": "Scale",
                                            "verbs": ["get", "patch", "update"]}
    assert "group" not in ours["models/status"] and ours["models/status"]["kind"] == "Model"


def test_kubectl_asks_for_two_documents(cloud):
    """With aggregated discovery a client needs /api and /apis, and nothing per group."""
    asked = re.findall(r"GET https://\S+?(/\S*)", cloud.kubectl("api-resources", "-v=6", "--cached=false").stderr)
    paths = [path.split("?")[0] for path in asked]
    assert sorted(set(paths)) == ["/api", "/apis"]
