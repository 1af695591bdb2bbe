"""Routes and names beyond chat: rerank; several endpoints behind one name."""
import json
import urllib.error
import urllib.request

import pytest

from cloud import Cloud, wait_for
from wire import journal


@pytest.fixture(scope="module")
def demo():
    with Cloud() as c:
        c.project("demo", tenant="tenant-demo")
        c.create("modelendpoints", "demo", "ranker", {"engine": {"driver": "fake", "rerank": True, "options": {}}})
        c.fake_endpoint("demo", "writer", tokens=3)
        c.wait_condition("modelendpoints", "demo", "ranker")
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/writer", c.secret) == 200 and c.gateway_status("/models/ranker", c.secret) == 200, what="the models")
        yield c


def ask(c, path, body, key=None):
    """Status, document, headers."""
    request = urllib.request.Request(f"{c.base_url}/{path}", json.dumps(body).encode() if body else None, {"Authorization": f"Bearer {key or c.secret}", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as r:
            return r.status, json.load(r), r.headers
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read()), e.headers


def records(c):
    return journal(c.data / "ledger")


def record_after(c, count):
    wait_for(lambda: len(records(c)) > count, what="the record")
    return records(c)[-1]


# ---- rerank ----

def test_rerank_is_answered_and_metered(demo):
    old = len(records(demo))
    status, doc, _ = ask(demo, "rerank", {"model": "ranker", "query": "which is long", "documents": ["short", "one that is longer"], "top_n": 2})
    assert status == 200 and [r["index"] for r in sorted(doc["results"], key=lambda r: -r["relevance_score"])] == [1, 0]
    record = record_after(demo, old)
    assert record["route"] == "rerank" and record["endpoint"] == "ranker" and record["exact"] and (record["prompt_tokens"], record["completion_tokens"]) == (11, 0)


@pytest.mark.parametrize("path, body, says", [
    ("rerank", {"model": "writer", "query": "a", "documents": ["a"]}, "writes text"),
    ("chat/completions", {"model": "ranker", "messages": []}, "/v1/rerank"),
    ("embeddings", {"model": "ranker", "input": "a"}, "/v1/rerank"),
    ("rerank", {"model": "ranker", "query": "a"}, "documents")])
def test_rerank_refused(demo, path, body, says):
    status, doc, _ = ask(demo, path, body)
    assert status == 400 and says in doc["error"]["message"]


def test_an_endpoint_has_one_task(demo):
    with pytest.raises(Exception, match="engine.rerank"):
        demo.create("modelendpoints", "demo", "both", {"engine": {"driver": "fake", "rerank": True, "embeddings": True}})


# ---- several endpoints behind one name ----

def route(c, name, backends, ns="demo", **spec):
    return c.api("POST", f"/apis/seki.cloud/v1alpha1/namespaces/{ns}/modelroutes", {
        "apiVersion": "seki.cloud/v1alpha1", "kind": "ModelRoute", "metadata": {"name": name},
        "spec": {"backends": [{"endpoint": e, "weight": w} for e, w in backends.items()], **spec}})


def listed(c, key=None):
    return {m["id"] for m in ask(c, "models", None, key)[1]["data"]}


@pytest.fixture(scope="module")
def canary(demo):
    demo.fake_endpoint("demo", "writer-v2", tokens=5)
    route(demo, "gpt", {"writer": 1}, servedName="gpt-4o")  # an alias
    route(demo, "split", {"writer": 90, "writer-v2": 10, "none": 5})
    route(demo, "writer", {"writer-v2": 1})                 # in front of an endpoint, under its own name
    route(demo, "shared", {"writer": 1}, visibility="Everyone")
    wait_for(lambda: {"gpt-4o", "split", "shared"} <= listed(demo), what="the routes")
    demo.project("other", tenant="tenant-other")
    demo.other = demo.key("other")
    return demo


def chat(c, model, key=None):
    status, doc, _ = ask(c, "chat/completions", {"model": model, "messages": [{"role": "user", "content": "a b"}]}, key)
    return doc["usage"]["completion_tokens"] if status == 200 else (status, doc["error"]["message"])


def test_an_alias_is_billed_by_its_endpoint_under_the_name_asked_for(canary):
    old = len(records(canary))
    assert chat(canary, "gpt-4o") == 3
    record = record_after(canary, old)
    assert (record["endpoint"], record["model"], record["project"]) == ("writer", "gpt-4o", "demo")


def test_a_canary_gets_its_share(canary):
    made = [chat(canary, "split") for _ in range(100)]
    assert set(made) == {3, 5} and 1 <= made.count(5) <= 30  # 10 of 100; by chance outside once in 30,000 times


def test_a_route_goes_before_an_endpoint_of_its_name(canary):
    assert chat(canary, "writer") == 5 and listed(canary) == {"ranker", "writer", "writer-v2", "gpt-4o", "split", "shared"}


def test_who_sees_a_route_need_not_see_its_endpoints(canary):
    assert listed(canary, canary.other) == {"shared"}
    assert chat(canary, "shared", canary.other) == 3
    assert chat(canary, "split", canary.other)[0] == chat(canary, "writer", canary.other)[0] == 404


def test_a_key_for_some_names(canary):
    key = canary.key("demo", "narrow", endpoints=["split"])
    assert listed(canary, key) == {"split"} and chat(canary, "split", key) in (3, 5)
    assert chat(canary, "writer-v2", key)[0] == 404


def test_a_keys_names_are_its_own_projects(canary):
    """What another project calls its endpoints is nothing that the makers of the key know; who means those says whose they are."""
    bare, whole = canary.key("other", "bare", endpoints=["shared"]), canary.key("other", "whole", endpoints=["demo/shared", "demo/writer"])
    assert listed(canary, bare) == set() and chat(canary, "shared", bare)[0] == 404
    assert listed(canary, whole) == {"shared"} and chat(canary, "shared", whole) == 3 and chat(canary, "writer", whole)[0] == 404  # that one is not shared


def test_a_key_that_ended_with_the_epoch_has_ended(canary):
    key = canary.create("apikeys", "demo", "epoch", {"expiresAt": "1970-01-01T00:00:00Z"})["status"]["key"]
    canary.key("demo", "later")  # known after the other one
    status, doc, _ = ask(canary, "models", None, key)
    assert status == 401 and "expired" in doc["error"]["message"]


def test_conditions_say_what_is_missing(canary):
    def ready(name):
        obj = canary.api("GET", f"/apis/seki.cloud/v1alpha1/namespaces/demo/modelroutes/{name}")
        return next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == "Ready"), {})
    wait_for(lambda: ready("gpt").get("reason") == "Serving", what="an alias that serves")
    degraded = wait_for(lambda: ready("split").get("reason") == "Degraded" and ready("split"), what="a missing backend to be told")
    assert "2 of 3" in degraded["message"] and "none" in degraded["message"]
    route(canary, "empty", {"none": 1})
    wait_for(lambda: ready("empty").get("reason") == "BackendNotFound", what="the reason")
    wait_for(lambda: "empty" in listed(canary), what="the route")
    status, says = chat(canary, "empty")
    assert status == 503 and "empty" in says


@pytest.mark.parametrize("backends, field", [({}, "spec.backends"), ({"writer": 0}, "spec.backends"), ({"writer": -1}, "weight"), ({"No Name": 1}, "endpoint")], ids=str)
def test_bad_routes_are_refused(demo, backends, field):
    with pytest.raises(Exception, match=field):
        route(demo, "bad", backends)
