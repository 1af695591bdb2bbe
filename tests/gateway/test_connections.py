"""Clients that are slow, many, or gone."""
import json
import re
import socket
import time

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream

CAP = 12


@pytest.fixture(scope="module")
def small():
    """A gateway with short patience and few places."""
    with Cloud(options={"gateway-head-timeout": "500ms", "gateway-body-timeout": "500ms", "gateway-max-connections": CAP, "gateway-threads": 1}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=3)
        c.secret = c.key("demo")
        yield c


def head(c, path, length=None, extra=""):
    method = "GET" if length is None else "POST"
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return f"{method} /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\n{size}{extra}\r\n".encode()


def chat(model, **more):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **more}).encode()


def check_refusal(response, status):
    assert response.status == status and response.headers["connection"] == "close"
    assert response.json()["error"]["type"] == "invalid_request_error"


def refusals(c, status):
    samples = parse(c.metrics("metrics-gateway"))
    return sum(v for (n, labels), v in samples.items() if n == "seki_gateway_requests_total" and {("route", "none"), ("status", str(status))} <= set(labels))


def test_slow_loris_on_the_head(small):
    """A byte now and then buys no time."""
    before = refusals(small, 408)
    with RawClient(small.address("gateway")) as client:
        client.sock.settimeout(0.05)
        client.send(b"GET /v1/mod")
        for i in range(1000):
            client.send(b"x")
            try:
                if client._more():
                    break
            except TimeoutError:
                pass
        client.sock.settimeout(20)
        check_refusal(client.response(), 408)
        assert client.ended()
    assert refusals(small, 408) == before + 1


def test_slow_loris_on_the_body(small):
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, "chat/completions", 1000) + b"{")
        check_refusal(client.response(), 408)
        assert client.ended()


@pytest.mark.parametrize("path", ["messages", "messages/"])
@pytest.mark.parametrize("length, status, kind", [(1000, 408, "invalid_request_error"), (1 << 30, 413, "request_too_large")])
def test_whoever_sends_a_message_is_refused_in_its_shape(small, path, length, status, kind):
    """Also by what is refused before there is a request."""
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, path, length) + b"{")
        got = client.response()
    doc = got.json()
    assert got.status == status and doc["type"] == "error" and doc["error"]["type"] == kind and doc["request_id"] == got.headers["x-request-id"]


@pytest.mark.parametrize("path", ["models", "models/", "models/fake", "models/fake/", "residency/fake", "residency/fake/"])
def test_a_slash_at_the_end_is_nothing(small, path):
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, path))
        got = client.response()
    assert got.status == 200 and b"fake" in got.body


def test_who_lives_says_so(small):
    with RawClient(small.address("gateway")) as client:
        for path in "livez", "livez/", "readyz", "readyz/":
            client.send(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.response().body == b"ok\n"
        client.send(b"GET /livez/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().status == 404


def test_slow_loris_does_not_hold_up_others(small):
    lame = [RawClient(small.address("gateway")) for _ in range(CAP // 2)]
    for client in lame:
        client.send(b"GET /v1/models HTTP/1.1\r\nX: ")
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, "models"))
        assert client.response().status == 200
    for client in lame:
        check_refusal(client.response(), 408)
        client.close()


def test_connections_over_the_cap(small):
    """One too many is told so; when one leaves there is room again."""
    def full():
        clients.append(RawClient(small.address("gateway")))
        clients[-1].send(head(small, "models"))
        try:
            return clients[-1].response().status == 503
        except EOFError:
            return True  # the word may be lost when the connection closes on what the client still says
    clients = []
    try:
        wait_for(full, what="the cap")
        assert len(clients) <= CAP + 1
        clients[0].send(head(small, "models"))
        assert clients[0].response().status == 200, "who has a place keeps it"
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: small.gateway_status("/models", small.secret) == 200, what="room")


def test_keep_alive_and_pipelining(small):
    """Many requests on one connection, one after the other and all at once, answered in order; streams and errors among them."""
    with RawClient(small.address("gateway")) as client:
        for _ in range(3):
            client.send(head(small, "models"))
            assert client.response().json()["data"][0]["id"] == "fake"
        body, stream, wrong = chat("fake"), chat("fake", stream=True), chat("nope")
        client.send(b"".join(head(small, "chat/completions", len(b)) + b for b in (body, stream, wrong, body)) + head(small, "models"))
        answers = [client.response() for _ in range(5)]
        assert [a.status for a in answers] == [200, 200, 404, 200, 200]
        assert answers[1].body.endswith(b"data: [DONE]\n\n") and answers[4].json()["object"] == "list"
        ids = [a.headers["x-request-id"] for a in answers]
        assert len(set(ids)) == 5


def test_expect_continue(small):
    body = chat("fake")
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, "chat/completions", len(body), "Expect: 100-continue\r\n"))
        assert client.response().status == 100
        client.send(body)
        assert client.response().status == 200
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, "chat/completions", len(body), "Expect: 100-continue\r\n").replace(small.secret.encode(), b"wrong"))
        assert client.response().status == 401, "no body is asked for that nobody reads"


# ---- who goes away ----

TICK_MS = 100


@pytest.fixture(scope="module")
def watched():
    with Cloud(options={"gateway-threads": 2}) as c:
        c.project("demo")
        for name, options in (("silent", dict(first_token_delay_ms=600000)), ("slow", dict(tokens=100000, tokens_per_second=20)), ("fast", dict(tokens=100000000))):
            c.fake_endpoint("demo", name, tick_ms=TICK_MS, event_log=c.dir / f"{name}.events", **options)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/fast", c.secret) == 200 and c.gateway_status("/models/silent", c.secret) == 200, what="the models")
        yield c


def events(c, name):
    """(nanoseconds, event, request) in order."""
    lines = [line.split() for line in (c.dir / f"{name}.events").read_text().splitlines()]
    return [(int(t), what, int(n)) for t, what, n in lines]


@pytest.mark.parametrize("model,stream,seen", [("silent", False, None), ("silent", True, None), ("slow", True, b"tok2"), ("slow", False, None), ("fast", True, b"tok100")])
def test_a_client_that_leaves_takes_its_request_along(watched, model, stream, seen):
    """The engine's connection closes within 100 ms: between the client's leaving and the engine's noticing its clock ticks once at the most."""
    body = chat(model, stream=stream)
    before = sum(what == "request" for _, what, _ in events(watched, model))
    client = RawClient(watched.address("gateway"))
    client.send(head(watched, "chat/completions", len(body)) + body)
    wait_for(lambda: sum(what == "request" for _, what, _ in events(watched, model)) > before, what="the request at the engine")
    if seen:
        client.read_until(seen)
    left = time.monotonic_ns()
    client.close()
    number = before + 1

    def closed():
        return [t for t, what, n in events(watched, model) if what == "client_closed" and n == number]
    noticed = wait_for(closed, what="the engine to notice")[0]
    ticks = [t for t, what, _ in events(watched, model) if what == "tick" and left < t < noticed]
    assert len(ticks) <= 1, f"{len(ticks)} ticks of {TICK_MS} ms, {(noticed - left) / 1e6:.0f} ms"
    wait_for(lambda: "seki_gateway_requests_active 0\n" in watched.metrics("metrics-gateway"), what="the request to be settled")


def test_a_client_that_stops_reading_holds_the_engine_back(watched):
    """Bytes do not pile up in the gateway: the engine is not read while the client does not read."""
    upstream, pieces = Upstream(), 1000
    piece = b'data: {"choices":[{"delta":{"content":"' + b"x" * 65000 + b'"}}]}\n\n'
    upstream.script = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n", *[piece] * pieces, b"data: [DONE]\n\n", "close"]
    watched.create("modelendpoints", "demo", "flood", {"engine": {"driver": "openai", "url": upstream.url}})
    wait_for(lambda: watched.gateway_status("/models/flood", watched.secret) == 200, what="the model")
    watched.wait_condition("modelendpoints", "demo", "flood")
    body = chat("flood", stream=True)
    with RawClient(watched.address("gateway")) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(head(watched, "chat/completions", len(body)) + body)
        assert client.read_head()[0] == 200
        standing = []

        def stands():
            standing.append(upstream.played)
            return len(standing) > 20 and standing[-20] == standing[-1] > 0
        wait_for(stands, what="the engine to be held back")
        assert upstream.played < pieces * 3 / 4
        size = 0
        while chunk := client.read_chunk():
            size += len(chunk)
        assert size == len(piece) * pieces + len(b"data: [DONE]\n\n")
    upstream.stop()


# ---- what is measured ----

def test_metrics_follow_the_conventions(small):
    """Names, units, types: Prometheus' own, and OpenTelemetry's for generative AI where they exist."""
    body = chat("fake", stream=True)
    with RawClient(small.address("gateway")) as client:
        client.send(head(small, "chat/completions", len(body)) + body)
        assert client.response().status == 200
    samples = parse(small.metrics("metrics-gateway"))
    names = {n for n, _ in samples}
    labels = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "fake", "error_type": ""}
    for name in ("gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"):
        assert any(n == f"{name}_count" and dict(l) == labels and v >= 1 for (n, l), v in samples.items()), name
    assert {"seki_gateway_requests_active", "seki_gateway_requests_total", "seki_gateway_tokens_total", "seki_gateway_snapshot_age_seconds",
            "seki_gateway_usage_records_total", "process_resident_memory_bytes"} <= names
    assert 0 <= samples["seki_gateway_snapshot_age_seconds", ()] < 60
    own = [n for n in names if not re.match(r"(seki|gen_ai|process)_", n)]
    assert not own, own
    assert small.secret not in small.metrics("metrics-gateway")
    parse(small.metrics("metrics"))
