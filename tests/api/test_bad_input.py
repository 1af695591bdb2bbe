"""Hostile and broken bodies end in a Status of 4xx that says why, store nothing, and leave the connection and everybody else in order."""
import json

import pytest

from cloud import GROUP
from raw import call, connection_to, get

HEAD = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"}'
ENDPOINT = b'{"apiVersion":"seki.cloud/v1alpha1","kind":"ModelEndpoint","metadata":{"name":"bad"},"spec":{"engine":{"driver":"fake"},"replicas":'
BODY_MAX = 3 * 1024 * 1024  # as Kubernetes has it

BODIES = [
    ("nothing", b"", 400, "BadRequest", "JSON"),
    ("no JSON", b"{", 400, "BadRequest", "JSON"),
    ("something behind it", HEAD + b"} {}", 400, "BadRequest", "end of file"),
    ("null", b"null", 400, "BadRequest", "object"),
    ("a list", b"[]", 400, "BadRequest", "object"),
    ("deep lists", b"[" * 100_000, 400, "BadRequest", "nested deeper"),
    ("deep objects", b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400, "BadRequest", "nested deeper"),
    ("deep where anything goes", HEAD + b',"data":{"k":' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}}", 400, "BadRequest", "nested deeper"),
    ("duplicate keys", HEAD + b',"data":{"k":"1","k":"2"}}', 400, "BadRequest", "duplicate"),
    ("duplicate names", b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"good","name":"bad"}}', 400, "BadRequest", "duplicate"),
    ("duplicates that differ by their escapes", HEAD + b',"data":{"a":"1","\\u0061":"2"}}', 400, "BadRequest", "duplicate"),
    ("bytes that are no UTF-8", HEAD + b',"data":{"k":"\xff\xfe"}}', 400, "BadRequest", "decode"),
    ("overlong UTF-8", HEAD + b',"data":{"k":"\xc0\xaf"}}', 400, "BadRequest", "decode"),
    ("half a surrogate", HEAD + b',"data":{"k":"\\ud800"}}', 400, "BadRequest", "Unicode"),
    ("a NUL", HEAD + b',"data":{"k":"\x00"}}', 400, "BadRequest", "NUL"),
    ("many members", HEAD + b',"data":{' + b",".join(b'"k%d":""' % i for i in range(100_000)) + b"}}", 422, "Invalid", "Too many"),
    ("a long name", b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"' + b"n" * 254 + b'"}}', 422, "Invalid", "metadata.name"),
    ("too large for an object", HEAD + b',"data":{"k":"' + b"x" * 2_000_000 + b'"}}', (413, 422), ("RequestEntityTooLarge", "Invalid"), ""),
    ("too large for a request", HEAD + b',"data":{"k":"' + b"x" * (BODY_MAX + 1000) + b'"}}', 413, "RequestEntityTooLarge", ""),
]
NUMBERS = [("1e400", 400, "overflow"), ("9" * 400, 400, "too big"), ("9223372036854775808", 400, "too big"), ("9223372036854775807", 422, "spec.replicas"), ("1.5", 422, "spec.replicas"),
           ("-1", 422, "spec.replicas"), ("1e-400", 422, "spec.replicas"), ("NaN", 400, "JSON"), ("0x10", 400, "JSON"), ("01", 400, "JSON"), ('"1"', 422, "spec.replicas"), ("true", 422, "spec.replicas")]


def one_of(value, wanted):
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def is_refused(answer, code, reason, text):
    status = answer.json()
    assert one_of(answer.status, code) and one_of(status["reason"], reason) and status["code"] == answer.status, (answer.status, answer.body[:500])
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure") and text in status["message"], status["message"][:500]
    if answer.status == 422:
        causes = status["details"]["causes"]
        assert causes and all({"reason", "message", "field"} == set(c) and c["reason"].startswith("FieldValue") for c in causes)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("what, body, code, reason, text", BODIES, ids=[b[0] for b in BODIES])
def test_bodies(cloud, project, method, what, body, code, reason, text):
    path = f"/api/v1/namespaces/{project}/configmaps"
    if method != "POST":
        cloud.api("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"kept": "1"}})
        path += "/bad"
    if (method, what) in (("PATCH", "null"), ("PATCH", "a long name"), ("PUT", "a long name")):
        code, reason, text = (400, 422), ("BadRequest", "Invalid"), ""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    is_refused(call(cloud, method, path, body, content_type=kind), code, reason, text)
    left = cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps")["items"]
    assert [o.get("data") for o in left] == ([] if method == "POST" else [{"kept": "1"}])


@pytest.mark.parametrize("number, code, text", NUMBERS, ids=[n[0][:20] for n in NUMBERS])
def test_numbers(cloud, project, number, code, text):
    answer = call(cloud, "POST", f"{GROUP}/namespaces/{project}/modelendpoints", ENDPOINT + number.encode() + b"}}", content_type="application/json")
    is_refused(answer, code, ("BadRequest", "Invalid"), text)
    assert cloud.api("GET", f"{GROUP}/namespaces/{project}/modelendpoints")["items"] == []


def test_the_connection_goes_on(cloud, project):
    """A body that was read and refused is no reason to end the connection."""
    connection = connection_to(cloud)
    path = f"/api/v1/namespaces/{project}/configmaps"
    for body in (b"[" * 1000, b"", HEAD + b',"data":{"k":"\xff"}}', HEAD + b"}"):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == (201 if body.endswith(b'"bad"}}') else 400), text
    connection.close()
    assert [o["metadata"]["name"] for o in cloud.api("GET", path)["items"]] == ["bad"]


@pytest.mark.parametrize("method, path, code, reason, details", [
    ("GET", "/api/v1/namespaces/{ns}/configmaps/none", 404, "NotFound", {"name": "none", "kind": "configmaps"}),
    ("GET", "/apis/seki.cloud/v1alpha1/namespaces/{ns}/models/none", 404, "NotFound", {"name": "none", "group": "seki.cloud", "kind": "models"}),
    ("DELETE", "/api/v1/namespaces/{ns}/configmaps/none", 404, "NotFound", {"name": "none", "kind": "configmaps"}),
    ("PUT", "/api/v1/namespaces/{ns}/configmaps", 405, "MethodNotAllowed", None),
    ("GET", "/apis/nobody.example/v1/things", 404, "NotFound", None)])
def test_what_is_not_there(cloud, project, method, path, code, reason, details):
    answer = call(cloud, method, path.format(ns=project), b"{}" if method == "PUT" else None, content_type="application/json")
    status = answer.json()
    assert (answer.status, status["code"], status["reason"]) == (code, code, reason)
    assert details is None or status["details"] == details
    if details:
        group = f".{details['group']}" if "group" in details else ""
        assert status["message"] == f'{details["kind"]}{group} "none" not found'


def test_everybody_else_is_served(cloud, project):
    for _ in range(50):
        call(cloud, "POST", f"/api/v1/namespaces/{project}/configmaps", b"[" * 100_000, content_type="application/json")
    assert get(cloud, f"/api/v1/namespaces/{project}/configmaps").status == 200
    assert json.loads(get(cloud, "/version").body)["major"] == "1"
