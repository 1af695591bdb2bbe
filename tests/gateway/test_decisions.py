"""The operator's log of decisions: which replicas were weighed for a request, with what score, and which got it."""
import json
import os
import stat

import pytest

from cloud import Cloud, wait_for
from wire import RawClient, Upstream, answer, post

PROMPT = "once upon a time " * 64


def lines(c, name="decisions-gateway.jsonl"):
    path = c.data / "log" / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ask(c, key, body):
    with RawClient(c.address("gateway")) as client:
        client.send(post(key, body))
        r = client.response()
    return r.status, r.headers.get("x-request-id")


def chat(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def line_of(c, request):
    return wait_for(lambda: next((x for x in lines(c) if x["request"] == request), None), what="the line")


@pytest.fixture(scope="module")
def pair():
    """Two replicas at two servers."""
    with Cloud(options={"gateway-threads": 1, "gateway-decision-log-per-million": 1000000, "gateway-decision-log-size": "64K"}) as c:
        c.engines = [Upstream(), Upstream()]
        c.project("demo", tenant="tenant-demo")
        c.create("modelendpoints", "demo", "m", {"replicas": 2, "engine": {"driver": "openai", "maxConcurrentRequests": 4}, "servers": [{"url": e.url} for e in c.engines]})
        c.wait_condition("modelendpoints", "demo", "m")
        wait_for(lambda: c.get("modelendpoints", "demo", "m")["status"].get("readyReplicas") == 2, what="both replicas")
        c.secret = c.key("demo", "key-of-demo")
        wait_for(lambda: c.gateway_status("/models/m", c.secret) == 200, what="the model")
        yield c
        for e in c.engines:
            e.stop()


def test_a_line_says_who_was_weighed_and_who_got_it(pair):
    first = line_of(pair, ask(pair, pair.secret, chat(PROMPT))[1])
    again = line_of(pair, ask(pair, pair.secret, chat(PROMPT))[1])
    for x in (first, again):
        assert (x["tenant"], x["project"], x["model"], x["endpoint"], x["route"], x["class"], x["rule"], x["outcome"], x["status"]) == \
            ("tenant-demo", "demo", "m", "m", "chat.completions", "interactive", None, "ok", 200)
        (sent,) = x["sent"]
        assert sent["why"] == "first" and {c["replica"] for c in sent["candidates"]} == {"m-0", "m-1"} and sorted(c["fate"] for c in sent["candidates"]) == ["chosen", "weighed"]
        assert {c["slots"] for c in sent["candidates"]} == {4} and sent["chosen"] == next(c["replica"] for c in sent["candidates"] if c["fate"] == "chosen")
    # What the first left in a cache has its weight in the second's choice.
    (sent,) = again["sent"]
    best, other = sorted(sent["candidates"], key=lambda c: -c["score"])
    assert sent["by"] == "prefix" and best["fate"] == "chosen" and best["cached"] > 0 == other["cached"] and best["replica"] == first["sent"][0]["chosen"]


def test_a_second_try_is_told(pair):
    for e in pair.engines:
        e.first[:] = []
    had = [len(e.requests) for e in pair.engines]
    home = line_of(pair, ask(pair, pair.secret, chat(PROMPT))[1])["sent"][0]["chosen"]
    next(e for e, n in zip(pair.engines, had) if len(e.requests) > n).first[:] = [[answer(b"{}", 502)]]
    x = line_of(pair, ask(pair, pair.secret, chat(PROMPT))[1])
    assert [s["why"] for s in x["sent"]] == ["first", "again"] and x["outcome"] == "ok"
    assert {c["replica"]: c["fate"] for c in x["sent"][1]["candidates"]} == {home: "tried", x["sent"][1]["chosen"]: "chosen"}


def test_who_is_refused_by_a_rule_has_a_line_with_it(pair):
    pair.create("residencypolicies", "demo", "only-moon", {"sites": ["moon"], "keys": ["far"]})
    far = pair.key("demo", "far")
    status, request = wait_for(lambda: (lambda r: r if r[0] == 403 else None)(ask(pair, far, chat("hi"))), what="the rule to hold")
    x = line_of(pair, request)
    assert x["rule"] == "ResidencyPolicy demo/only-moon" and x["sent"] == [] and x["outcome"] == "refused"


def test_neither_content_nor_keys_are_in_it_and_only_its_owner_reads_it(pair):
    request = ask(pair, pair.secret, chat("a secret of mine", user="who", n=1))[1]
    line_of(pair, request)
    path = pair.data / "log" / "decisions-gateway.jsonl"
    text = path.read_text()
    assert "secret of mine" not in text and pair.secret not in text and "key-of-demo" not in text and "once upon" not in text
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_its_size_is_bounded(pair):
    body = post(pair.secret, chat("hi"))
    with RawClient(pair.address("gateway")) as client:
        for _ in range(160):
            client.send(body)
            assert client.response().status == 200
    older = pair.data / "log" / "decisions-gateway.jsonl.1"
    wait_for(older.exists, what="a file to be put aside")
    assert older.stat().st_size <= 1 << 16 and (pair.data / "log" / "decisions-gateway.jsonl").stat().st_size <= 1 << 16
    assert all(x["outcome"] for x in lines(pair, older.name))
