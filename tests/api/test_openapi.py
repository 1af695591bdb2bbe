"""OpenAPI: the documents are valid, name what the API has, are cached by clients, and explain every kind."""
import json
import re
import urllib.parse

import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator, OpenAPIV30SpecValidator

from raw import get


@pytest.fixture(scope="module")
def documents(cloud):
    index = get(cloud, "/openapi/v3").json()["paths"]
    return {path: get(cloud, entry["serverRelativeURL"]).json() for path, entry in index.items()}


@pytest.fixture(scope="module")
def kinds(cloud):
    """(group, version, kind, plural, namespaced) of everything that discovery lists."""
    found = []
    for group, version in [("", "v1"), *((g["name"], v["version"]) for g in cloud.api("GET", "/apis")["groups"] for v in g["versions"])]:
        for r in cloud.api("GET", f"/apis/{group}/{version}" if group else f"/api/{version}")["resources"]:
            if "/" not in r["name"]:
                found.append((group, version, r["kind"], r["name"], r["namespaced"]))
    return found


def test_every_document_is_valid(cloud, documents):
    assert "api/v1" in documents and "apis/seki.cloud/v1alpha1" in documents
    for document in documents.values():
        OpenAPIV30SpecValidator(document).validate()
    OpenAPIV2SpecValidator(get(cloud, "/openapi/v2").json()).validate()


def test_index_covers_discovery(documents, kinds):
    assert set(documents) == {f"apis/{group}/{version}" if group else f"api/{version}" for group, version, *_ in kinds}


def test_urls_change_with_the_document_only(cloud):
    index = get(cloud, "/openapi/v3").json()["paths"]
    url = index["apis/seki.cloud/v1alpha1"]["serverRelativeURL"]
    answer = get(cloud, url)
    assert "immutable" in answer.headers["Cache-Control"] and answer.headers["ETag"].strip('"') == urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["hash"][0]
    moved = get(cloud, re.sub("hash=.*", "hash=OLD", url))
    assert moved.status == 301 and moved.headers["Location"] == url
    assert get(cloud, url, if_none_match=answer.headers["ETag"]).status == 304
    assert len({entry["serverRelativeURL"].split("hash=")[1] for entry in index.values()}) == len(index)
    assert "immutable" not in get(cloud, url.split("?")[0]).headers["Cache-Control"]


def test_unknown_documents_are_not_found(cloud):
    for path in ("/openapi/v3/apis/seki.cloud/v9", "/openapi/v3/nothing", "/openapi/v4", "/openapi/v2/x"):
        assert get(cloud, path).status == 404


@pytest.mark.parametrize("kind", ["Status", "DeleteOptions", "WatchEvent", "Table", "Scale"])
def test_types_of_the_wire_are_there(documents, kind):
    for document in documents.values():
        marks = [m["kind"] for s in document["components"]["schemas"].values() for m in s.get("x-kubernetes-group-version-kind", [])]
        assert marks.count(kind) == 1


def test_schemas_say_what_the_tables_say(documents):
    schemas = documents["apis/seki.cloud/v1alpha1"]["components"]["schemas"]
    endpoint = schemas["cloud.seki.v1alpha1.ModelEndpoint"]
    assert endpoint["x-kubernetes-group-version-kind"] == [{"group": "seki.cloud", "version": "v1alpha1", "kind": "ModelEndpoint"}]
    spec = endpoint["properties"]["spec"]["properties"]
    assert spec["replicas"] == {"type": "integer", "format": "int64", "description": spec["replicas"]["description"], "default": 1, "minimum": 0, "maximum": 1000}
    assert spec["visibility"]["enum"] == ["Project", "Tenants", "Everyone"] and spec["tenants"]["x-kubernetes-list-type"] == "set"
    conditions = endpoint["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"], conditions["x-kubernetes-patch-merge-key"]) == ("map", ["type"], "type")
    assert conditions["x-kubernetes-patch-strategy"] == "merge"
    meta = schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]
    assert meta["managedFields"]["items"] == {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"}
    assert meta["ownerReferences"]["x-kubernetes-list-map-keys"] == ["uid"]
    assert schemas["cloud.seki.v1alpha1.ModelEndpointList"]["properties"]["items"]["items"]["$ref"].endswith("v1alpha1.ModelEndpoint")


def test_paths_say_what_can_be_done(documents, kinds):
    actions = {"get": {"list", "get"}, "post": {"post"}, "put": {"put"}, "patch": {"patch"}, "delete": {"delete", "deletecollection"}}
    ids = []
    for group, version, kind, plural, namespaced in kinds:
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        document = documents[base.lstrip("/")]
        collection = f"{base}{'/namespaces/{namespace}' if namespaced else ''}/{plural}"
        if "get" not in document["paths"][collection]:  # answered, not stored
            assert set(document["paths"][collection]) == {"post", "parameters"} and collection + "/{name}" not in document["paths"]
            continue
        if kind == "CustomResourceDefinition":  # nobody writes it
            assert set(document["paths"][collection]) == set(document["paths"][collection + "/{name}"]) == {"get", "parameters"}
            continue
        assert set(document["paths"][collection]) == {"get", "post", "delete", "parameters"}
        assert set(document["paths"][collection + "/{name}"]) == {"get", "put", "patch", "delete", "parameters"}
        assert (f"{base}/{plural}" in document["paths"]) is True
        for path, item in document["paths"].items():
            if path.startswith(collection):
                for method, op in item.items():
                    if method != "parameters":
                        assert op["x-kubernetes-action"] in actions[method] and op["responses"]["default"]
        patch = document["paths"][collection + "/{name}"]["patch"]
        assert patch["x-kubernetes-group-version-kind"] == {"group": group, "version": version, "kind": kind}
        assert {"dryRun", "fieldManager", "fieldValidation", "force"} <= {p["name"] for p in patch["parameters"]}
        assert {"labelSelector", "limit", "continue", "watch"} <= {p["name"] for p in document["paths"][collection]["get"]["parameters"]}
    for document in documents.values():
        ids += [op["operationId"] for item in document["paths"].values() for method, op in item.items() if method != "parameters"]
    assert len(ids) == len(set(ids))


def test_v2_is_one_document_of_all(cloud, documents, kinds):
    v2 = get(cloud, "/openapi/v2").json()
    assert set(v2["paths"]) == {path for document in documents.values() for path in document["paths"]}
    marked = {(m["group"], m["version"], m["kind"]) for d in v2["definitions"].values() for m in d.get("x-kubernetes-group-version-kind", [])}
    assert {(group, version, kind) for group, version, kind, *_ in kinds} <= marked
    text = json.dumps(v2)
    assert "#/components/" not in text and "anyOf" not in text and "nullable" not in text


V2_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


def fields(data):
    """The top level of a protobuf message: (number, value) pairs."""
    at, found = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(data):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
        else:
            size = {1: lambda: 8, 2: varint}[key & 7]()
            found.append((key >> 3, data[at:at + size]))
            at += size
    assert at == len(data)
    return found


def test_v2_as_protobuf_has_the_same_definitions(cloud):
    answer = get(cloud, "/openapi/v2", accept=V2_PROTOBUF)
    assert answer.status == 200 and answer.headers["Content-Type"] == V2_PROTOBUF.replace("@", ".") and answer.headers["ETag"]
    document = fields(answer.body)
    assert document[0] == (1, b"2.0") and [n for n, _ in document] == [1, 2, 8, 9]
    names = [dict(fields(pair))[1].decode() for _, pair in fields(document[3][1])]
    paths = [dict(fields(pair))[1].decode() for _, pair in fields(document[2][1])]
    v2 = get(cloud, "/openapi/v2", accept=f"application/json, {V2_PROTOBUF};q=0.5").json()
    assert names == list(v2["definitions"]) and paths == list(v2["paths"])
    assert get(cloud, "/openapi/v2", accept=V2_PROTOBUF, if_none_match=answer.headers["ETag"]).status == 304
    assert get(cloud, "/openapi/v3/api/v1", accept=V2_PROTOBUF.replace("v2", "v3")).status == 406  # kubectl reads v3 as JSON


def test_client_go_reads_v2(cloud, kinds):
    for group, version, kind, plural, _ in kinds:
        text = cloud.kubectl("explain", plural, f"--api-version={group + '/' if group else ''}{version}", "--recursive", "--output=plaintext-openapiv2").stdout
        assert re.search(rf"KIND: +{kind}\n", text) and "ownerReferences" in text
    text = cloud.kubectl("explain", "mep.spec.replicas", "--output=plaintext-openapiv2").stdout
    assert "FIELD:    replicas <integer>" in text and "engines that should run" in text


def test_kubectl_explains_every_kind(cloud, kinds):
    for group, version, kind, plural, _ in kinds:
        args = ["explain", plural, f"--api-version={group + '/' if group else ''}{version}"]
        assert re.search(rf"KIND: +{kind}\n", cloud.kubectl(*args).stdout)
        everything = cloud.kubectl(*args, "--recursive").stdout
        assert "managedFields" in everything and "ownerReferences" in everything and "resourceVersion" in everything


def test_kubectl_explains_a_field(cloud):
    text = cloud.kubectl("explain", "mep.spec.visibility").stdout
    assert "ENUM:" in text and "Tenants" in text
    assert "GROUP:      seki.cloud" in text
    assert "uid" in cloud.kubectl("explain", "configmap.metadata.ownerReferences").stdout
    assert "does not exist" in cloud.kubectl("explain", "mep.spec.nonsense", check=False).stderr
