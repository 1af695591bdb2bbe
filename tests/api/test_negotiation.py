"""What goes over the wire: metadata alone, tables, YAML, compression, indentation, and what is refused."""
import gzip
import json
import subprocess

import pytest

from cloud import GROUP
from raw import call, connection_to, get

AS = "application/json;as={};g=meta.k8s.io;v={}"
PROTOBUF = "application/vnd.kubernetes.protobuf"


@pytest.fixture
def maps(cloud, project):
    base = f"/api/v1/namespaces/{project}/configmaps"
    for name in ("a", "b"):
        cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": name}}, "data": {"k": "v"}})
    return base


# ---- metadata alone ----

@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_metadata_alone(cloud, maps, version):
    one = get(cloud, maps + "/a", accept=AS.format("PartialObjectMetadata", version)).json()
    assert (one["kind"], one["apiVersion"]) == ("PartialObjectMetadata", f"meta.k8s.io/{version}")
    assert one["metadata"]["labels"] == {"l": "a"} and one["metadata"]["resourceVersion"] and "data" not in one
    many = get(cloud, maps + "?limit=1", accept=AS.format("PartialObjectMetadataList", version)).json()
    assert (many["kind"], many["apiVersion"]) == ("PartialObjectMetadataList", f"meta.k8s.io/{version}")
    assert many["items"][0]["kind"] == "PartialObjectMetadata" and many["items"][0]["metadata"]["name"] == "a" and "data" not in many["items"][0]
    assert many["metadata"]["resourceVersion"] and many["metadata"]["continue"]


def test_metadata_client_of_client_go(cloud, maps):
    """It asks for protobuf first, as all of client-go's typed and metadata clients do."""
    accept = AS.format("PartialObjectMetadataList", "v1").replace("application/json", PROTOBUF) + "," + AS.format("PartialObjectMetadataList", "v1") + ",application/json"
    answer = get(cloud, maps, accept=accept)
    assert answer.headers["Content-Type"] == "application/json" and answer.json()["kind"] == "PartialObjectMetadataList"
    made = call(cloud, "PATCH", maps + "/a", {"metadata": {"labels": {"x": "y"}}}, content_type="application/merge-patch+json", accept=AS.format("PartialObjectMetadata", "v1"))
    assert made.json()["kind"] == "PartialObjectMetadata" and made.json()["metadata"]["labels"] == {"l": "a", "x": "y"}


def test_watch_of_metadata(cloud, maps):
    answer = get(cloud, maps + "?watch=1&timeoutSeconds=1&resourceVersion=0", accept=AS.format("PartialObjectMetadata", "v1"))
    events = [json.loads(line) for line in answer.body.splitlines()]
    assert [(e["type"], e["object"]["kind"], e["object"]["metadata"]["name"]) for e in events] == [("ADDED", "PartialObjectMetadata", "a"), ("ADDED", "PartialObjectMetadata", "b")]
    answer = get(cloud, maps + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                 accept=AS.format("PartialObjectMetadata", "v1"))
    last = json.loads(answer.body.splitlines()[-1])
    assert last["type"] == "BOOKMARK" and last["object"]["kind"] == "PartialObjectMetadata"
    assert last["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


@pytest.mark.parametrize("path, kind", [("/a", "PartialObjectMetadataList"), ("", "PartialObjectMetadata")])
def test_one_is_no_list(cloud, maps, path, kind):
    answer = get(cloud, maps + path, accept=AS.format(kind, "v1"))
    assert answer.status == 406 and answer.json()["reason"] == "NotAcceptable" and kind in answer.json()["message"]


# ---- tables ----

@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("include, kind", [(None, "PartialObjectMetadata"), ("Metadata", "PartialObjectMetadata"), ("Object", "ConfigMap"), ("None", None)])
def test_tables(cloud, maps, version, include, kind):
    for path in (maps, maps + "/a", maps + "?limit=1"):
        query = ("&" if "?" in path else "?") + f"includeObject={include}" if include else ""
        table = get(cloud, path + query, accept=AS.format("Table", version)).json()
        assert (table["kind"], table["apiVersion"]) == ("Table", f"meta.k8s.io/{version}")
        assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Data", "Age"]
        row = table["rows"][0]
        assert row["cells"][:2] == ["a", 1] and (row["object"] is None if kind is None else row["object"]["kind"] == kind)
        if kind == "PartialObjectMetadata":
            assert row["object"]["apiVersion"] == f"meta.k8s.io/{version}"


def test_includeobject_has_three_values(cloud, maps):
    answer = get(cloud, maps + "?includeObject=Everything", accept=AS.format("Table", "v1"))
    assert answer.status == 400 and answer.json()["reason"] == "BadRequest" and "includeObject" in answer.json()["message"]


def test_watch_of_tables_has_columns_once(cloud, maps):
    answer = get(cloud, maps + "?watch=1&timeoutSeconds=1&resourceVersion=0&includeObject=None", accept=AS.format("Table", "v1"))
    tables = [json.loads(line)["object"] for line in answer.body.splitlines()]
    assert [len(t["columnDefinitions"]) for t in tables] == [3, 0] and all(t["rows"][0]["object"] is None for t in tables)


# ---- forms ----

def test_protobuf_falls_back_or_is_refused(cloud, maps):
    assert get(cloud, maps, accept=f"{PROTOBUF},application/json").headers["Content-Type"] == "application/json"
    refused = get(cloud, maps, accept=PROTOBUF)
    assert refused.status == 406 and refused.headers["Content-Type"] == "application/json"
    status = refused.json()
    assert (status["kind"], status["status"], status["reason"], status["code"]) == ("Status", "Failure", "NotAcceptable", 406)
    assert status["message"].startswith("only the following media types are accepted: application/json, application/yaml")
    models = maps.replace("/api/v1/", "/apis/seki.cloud/v1alpha1/").replace("configmaps", "models")
    for method, path, status in (("POST", maps, 400), ("PUT", maps + "/a", 400), ("PATCH", maps + "/a", 415), ("DELETE", maps + "/a", 400), ("POST", models, 415)):
        refused = call(cloud, method, path, b"k8s\0...", content_type=PROTOBUF, accept=f"{PROTOBUF},application/json")
        assert refused.status == status and refused.json()["reason"] == {400: "BadRequest", 415: "UnsupportedMediaType"}[status], (method, path)


def test_yaml_both_ways(cloud, maps, tmp_path):
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  no: \"0123\"\n  lines: |\n    one\n    two\n  yes: 'true'\n"
    made = call(cloud, "POST", maps, text, content_type="application/yaml", accept="application/yaml")
    assert made.status == 201 and made.headers["Content-Type"] == "application/yaml" and b"kind: ConfigMap" in made.body
    data = {"no": "0123", "lines": "one\ntwo\n", "yes": "true"}
    assert cloud.api("GET", maps + "/y")["data"] == data
    again = call(cloud, "PUT", maps + "/y", get(cloud, maps + "/y", accept="application/yaml").body.replace(b"0123", b"0124"), content_type="application/yaml")
    assert again.status == 200 and again.json()["data"] == {**data, "no": "0124"}
    # another reader of YAML understands it the same way
    for path in (maps + "/y", maps, "/apis", f"{GROUP}", maps + "/nothing"):
        answer = get(cloud, path, accept="application/yaml")
        assert answer.headers["Content-Type"] == "application/yaml"
        (tmp_path / "answer.yaml").write_bytes(answer.body)
        if path == maps + "/y":
            p = cloud.kubectl("create", "--dry-run=client", "-o", "json", "-f", str(tmp_path / "answer.yaml"))
            assert json.loads(p.stdout)["data"] == {**data, "no": "0124"}
    assert b"reason: NotFound" in answer.body


def test_null_is_absence(cloud, project):
    base = f"/api/v1/namespaces/{project}/secrets"
    made = cloud.api("POST", base, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": None, "stringData": None, "immutable": None})
    assert not {"data", "stringData", "immutable"} & set(made) and made["type"] == "Opaque"
    assert "immutable" not in cloud.api("PUT", base + "/s", {**made, "immutable": None})


def test_yaml_is_no_stream(cloud, maps):
    assert get(cloud, maps + "?watch=1&timeoutSeconds=1", accept="application/yaml").status == 406


@pytest.mark.parametrize("text", [b"a: &x 1\nb: *x\n", b"a: [", b"- 1\n", b"a: 1\na: 2\n", b"--- {}\n--- {}\n", b"\xff"])
def test_bad_yaml(cloud, maps, text):
    answer = call(cloud, "POST", maps, text, content_type="application/yaml")
    assert answer.status == 400 and answer.json()["reason"] == "BadRequest"


@pytest.mark.parametrize("query, agent, lines", [("", "kubectl/v1", 1), ("?pretty=true", "kubectl/v1", 5), ("?pretty=1", None, 5), ("?pretty=false", "curl/8", 1), ("", "curl/8.1", 5), ("", "Mozilla/5.0 (X)", 5)])
def test_pretty(cloud, maps, query, agent, lines):
    for path in (maps + "/a", maps, "/apis", maps + "/none"):
        answer = get(cloud, path + query, user_agent=agent)
        assert (len(answer.body.splitlines()) >= 5) == (lines == 5)
        assert answer.json()["kind"]


# ---- compression ----

@pytest.fixture(scope="module")
def big(cloud):
    cloud.project("big")
    base = "/api/v1/namespaces/big/configmaps"
    cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"k": "many bytes " * 20000}})
    cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "small"}, "data": {"k": "many bytes " * 1000}})
    return base


@pytest.mark.parametrize("coding, packed", [("gzip", True), ("deflate, gzip;q=0.5", True), ("*", True), ("identity", False), ("gzip;q=0", False), ("gzip;q=0.0,*", False), (None, False), ("", False)])
def test_large_answers_are_compressed_for_who_takes_it(cloud, big, coding, packed):
    plain = get(cloud, big + "/large", accept_encoding="identity")
    answer = get(cloud, big + "/large", accept_encoding=coding)
    assert answer.headers["Content-Encoding"] == ("gzip" if packed else None) and "Content-Encoding" not in plain.headers
    assert (gzip.decompress(answer.body) if packed else answer.body) == plain.body
    if packed:
        assert answer.headers["Vary"] == "Accept-Encoding" and len(answer.body) < len(plain.body) / 10
        assert int(answer.headers["Content-Length"]) == len(answer.body)


def test_small_answers_are_not_compressed(cloud, big):
    assert "Content-Encoding" not in get(cloud, big + "/small", accept_encoding="gzip").headers


def test_compressed_answers_leave_the_connection_in_step(cloud, big):
    connection = connection_to(cloud)
    seen = []
    for name in ("large", "small", "large"):
        connection.request("GET", f"{big}/{name}", headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        body = response.read()
        seen.append(json.loads(gzip.decompress(body) if response.headers["Content-Encoding"] else body)["metadata"]["name"])
    connection.close()
    assert seen == ["large", "small", "large"]


def test_curl_unpacks_it(cloud, big):
    pki = cloud.data / "pki"
    p = subprocess.run(["curl", "-sS", "--compressed", "--cacert", pki / "ca.crt", "--cert", pki / "admin.crt", "--key", pki / "admin.key", cloud.api_url + big], capture_output=True, timeout=60, check=True)
    assert len(json.loads(p.stdout)["items"]) == 2
