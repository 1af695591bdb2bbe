"""Slow first tokens: a second replica is asked too, whoever writes first has the stream, and it is billed once."""
import concurrent.futures
import json

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream, journal, post

CHAT = {"model": "m", "messages": [{"role": "user", "content": "say it"}], "stream": True}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def stream(text):
    def event(doc):
        return b"data: " + json.dumps({"id": text, "created": 1, "model": "m", **doc}).encode() + b"\n\n"
    return [HEAD, event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}]}),
            event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}), event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}}), b"data: [DONE]\n\n", "close"]


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-threads": 1, "gateway-keepalive": "0"}) as c:
        c.upstream = Upstream()
        c.secret, c.sent = c.serve(c.upstream.url, replicas=2), 0
        c.upstream.script = stream("quick")
        wait_for(lambda: ask(c).status == 200, what="the gateway to know the model")
        for _ in range(119):  # it learns what is usual, and saves up
            assert ask(c).status == 200
        yield c
        c.upstream.stop()


@pytest.fixture
def engine(cloud):
    e = cloud.upstream
    e.go.clear()
    e.requests[:], e.closed = [], 0
    yield e
    e.first[:], e.script = [], stream("quick")


def ask(c):
    c.sent += 1
    with RawClient(c.address("gateway")) as client:
        client.send(post(c.secret, CHAT))
        return client.response()


def test_it_can_be_turned_off():
    """Nobody is asked twice, however late the first one is."""
    with Cloud(options={"gateway-threads": 1, "gateway-keepalive": "0", "gateway-hedging": "false"}) as c:
        c.upstream = Upstream()
        c.secret, c.sent = c.serve(c.upstream.url, replicas=2), 0
        c.upstream.script = stream("quick")
        for _ in range(119):
            assert ask(c).status == 200
        c.upstream.requests[:] = []
        c.upstream.first[:] = [["gap"] * 150 + stream("late")]
        check_whole(ask(c), "late")
        assert len(c.upstream.requests) == 1 and sum(hedges(c, r) for r in ("won", "lost", "failed")) == 0
        c.upstream.stop()


def hedges(c, result):
    return parse(c.metrics("metrics-gateway")).get(("seki_gateway_hedges_total", (("result", result),)), 0)


def last_record(c, count):
    def found():
        records = [r for r in journal(c.data / "ledger") if r["outcome"] == "ok"]
        return records[-1] if len(records) >= count else None
    return wait_for(found, what="the record")


def check_whole(got, text):
    assert got.status == 200 and got.body.count(b'"role"') == 1 and got.body.rstrip().endswith(b"data: [DONE]") and f'"content": "{text}"'.encode() in got.body
    assert got.body.count(f'"id": "{text}"'.encode()) == got.body.count(b'"id"')  # of one engine alone


def test_the_second_has_it_when_the_first_does_not_write(cloud, engine):
    before = hedges(cloud, "won")
    engine.first[:] = [["hold"], stream("second")]
    check_whole(ask(cloud), "second")
    wait_for(lambda: engine.closed == 1, what="the first one to be left")
    assert len(engine.requests) == 2 and hedges(cloud, "won") == before + 1
    record = last_record(cloud, cloud.sent)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (7, 1)  # billed once
    assert [e.get("loser", False) for e in record["engines"]] == [True, False] and len({e["replica"] for e in record["engines"]}) == 2
    assert record["replica"] in record["engines"][1]["replica"]


def test_the_first_has_it_when_it_writes_after_all(cloud, engine):
    def second(*_):
        engine.go.set()
        return [HEAD, b": not yet\n\n", "hold"]
    before = hedges(cloud, "lost")
    engine.first[:] = [["wait", *stream("first")], second]
    check_whole(ask(cloud), "first")
    wait_for(lambda: engine.closed == 1, what="the second one to be left")
    assert hedges(cloud, "lost") == before + 1
    record = last_record(cloud, cloud.sent)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (7, 1)
    assert sorted(e.get("loser", False) for e in record["engines"]) == [False, True]


def test_the_second_goes_on_when_the_first_fails(cloud, engine):
    def second(*_):
        engine.go.set()
        return [*["gap"] * 100, *stream("second")]
    engine.first[:] = [["wait", "reset"], second]
    check_whole(ask(cloud), "second")
    assert len(engine.requests) == 2  # no third one


def test_the_first_goes_on_when_the_second_fails(cloud, engine):
    def second(*_):
        engine.go.set()
        return ["reset"]
    before = hedges(cloud, "failed")
    engine.first[:] = [["wait", *["gap"] * 100, *stream("first")], second]
    check_whole(ask(cloud), "first")
    assert len(engine.requests) == 2 and hedges(cloud, "failed") == before + 1


def test_what_others_change_meanwhile_stands_in_nobodys_way():
    """The second place is looked for by the routes and rules of then."""
    with Cloud(options={"gateway-threads": 1, "gateway-keepalive": "0"}) as c:
        c.upstream, c.sent = Upstream(), 0
        c.secret = c.serve(c.upstream.url, replicas=2)
        c.upstream.script = stream("quick")
        wait_for(lambda: ask(c).status == 200, what="the gateway to know the model")
        c.upstream.script = ["gap"] * 200 + stream("usual")
        with concurrent.futures.ThreadPoolExecutor(30) as pool:  # late is who takes longer than these
            assert {r.status for r in pool.map(lambda _: ask(c), range(60))} == {200}

        def first(*_):
            other = c.key("demo", "other")
            wait_for(lambda: c.gateway_status("/models/m", other) == 200, what="the gateway to know the key")
            return ["hold"]
        c.upstream.first[:] = [first, stream("second")]
        check_whole(ask(c), "second")
        c.upstream.stop()


def test_no_more_than_one_of_twenty(cloud, engine):
    engine.script = ["gap"] * 150 + stream("slow")
    for _ in range(12):
        assert ask(cloud).status == 200
    made = sum(hedges(cloud, r) for r in ("won", "lost", "failed"))
    assert 5 <= made <= cloud.sent / 20
