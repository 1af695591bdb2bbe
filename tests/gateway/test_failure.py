"""Engines that fail: what a client never notices, and what it is told otherwise."""
import json

import pytest

from cloud import GROUP, Cloud, wait_for
from exposition import parse
from wire import OK_BODY, RawClient, Upstream, answer, journal

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}\n\n'
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"good"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}\n\n'
DONE = b"data: [DONE]\n\n"
GOOD = [HEAD, ROLE, TEXT, USAGE, DONE, "close"]
BUSY = [answer(b'{"error":{"message":"too much to do"}}', 429, headers="Retry-After: 2\r\n")]


@pytest.fixture(scope="module")
def two():
    """One model with two replicas, both served by an engine in the test's hands."""
    with Cloud(options={"gateway-first-byte-timeout": "3s", "gateway-idle-timeout": "3s", "gateway-keepalive": "100ms", "gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.secret = c.serve(c.upstream.url, replicas=2)
        yield c
        c.upstream.stop()


@pytest.fixture
def engine(two):
    e = two.upstream
    e.go.clear()
    e.script, e.first[:], e.requests[:], e.peers[:] = list(GOOD), [], [], []
    yield e
    e.first[:] = []
    e.script = [answer()]
    e.go.set()
    wait_for(lambda: ask(two, CHAT).status == 200, what="the engine to be well again")


def send(c, body):
    body = json.dumps(body).encode()
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def ask(c, body=STREAM):
    with RawClient(c.address("gateway")) as client:
        client.send(send(c, body))
        return client.response()


BEFORE_CONTENT = {
    "reset": ["reset"],
    "closed": ["close"],
    "a head alone": [HEAD, "close"],
    "a role alone": [HEAD, ROLE, "close"],
    "half an event": [HEAD, ROLE, TEXT[:20], "close"],
    "500": [answer(b"oops", 503)],
    "no http": [b"what?\r\n\r\n", "close"],
    "no json": [answer(b"what?")],
    "busy": BUSY,
}


@pytest.mark.parametrize("name", BEFORE_CONTENT)
def test_a_failure_before_the_first_content_is_never_seen(two, engine, name):
    engine.first.append(BEFORE_CONTENT[name])
    got = ask(two)
    assert got.status == 200 and b"good" in got.body and got.body.endswith(DONE) and b"error" not in got.body
    assert got.body.count(b'"role"') == 1  # nothing of the first attempt is left
    assert len(engine.requests) == 2


def test_a_failure_after_content_is_told_in_the_stream(two, engine):
    engine.script = [HEAD, ROLE, TEXT, "close"]
    got = ask(two)
    assert got.status == 200 and b"good" in got.body and b'"code":"upstream_error"' in got.body and len(engine.requests) == 1


CHUNKED = HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_an_engine_that_keeps_its_connection_after_the_last_event_keeps_nobody(two, engine):
    """Neither the client, whose answer is whole, nor the gateway for long."""
    closed = engine.closed
    engine.script = [CHUNKED, *map(chunk, (ROLE, TEXT, USAGE, DONE)), "hold"]
    got = ask(two)
    assert got.status == 200 and got.body == ROLE + TEXT + DONE
    assert engine.closed == closed, "the answer ended before the connection did"
    engine.wait(lambda: engine.closed == closed + 1, "the connection to be closed")
    assert len(engine.requests) == 1
    records = journal(two.data / "ledger")
    assert records[-1]["outcome"] == "ok" and records[-1]["completion_tokens"] == 1


def test_a_message_that_ends_soon_after_the_last_event_leaves_its_connection(two, engine):
    engine.script = [CHUNKED, *map(chunk, (ROLE, TEXT, USAGE, DONE)), "gap", b"0\r\n\r\n"]
    wait_for(lambda: ask(two).body == ROLE + TEXT + DONE and len(set(engine.peers)) < len(engine.peers), what="a connection to be used again")


def test_a_long_prefill_is_kept_alive(two, engine):
    engine.script = ["wait", *GOOD]
    with RawClient(two.address("gateway")) as client:
        client.send(send(two, STREAM))
        status, headers = client.read_head()
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert client.read_chunk() == client.read_chunk() == b": keep-alive\n\n"
        engine.go.set()
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
    assert rest.replace(b": keep-alive\n\n", b"") == ROLE + TEXT + DONE


def test_another_engine_takes_over_after_comments(two, engine):
    """Comments are not the engine's: who got only those may still be served by another."""
    engine.first.append(["wait", "reset"])
    with RawClient(two.address("gateway")) as client:
        client.send(send(two, STREAM))
        assert client.read_head()[0] == 200 and client.read_chunk() == b": keep-alive\n\n"
        engine.go.set()
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
    assert rest.endswith(ROLE + TEXT + DONE) and len(engine.requests) == 2


@pytest.mark.parametrize("end, code", [([answer(b'{"error":{"message":"the prompt is too long","type":"x"}}', 400)], None), (["reset"], "upstream_error"), ([answer()], "upstream_error")],
                         ids=["400", "reset", "no stream"])
def test_after_comments_errors_come_as_events(two, engine, end, code):
    engine.script = ["wait", *end]
    with RawClient(two.address("gateway")) as client:
        client.send(send(two, STREAM))
        assert client.read_head()[0] == 200 and client.read_chunk() == b": keep-alive\n\n"
        engine.go.set()
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
    event = rest.replace(b": keep-alive\n\n", b"")
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    error = json.loads(event[6:])["error"]
    assert error["code"] == code and (code or error["message"] == "the prompt is too long")


def test_no_comments_where_no_stream_was_asked_for(two, engine):
    engine.script = ["wait", answer()]
    with RawClient(two.address("gateway")) as client:
        client.send(send(two, CHAT))
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(20)
        engine.go.set()
        got = client.response()
    assert got.status == 200 and got.body == OK_BODY


def test_all_busy_is_told_as_the_engine_told_it(two, engine):
    engine.script = BUSY
    got = ask(two)
    assert got.status == 429 and got.headers["retry-after"] == "2" and b"too much to do" in got.body and len(engine.requests) == 2


def test_a_time_that_an_engine_asks_for_is_told(two, engine):
    """Also where each replica said that it is overloaded, and none is left."""
    engine.script = [answer(b"later", 503, headers="Retry-After: 3\r\n")]
    got = ask(two)
    assert got.status == 503 and got.headers["retry-after"] == "3" and len(engine.requests) == 2


@pytest.mark.parametrize("odd", ["-5", "99999999999", "86401", "soon", "Fri, 31 Dec 1999 23:59:59 GMT"])
def test_a_time_that_no_engine_means_is_not_told(two, engine, odd):
    engine.script = [answer(b'{"error":{"message":"too much to do"}}', 429, headers=f"Retry-After: {odd}\r\n")]
    got = ask(two)
    assert got.status == 429 and "retry-after" not in got.headers and b"too much to do" in got.body
    engine.script = [answer(b"later", 503, headers=f"Retry-After: {odd}\r\n")]
    got = ask(two)
    assert got.status == 503 and got.headers["retry-after"] == "1"


def put_aside(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_replicas_put_aside_total", ()]


def test_an_engine_that_fails_is_put_aside_and_found_again(two, engine):
    before = put_aside(two)
    engine.script = [answer(b"{}", 500)]
    for _ in range(4):
        assert ask(two).status == 500
    assert put_aside(two) > before
    engine.script = list(GOOD)
    assert ask(two).status == 200  # it comes last, but there is no other


@pytest.fixture
def apart(two):
    """Two servers behind one name."""
    servers = [Upstream(), Upstream()]
    name = f"apart-{servers[0].url.split(':')[-1].split('/')[0]}"
    two.create("modelendpoints", "demo", name, {"engine": {"driver": "openai", "remoteModel": "m"}, "replicas": 2, "servers": [{"url": s.url} for s in servers]})
    wait_for(lambda: two.get("modelendpoints", "demo", name).get("status", {}).get("readyReplicas") == 2, what="both servers")
    wait_for(lambda: two.gateway_status(f"/models/{name}", two.secret) == 200, what="the model")
    yield name, servers
    two.api("DELETE", f"{GROUP}/namespaces/demo/modelendpoints/{name}")
    for s in servers:
        s.stop()


def blind(head, body):
    """As llama.cpp with a model that has no eyes."""
    if b"image_url" in body:
        return [answer(b'{"error":{"code":500,"message":"image input is not supported","type":"server_error"}}', 500)]
    return GOOD if b'"stream"' in body else [answer()]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_that_no_replica_can_serve_puts_none_aside(two, apart, stream):
    """One tenant's images to a model of text: it is told what the engine says, and nobody else notices."""
    name, servers = apart
    for s in servers:
        s.script = blind
    before = put_aside(two)
    image = {**CHAT, "model": name, "stream": stream, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}
    for _ in range(8):
        got = ask(two, image)
        assert got.status == 500 and got.json()["error"]["message"] == "image input is not supported"
    assert put_aside(two) == before
    assert all(len(s.requests) == 8 for s in servers), "each was asked what it makes of it"
    assert ask(two, {**CHAT, "model": name}).status == 200


def test_a_replica_that_alone_answers_500_is_put_aside(two, apart):
    """No client sees it, and after three in a row it is not asked any more."""
    name, (broken, well) = apart
    broken.script = [answer(b'{"error":{"code":500,"message":"out of memory","type":"server_error"}}', 500)]
    well.script = lambda head, body: GOOD if b'"stream"' in body else [answer()]
    before = put_aside(two)

    def aside():
        assert ask(two, {**CHAT, "model": name}).status == 200 and ask(two, {**STREAM, "model": name}).status == 200
        return put_aside(two) > before
    wait_for(aside, what="the broken one to be put aside")
    assert len(broken.requests) >= 3


def test_busy_is_no_failure(two, engine):
    before = put_aside(two)
    engine.script = BUSY
    for _ in range(5):
        ask(two)
    assert put_aside(two) == before


def test_failure_does_not_multiply_load(two, engine):
    """When everything fails, a tenth of it is tried twice, and what was saved up; not each request. Last in this file, as it spends that."""
    engine.script = [answer(b"oops", 503)]
    for _ in range(220):
        ask(two)
    assert len(engine.requests) < 390


def test_who_is_busy_is_told_so_whatever_is_left_to_try(two, engine):
    """One more attempt is paid once: a 429 is the client's where nobody else takes the request, and where that may not be tried. Last too."""
    engine.script = BUSY
    assert {(got.status, got.headers["retry-after"]) for got in (ask(two) for _ in range(40))} == {(429, "2")}
