"""What one caller's bodies can hold: a place is taken at the head, and room for what is declared before it is read."""
import json
import re

import pytest

from cloud import Cloud, wait_for
from wire import RawClient, Upstream, ask_once, usage_answer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MIB = 1 << 20


@pytest.fixture(scope="module")
def small():
    with Cloud(options={"gateway-max-body": "1M", "gateway-bodies-bytes": "5M", "gateway-tenant-bodies-bytes": "3M"}) as c:
        c.upstream = Upstream()
        c.upstream.script = [usage_answer(1, 1)]
        c.project("demo")
        c.project("other", tenant="another")
        for project in ("demo", "other"):
            c.remote_endpoint(project, "m", c.upstream.url)
        yield c
        c.upstream.stop()


@pytest.fixture
def hold(small):
    """hold(secret, length) → a client whose body lacks its last byte; all leave at the end."""
    clients = []

    def begin(secret, length, headers="", sent=None):
        client = RawClient(small.address("gateway"))
        clients.append(client)
        kind = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        client.send(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n{kind}\r\n{headers}\r\n".encode())
        if sent:
            client.send(sent)
        return client
    yield begin
    for client in clients:
        client.close()
    wait_for(lambda: held(small) == 0, what="all room to be given back")
    assert re.search(r"^seki_gateway_requests_active 0$", small.metrics("metrics-gateway"), re.M)


def held(c):
    return int(float(re.search(r"^seki_gateway_body_bytes (\S+)$", c.metrics("metrics-gateway"), re.M).group(1)))


def test_a_place_is_taken_at_the_head(small, hold):
    secret = small.key("demo", "one", limits={"concurrentRequests": 1})
    assert ask_once(small.address("gateway"), secret, CHAT).status == 200  # it knows its share of the limit now: heads do not wait for that
    first = hold(secret, MIB)
    wait_for(lambda: held(small) == MIB, what="room for the first")
    refused = hold(secret, MIB).response()
    assert refused.status == 429 and "1 requests may run at the same time" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] and refused.headers["connection"] == "close"
    # Nobody is told to go on who will not be served.
    expecting = hold(secret, 100, headers="Expect: 100-continue\r\n").response()
    assert expecting.status == 429
    # What is short is skipped: the connection goes on.
    body = json.dumps(CHAT).encode()
    kept = hold(secret, len(body), sent=body)
    assert kept.response().status == 429
    kept.send(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
    assert kept.response().status == 200
    first.close()
    wait_for(lambda: ask_once(small.address("gateway"), secret, CHAT).status == 200, what="the place to be free")


def test_a_body_that_is_refused_gives_its_place_back(small, hold):
    secret = small.key("demo", "again", limits={"concurrentRequests": 1})
    for _ in range(3):
        assert hold(secret, MIB + 1).response().status == 413
        chunked = hold(secret, None, sent=b"%x\r\n" % (MIB + 1) + b"x" * (MIB + 1))
        assert chunked.response().status == 413
        assert hold(secret, None, sent=b"nonsense\r\n").response().status == 400
    wait_for(lambda: ask_once(small.address("gateway"), secret, CHAT).status == 200, what="the place to be free")


def test_a_tenant_has_room_for_so_many_bytes(small, hold):
    mine, theirs = small.key("demo", "room"), small.key("other", "room")
    second = small.key("demo", "room-two")
    clients = [hold(mine, MIB), hold(second, MIB)]
    clients.append(hold(mine, None, sent=b"fffff\r\n" + b"x" * 0xfffff))  # of unknown length: as it grows
    wait_for(lambda: held(small) == 3 * MIB, what="room for all")
    refused = hold(second, 5000).response()
    assert refused.status == 429 and refused.headers["retry-after"] == "1"
    error = refused.json()["error"]
    assert error["code"] == "rate_limit_exceeded" and "tenant `demo`" in error["message"] and str(3 * MIB) in error["message"]
    # Small ones go on, and those of others.
    assert ask_once(small.address("gateway"), mine, CHAT).status == 200
    long = {**CHAT, "user": "x" * 100000}
    assert ask_once(small.address("gateway"), mine, long).status == 429
    assert ask_once(small.address("gateway"), theirs, long).status == 200
    # All together have a bound, too.
    clients += [hold(theirs, MIB), hold(theirs, MIB)]
    wait_for(lambda: held(small) == 5 * MIB, what="room for all")
    full = hold(theirs, 5000).response()
    assert full.status == 503 and full.headers["retry-after"] == "1" and full.json()["error"]["code"] == "gateway_overloaded"
    clients[0].close()
    wait_for(lambda: ask_once(small.address("gateway"), theirs, long).status == 200, what="room")


def test_one_that_grows_beyond_the_room_is_refused(small, hold):
    secret = small.key("demo", "grows")
    hold(secret, MIB), hold(secret, MIB), hold(secret, MIB - 10000)
    wait_for(lambda: held(small) == 3 * MIB - 10000, what="room for three")
    growing = hold(secret, None, sent=b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    growing.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
    assert growing.response().status == 429
    assert growing.ended()

    def records():
        events = [json.loads(line) for line in small.seki("audit", "export", "--format", "json", str(small.data / "ledger")).stdout.splitlines()]
        return [e for e in events if e["type"] == "refused" and e.get("user") == "grows"]
    (record,) = wait_for(records, what="the record")
    assert record["status"] == 429 and record["rule"] == "RateLimit/tenant/body_bytes" and record["reason"] == "rate_limit_exceeded", record


def test_answers_that_are_held_whole_take_room(small, hold):
    """An engine may be a tenant's own, and his client need not read."""
    secret, theirs = small.key("demo", "answers"), small.key("other", "answers")
    body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%s"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}' % (b"x" * (2 * MIB))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    small.upstream.first = [[head + body[:MIB], "hold"], [head + body]]
    request = json.dumps(CHAT).encode()
    hold(secret, len(request), sent=request)
    wait_for(lambda: MIB <= held(small) < 3 * MIB, what="room for the first's answer")
    refused = hold(secret, len(request), sent=request).response()
    assert refused.status == 429 and "whole answers" in refused.json()["error"]["message"], refused
    assert ask_once(small.address("gateway"), theirs, CHAT).status == 200
    assert ask_once(small.address("gateway"), secret, CHAT).status == 200


@pytest.mark.parametrize("member,value,says", [
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string", "pattern": "^(((a{0,30}){0,30}){0,30})$"}}}, "repetitions within each other"),
    ("tools", [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)], "128 at most"),
    ("messages", [{"role": "user", "content": ""}] * 4097, "4096 at most"),
    ("json_schema", {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}, "$ref": "#/$defs/d0"}, "alternatives in one place"),
    ("top_logprobs", 200000, "100 at most"),
])
def test_what_would_hold_an_engine_up_is_refused(small, member, value, says):
    secret = small.key("demo", f"bound-{member.replace('_', '-')}")
    reached = len(small.upstream.requests)
    refused = ask_once(small.address("gateway"), secret, {**CHAT, member: value})
    error = refused.json()["error"]
    assert refused.status == 400 and error["param"] == member and error["code"] == "invalid_value" and says in error["message"], error
    assert len(small.upstream.requests) == reached
