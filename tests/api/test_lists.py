"""Lists: which version they show, pages, selectors; with the words that Kubernetes has for what is wrong."""
import concurrent.futures
import json
import urllib.parse

import pytest

from cloud import GROUP
from raw import connection_to, get


def quoted(**query):
    return "?" + urllib.parse.urlencode(query)


def make(cloud, ns, name, **labels):
    return cloud.api("POST", f"/api/v1/namespaces/{ns}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}})


@pytest.fixture
def history(cloud, project):
    """Three objects; and the versions at which there were one, two and three, and then the first was gone."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    versions = [make(cloud, project, name)["metadata"]["resourceVersion"] for name in "abc"]
    cloud.api("DELETE", base + "/a")
    return base, versions


def names(answer):
    assert answer.status == 200, answer.body
    return "".join(o["metadata"]["name"] for o in answer.json()["items"])


# ---- versions ----

@pytest.mark.parametrize("match, version, limit, expected", [
    (None, None, None, "bc"), (None, None, 1, "b"),
    (None, "0", None, "bc"), (None, "0", 1, "b"),
    (None, 1, None, "bc"),                 # at least as new
    (None, 1, 1, "a"), (None, 1, 5, "ab"),  # with a limit: exactly, as it always was
    ("NotOlderThan", "0", None, "bc"), ("NotOlderThan", "0", 1, "b"), ("NotOlderThan", 1, None, "bc"), ("NotOlderThan", 1, 1, "b"),
    ("Exact", 0, None, "a"), ("Exact", 1, None, "ab"), ("Exact", 2, 2, "ab"), ("Exact", 2, None, "abc")])
def test_which_version_a_list_shows(cloud, history, match, version, limit, expected):
    base, versions = history
    wanted = versions[version] if isinstance(version, int) else version
    query = {k: v for k, v in {"resourceVersionMatch": match, "resourceVersion": wanted, "limit": limit}.items() if v is not None}
    answer = get(cloud, base + quoted(**query))
    assert names(answer) == expected
    shown = int(answer.json()["metadata"]["resourceVersion"])
    exact = match == "Exact" or (match is None and isinstance(version, int) and limit)
    assert shown == int(wanted) if exact else shown > int(versions[2])


@pytest.mark.parametrize("query, reason, text", [
    ({"resourceVersionMatch": "Exact"}, "FieldValueForbidden", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"),
    ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, "FieldValueForbidden", 'resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
    ({"resourceVersionMatch": "Exact", "resourceVersion": "5", "continue": "x"}, "FieldValueForbidden", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"),
    ({"resourceVersionMatch": "Odd", "resourceVersion": "5"}, "FieldValueNotSupported", 'resourceVersionMatch: Unsupported value: "Odd": supported values: "Exact", "NotOlderThan", ""'),
    ({"sendInitialEvents": "true"}, "FieldValueForbidden", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
    ({"watch": "1", "sendInitialEvents": "true"}, "FieldValueForbidden", "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
    ({"watch": "1", "resourceVersionMatch": "NotOlderThan"}, "FieldValueForbidden", "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
])
def test_options_that_do_not_fit_together(cloud, project, query, reason, text):
    answer = get(cloud, f"/api/v1/namespaces/{project}/configmaps{quoted(**query)}")
    status = answer.json()
    assert answer.status == 422 and status["reason"] == "Invalid" and status["message"] == f'ListOptions.meta.k8s.io "" is invalid: {text}'
    assert status["details"]["kind"] == "ListOptions" and status["details"]["group"] == "meta.k8s.io" and status["details"]["causes"][0]["reason"] == reason


@pytest.mark.parametrize("query", [{"limit": "many"}, {"resourceVersion": "new"}, {"resourceVersion": "-1"}, {"timeoutSeconds": "long", "watch": "1"}, {"continue": "!"}, {"continue": "MSBvdGhlci9uL2E="},
                                   {"continue": "", "resourceVersion": "99999999999999999999"}])
def test_options_that_are_no_values(cloud, project, query):
    answer = get(cloud, f"/api/v1/namespaces/{project}/configmaps{quoted(**query)}")
    assert answer.status == 400 and answer.json()["reason"] == "BadRequest"


@pytest.mark.parametrize("query", [{}, {"watch": "1"}, {"resourceVersionMatch": "Exact"}, {"resourceVersionMatch": "NotOlderThan"}])
def test_a_version_of_the_future_is_a_timeout(cloud, history, query):
    answer = get(cloud, history[0] + quoted(resourceVersion="999999999", **query))
    if query.get("watch"):
        query = {"watch": "1"}
    status = answer.json()
    assert answer.status == 504 and status["reason"] == "Timeout" and status["details"]["retryAfterSeconds"] == 1
    assert [c["reason"] for c in status["details"]["causes"]] == ["ResourceVersionTooLarge"]


# ---- pages ----

def test_pages_count_what_is_left(cloud, project):
    for i in range(7):
        make(cloud, project, f"p{i}", even=str(i % 2 == 0).lower())
    base = f"/api/v1/namespaces/{project}/configmaps"
    seen, left, token = [], [], ""
    while True:
        page = get(cloud, base + quoted(limit=3, **({"continue": token} if token else {}))).json()
        seen += [o["metadata"]["name"] for o in page["items"]]
        left.append(page["metadata"].get("remainingItemCount"))
        token = page["metadata"].get("continue")
        if not token:
            break
    assert seen == [f"p{i}" for i in range(7)] and left == [4, 1, None]
    for form, items in (("Table", "rows"), ("PartialObjectMetadataList", "items")):
        page = get(cloud, base + "?limit=3", accept=f"application/json;as={form};g=meta.k8s.io;v=v1").json()
        assert page["metadata"]["remainingItemCount"] == 4 and page["metadata"]["continue"] and len(page[items]) == 3
    chosen = get(cloud, base + quoted(limit=3, labelSelector="even=true")).json()
    assert [o["metadata"]["name"] for o in chosen["items"]] == ["p0", "p2", "p4"] and "remainingItemCount" not in chosen["metadata"]  # unknown, with a selector
    rest = get(cloud, base + quoted(limit=3, labelSelector="even=true", **{"continue": chosen["metadata"]["continue"]})).json()
    assert [o["metadata"]["name"] for o in rest["items"]] == ["p6"] and "continue" not in rest["metadata"]
    answer = get(cloud, base + quoted(limit=3, resourceVersion="5", **{"continue": chosen["metadata"]["continue"]}))
    assert answer.status == 400 and answer.json()["message"] == "specifying resource version is not allowed when using continue"
    assert get(cloud, base + quoted(limit=3, resourceVersion="0", **{"continue": chosen["metadata"]["continue"]})).status == 200
    assert len(get(cloud, base + "?limit=-1").json()["items"]) == 7


def test_a_token_is_for_its_list(cloud, project):
    for name in "ab":
        make(cloud, project, name)
    token = get(cloud, f"/api/v1/namespaces/{project}/configmaps?limit=1").json()["metadata"]["continue"]
    for path in ("/api/v1/namespaces/default/configmaps", f"/api/v1/namespaces/{project}/secrets", f"{GROUP}/models"):
        assert get(cloud, path + quoted(limit=1, **{"continue": token})).status == 400
    assert names(get(cloud, "/api/v1/configmaps" + quoted(limit=1, **{"continue": token}))) == "b"  # lies within that list too


# ---- selectors ----

@pytest.mark.parametrize("selector, expected", [
    ("", "abcd"), ("tier=gold", "a"), ("tier==gold", "a"), ("tier!=gold", "bcd"), ("tier in (gold, silver)", "ab"), ("tier notin (gold,silver)", "cd"), ("tier", "abc"), ("!tier", "d"),
    ("tier,zone", "bc"), ("tier=gold,zone", ""), (" tier = gold ", "a"), ("tier in ()", "c"), ("tier=", "c"), ("zone>1", "c"), ("zone<2", "b"), ("example.com/x=1", "d"), ("!tier,!zone", "d"),
    ("in in (in)", "d"), ("notin", ""), ("tier in (gold,)", "ac"), ("tier!=,zone", "b")])
def test_label_selectors(cloud, project, selector, expected):
    make(cloud, project, "a", tier="gold")
    make(cloud, project, "b", tier="silver", zone="1")
    make(cloud, project, "c", tier="", zone="2")
    make(cloud, project, "d", **{"example.com/x": "1", "in": "in"})
    assert names(get(cloud, f"/api/v1/namespaces/{project}/configmaps{quoted(labelSelector=selector)}")) == expected


@pytest.mark.parametrize("selector, message", [
    ("=x", "found '=', expected: !, identifier, or 'end of string'"), (",a", "found ',', expected: !, identifier, or 'end of string'"), ("a,", "found '', expected: identifier after ','"),
    ("a,,b", "found ',', expected: identifier after ','"), ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
    ("a in b", "unable to parse requirement: found 'b', expected: '('"), ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
    ("a=b c", "found 'c', expected: ',' or 'end of string'"), ("!", "unable to parse requirement: found '', expected: identifier"), ("a=(", "unable to parse requirement: found '(', expected: identifier"),
    ("a=-b", "unable to parse requirement: values[0][a]: Invalid value: \"-b\""), ("-a", "unable to parse requirement: key: Invalid value: \"-a\""), ("a>b", "unable to parse requirement: values[0][a]: Invalid value: \"b\""),
    (",".join(["a"] * 65), "a selector of more than 64 terms")])
def test_bad_label_selectors(cloud, project, selector, message):
    for query in ({}, {"watch": "1"}):
        answer = get(cloud, f"/api/v1/namespaces/{project}/configmaps{quoted(labelSelector=selector, **query)}")
        assert answer.status == 400 and answer.json()["reason"] == "BadRequest" and answer.json()["message"].startswith(message)


def test_field_selectors(cloud, project):
    for name in "ab":
        make(cloud, project, name)
    base = f"/api/v1/namespaces/{project}/configmaps"
    assert names(get(cloud, base + quoted(fieldSelector="metadata.name=a"))) == "a"
    assert names(get(cloud, base + quoted(fieldSelector="metadata.name!=a,metadata.name!=z"))) == "b"
    assert names(get(cloud, "/api/v1/configmaps" + quoted(fieldSelector=f"metadata.namespace={project},metadata.name==b"))) == "b"
    assert "default" in [o["metadata"]["name"] for o in get(cloud, "/api/v1/namespaces?fieldSelector=status.phase%3DActive").json()["items"]]
    assert get(cloud, "/api/v1/namespaces?fieldSelector=status.phase%21%3DActive").json()["items"] == []
    for plural in ("models", "modelendpoints", "apikeys"):
        assert get(cloud, f"{GROUP}/{plural}{quoted(fieldSelector='metadata.name=x')}").json()["items"] == []


@pytest.mark.parametrize("path, selector, message", [
    ("/api/v1/configmaps", "data.k=v", '"data.k" is not a known field selector: only "metadata.name", "metadata.namespace"'),
    ("/api/v1/secrets", "data.k=v", "field label not supported: data.k"), (f"{GROUP}/models", "spec.format=GGUF", "field label not supported: spec.format"),
    ("/api/v1/namespaces", "spec=1", "field label not supported: spec"), ("/api/v1/configmaps", "nothing", "invalid selector: 'nothing'; can't understand 'nothing'"),
    ("/api/v1/configmaps", "metadata.name=a=b", "invalid selector: 'metadata.name=a=b'; can't understand 'metadata.name=a=b'"), ("/api/v1/configmaps", "=a", "invalid selector: '=a'; can't understand '=a'")])
def test_bad_field_selectors(cloud, path, selector, message):
    answer = get(cloud, path + quoted(fieldSelector=selector))
    assert answer.status == 400 and answer.json()["reason"] == "BadRequest" and answer.json()["message"] == message


# ---- kubectl ----

def test_kubectl_lists(cloud, project):
    make(cloud, project, "b", tier="gold", project=project)
    make(cloud, project, "a", tier="silver", project=project)
    k = lambda *args: cloud.kubectl("get", "configmaps", *args).stdout  # noqa: E731
    head, *rows = k("-A").splitlines()
    assert head.split()[:2] == ["NAMESPACE", "NAME"] and [project, "a"] in [row.split()[:2] for row in rows]
    assert k("-A", "-l", f"tier in (gold,none),project={project}", "-o", "name").split() == ["configmap/b"]
    assert k("-n", project, "--field-selector", "metadata.name!=b", "-o", "name").split() == ["configmap/a"]
    assert k("-n", project, "--sort-by=.metadata.labels.tier", "--no-headers").split()[0] == "b"
    assert k("-n", project, "-L", "tier", "-o", "wide").splitlines()[0].split()[-1] == "TIER"
    assert k("-n", project, "--chunk-size=1", "-o", "name").split() == ["configmap/a", "configmap/b"]
    p = cloud.kubectl("get", "configmaps", "-A", "--field-selector", "data.x=1", check=False)
    assert p.returncode == 1 and "is not a known field selector" in p.stderr


def test_five_thousand_objects_in_pages(cloud):
    cloud.project("many")

    def make_some(start):
        connection = connection_to(cloud)
        for i in range(start, 5000, 8):
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i:04}", "labels": {"half": str(i % 2)}}}
            connection.request("POST", "/api/v1/namespaces/many/configmaps", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 201, answer.read()
            answer.read()
        connection.close()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(make_some, range(8)))
    p = cloud.kubectl("-n", "many", "get", "configmaps", "--chunk-size=500", "-o", "name", "-v=6")
    assert p.stdout.split() == [f"configmap/c{i:04}" for i in range(5000)]
    assert p.stderr.count("limit=500") >= 10
    assert len(cloud.kubectl("-n", "many", "get", "configmaps", "--chunk-size=500", "--no-headers").stdout.splitlines()) == 5000
    assert len(cloud.kubectl("-n", "many", "get", "configmaps", "-l", "half=1", "--chunk-size=500", "-o", "name").stdout.splitlines()) == 2500
