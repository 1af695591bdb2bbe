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
