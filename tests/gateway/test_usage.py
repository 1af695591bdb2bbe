"""Usage: one record a request on every way out, in the journal and in the metrics; streams passed on byte for byte."""
import json
import re
import threading

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import OK_BODY, RawClient, Upstream, answer, journal


@pytest.fixture(scope="module")
def metered():
    with Cloud(options={"gateway-first-byte-timeout": "1s", "gateway-idle-timeout": "1s", "gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.project("demo")
        for name, embeddings in (("m", False), ("e", True)):
            c.create("modelendpoints", "demo", name, {"engine": {"driver": "openai", "url": c.upstream.url, "embeddings": embeddings}})
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        wait_for(lambda: all(m in models(c) for m in (b'"m"', b'"e"')), what="the models")
        yield c
        c.upstream.stop()


def request(c, path, body, method="POST"):
    body = json.dumps(body).encode()
    return (f"{method} /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def models(c):
    with RawClient(c.address("gateway")) as client:
        client.send(request(c, "models", {}, "GET"))
        return client.response().body


def event(doc):
    return b"data: " + json.dumps(doc).encode() + b"\n\n"


def delta(text, finish=None):
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}})
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def usage_body(**usage):
    return answer(json.dumps({"choices": [{"index": 0, "message": {"content": "x"}}], "usage": usage}).encode())


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
EMBED = {"model": "e", "input": "hi"}
PROMPT = len(json.dumps(CHAT["messages"])) // 4 + 1  # the gateway's estimate

# name: (path, body, what the engine does, what the client does, the record)
# The client: "read" takes the answer; "leave" goes once the engine has the request; "leave after TEXT" once it has seen that.
EXITS = {
    "ok": ("chat/completions", CHAT, [answer()], "read", dict(outcome="ok", status=200, prompt_tokens=5, completion_tokens=7, exact=True)),
    "embeddings": ("embeddings", EMBED, [answer(b'{"data":[],"usage":{"prompt_tokens":4,"total_tokens":4}}')], "read",
                   dict(outcome="ok", status=200, prompt_tokens=4, completion_tokens=0, exact=True)),
    "stream": ("chat/completions", STREAM, [HEAD, delta("a"), delta("b"), USAGE, DONE, "close"], "read",
               dict(outcome="ok", status=200, prompt_tokens=5, completion_tokens=2, cached_tokens=3, exact=True, stream=True)),
    "stream, the engine counts nothing": ("chat/completions", STREAM, [HEAD, delta("a"), delta("b"), DONE, "close"], "read",
                                          dict(outcome="ok", status=200, prompt_tokens=PROMPT, completion_tokens=2, exact=False)),
    "the client leaves before the first byte": ("chat/completions", CHAT, ["hold"], "leave", dict(outcome="client_gone", status=499, prompt_tokens=0, completion_tokens=0)),
    "the client leaves before a stream begins": ("chat/completions", STREAM, ["hold"], "leave", dict(outcome="client_gone", status=499, completion_tokens=0, stream=True)),
    "the client leaves in a stream": ("chat/completions", STREAM, [HEAD, delta("a"), delta("b"), delta("END"), "hold"], "leave after END",
                                      dict(outcome="client_gone", status=200, prompt_tokens=PROMPT, completion_tokens=3, exact=False)),
    "the client leaves at the last event": ("chat/completions", STREAM, [HEAD, delta("a"), delta("b"), USAGE, DONE, "hold"], "leave after [DONE]",
                                            dict(outcome="ok", status=200, prompt_tokens=5, completion_tokens=2, exact=True)),
    "the engine dies before": ("chat/completions", CHAT, ["reset"], "read", dict(outcome="upstream_error", status=502, prompt_tokens=0, completion_tokens=0)),
    "the engine dies in an answer": ("chat/completions", CHAT, [answer()[:-20], "close"], "read", dict(outcome="upstream_error", status=502, completion_tokens=0)),
    "the engine dies in a stream": ("chat/completions", STREAM, [CHUNKED, chunk(delta("a")), chunk(delta("b")), "reset"], "read",
                                    dict(outcome="upstream_error", status=200, prompt_tokens=PROMPT, completion_tokens=2, exact=False)),
    "a stream ends early": ("chat/completions", STREAM, [HEAD, delta("a"), "close"], "read", dict(outcome="upstream_error", status=200, completion_tokens=1, exact=False)),
    "engine 400": ("chat/completions", CHAT, [answer(b'{"error":{"message":"no","type":"x"}}', 400)], "read", dict(outcome="refused", status=400, prompt_tokens=0)),
    "engine 429": ("chat/completions", CHAT, [answer(b'{"error":{"message":"no","type":"x"}}', 429, headers="Retry-After: 7\r\n")], "read",
                   dict(outcome="refused", status=429, prompt_tokens=0)),
    "engine 500": ("chat/completions", CHAT, [answer(b"oops", 500, "text/plain")], "read", dict(outcome="upstream_error", status=500, prompt_tokens=0)),
    "engine 503": ("chat/completions", CHAT, [answer(b"oops", 503, "text/plain")], "read", dict(outcome="upstream_error", status=503, prompt_tokens=0)),
    "engine 401": ("chat/completions", CHAT, [answer(b"oops", 401, "text/plain")], "read", dict(outcome="upstream_error", status=502, prompt_tokens=0)),
    "engine 500 to a stream": ("chat/completions", STREAM, [answer(b"{}", 500)], "read", dict(outcome="upstream_error", status=500, completion_tokens=0)),
    "the engine is silent": ("chat/completions", CHAT, ["hold"], "read", dict(outcome="timeout", status=504, prompt_tokens=0, completion_tokens=0)),
    "the engine falls silent": ("chat/completions", STREAM, [HEAD, delta("a"), "hold"], "read", dict(outcome="timeout", status=200, completion_tokens=1, exact=False)),
    "the engine falls silent in an answer": ("chat/completions", CHAT, [answer()[:-20], "hold"], "read", dict(outcome="timeout", status=504, completion_tokens=0)),
    "usage with a negative count": ("chat/completions", CHAT, [usage_body(prompt_tokens=-5, completion_tokens=7)], "read",
                                    dict(outcome="ok", status=200, prompt_tokens=PROMPT, completion_tokens=0, exact=False)),
    "usage with text": ("chat/completions", CHAT, [usage_body(prompt_tokens="5", completion_tokens=7)], "read", dict(outcome="ok", prompt_tokens=PROMPT, exact=False)),
    "usage beyond belief": ("chat/completions", CHAT, [usage_body(prompt_tokens=5, completion_tokens=2**62)], "read", dict(outcome="ok", completion_tokens=0, exact=False)),
    "half a usage": ("chat/completions", CHAT, [usage_body(prompt_tokens=5)], "read", dict(outcome="ok", prompt_tokens=PROMPT, exact=False)),
    "no usage": ("chat/completions", CHAT, [answer(b'{"choices":[]}')], "read", dict(outcome="ok", prompt_tokens=PROMPT, exact=False)),
    "usage of another shape": ("chat/completions", CHAT, [answer(b'{"choices":[],"usage":[5,7]}')], "read", dict(outcome="ok", prompt_tokens=PROMPT, exact=False)),
    "no json": ("chat/completions", CHAT, [answer(b"<html>", content_type="text/html")], "read", dict(outcome="upstream_error", status=502, prompt_tokens=0)),
    "unknown model": ("chat/completions", {**CHAT, "model": "nope"}, [], "read", dict(outcome="refused", status=404, prompt_tokens=0, model="", endpoint="")),
    "wrong route": ("embeddings", {**EMBED, "model": "m"}, [], "read", dict(outcome="refused", status=400, prompt_tokens=0)),
    "bad body": ("chat/completions", {"model": "m"}, [], "read", dict(outcome="refused", status=400, prompt_tokens=0)),
}


# What engines made is what was billed and what was not.
TERMS = ("prompt_tokens", "completion_tokens", "hedge_loser_tokens", "replayed_tokens", "unseen_tokens")


def play(c, path, body, client_does):
    """Returns the answer's bytes as far as they came."""
    with RawClient(c.address("gateway")) as client:
        before = len(c.upstream.requests)
        client.send(request(c, path, body))
        if client_does == "leave":
            c.upstream.wait(lambda: len(c.upstream.requests) > before, "the engine to get the request")
        elif client_does.startswith("leave after "):
            client.read_until(client_does.removeprefix("leave after ").encode())
        else:
            status, headers = client.read_head()
            try:
                return status, headers, client.read_body(status, headers)
            except EOFError:
                return status, headers, None
    return None, None, None


def counters(c):
    samples = parse(c.metrics("metrics-gateway"))
    return {k: v for k, v in samples.items() if k[0] in ("seki_gateway_requests_total", "seki_gateway_tokens_total", "gen_ai_server_request_duration_seconds_count")}


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_the_end_of_an_answer_is_in_the_journal(metered, stream):
    """Records of one turn are written together, and only then do their answers end."""
    metered.upstream.script = [HEAD + delta("a", "stop") + USAGE + DONE if stream else usage_body(prompt_tokens=5, completion_tokens=2)]
    body = request(metered, "chat/completions", {**CHAT, "stream": stream})
    files = lambda: b"".join(p.read_bytes() for p in sorted((metered.data / "ledger").glob("usage-gateway.0*")))
    missing, lock = [], threading.Lock()

    def ask(client):
        for _ in range(10):
            client.send(body)
            got = client.response()
            found = got.headers["x-request-id"].encode() in files()
            with lock:
                if got.status != 200 or not found:
                    missing.append(got.headers["x-request-id"])

    clients = [RawClient(metered.address("gateway")) for _ in range(24)]
    threads = [threading.Thread(target=ask, args=(c,)) for c in clients]
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        metered.upstream.script = [answer()]
        for c in clients:
            c.close()
    assert not missing


@pytest.mark.parametrize("name", EXITS)
def test_every_exit_is_counted_once(metered, name):
    path, body, metered.upstream.script, client_does, want = EXITS[name]
    ledger = metered.data / "ledger"
    old, counted = len(journal(ledger)), counters(metered)
    try:
        status, headers, text = play(metered, path, body, client_does)
    finally:
        metered.upstream.script = [answer()]
    wait_for(lambda: len(journal(ledger)) > old, what="the record")
    # One more request: whatever else the first one would have written comes before its record.
    play(metered, "chat/completions", CHAT, "read")
    wait_for(lambda: len(journal(ledger)) > old + 1, what="the next record")
    records = journal(ledger)[old:]
    assert len(records) == 2, records
    record = records[0]
    assert {k: record[k] for k in want} == want, record
    for r in records:
        assert sum(e["read"] + e["written"] for e in r["engines"]) == sum(r[k] for k in TERMS), r
        assert r["exact"] or not all(e["exact"] for e in r["engines"]), r
    assert record["project"] == "demo" and record["tenant"] == "demo" and record["key"] == "key" and record["id"].startswith("req-")
    assert record["route"] == path.replace("/", ".") and record["duration_ms"] >= 0
    if headers:
        assert headers["x-request-id"] == record["id"] and (status == record["status"])
    check_counters(metered, counted, records)


def check_counters(c, before, records):
    """The metrics have moved by what the records say."""
    after = counters(c)

    def moved(name, **labels):
        return sum(v - before.get(k, 0) for k, v in after.items() if k[0] == name and labels.items() <= dict(k[1]).items())
    for r in records:
        same = [x for x in records if (x["route"], x["status"], x["outcome"]) == (r["route"], r["status"], r["outcome"])]
        assert moved("seki_gateway_requests_total", route=r["route"], status=str(r["status"]), outcome=r["outcome"]) == len(same)
    assert moved("seki_gateway_requests_total") == len(records)
    for kind, member in (("input", "prompt_tokens"), ("output", "completion_tokens"), ("cached", "cached_tokens")):
        assert moved("seki_gateway_tokens_total", type=kind) == sum(r[member] for r in records)
    assert moved("gen_ai_server_request_duration_seconds_count") == sum(1 for r in records if r["endpoint"])
    assert "seki_gateway_requests_active 0\n" in c.metrics("metrics-gateway")


def test_what_the_client_sees_of_engines_errors(metered):
    """Errors in OpenAI's shape pass; others are put into it; a retry's time is passed on."""
    cases = [(answer(b'{"error":{"message":"too long","type":"x","code":"context_length_exceeded"}}', 400), 400, "too long", "x"),
             (answer(b'{"object":"error","message":"of vLLM","code":400}', 400), 400, "of vLLM", "invalid_request_error"),
             (answer(b'{"detail":"of FastAPI"}', 422), 422, "of FastAPI", "invalid_request_error"),
             (answer(b"<html>", 500, "text/html"), 500, "The engine answered with status 500.", "server_error"),
             (answer(b"x", 503, headers="Retry-After: 3\r\n"), 503, "The engine answered with status 503.", "server_error")]
    for script, want, message, kind in cases:
        metered.upstream.script = [script]
        status, headers, body = play(metered, "chat/completions", CHAT, "read")
        error = json.loads(body)["error"]
        assert (status, error["message"], error["type"]) == (want, message, kind) and headers["content-type"] == "application/json"
        assert want != 503 or headers["retry-after"]
    metered.upstream.script = [EXITS["engine 429"][2][0]]
    assert play(metered, "chat/completions", CHAT, "read")[1]["retry-after"] == "7"
    metered.upstream.script = [answer()]


def test_a_broken_stream_says_so_inside(metered):
    """Between two events there is room for a word; inside one the connection breaks instead."""
    metered.upstream.script = [CHUNKED, chunk(delta("a")), "reset"]
    status, headers, body = play(metered, "chat/completions", STREAM, "read")
    events = body.decode().split("\n\n")
    assert status == 200 and events[0] + "\n\n" == delta("a").decode()
    assert json.loads(events[1].removeprefix("data: "))["error"]["request_id"] == headers["x-request-id"] and events[2:] == [""]
    half = delta("b")[:20]
    # Without usage asked for, half an event is held back: nobody has seen it, so there is room too.
    metered.upstream.script = [CHUNKED, chunk(delta("a") + half), "reset"]
    assert b'"error"' in play(metered, "chat/completions", STREAM, "read")[2]
    asked = {**STREAM, "stream_options": {"include_usage": True}}
    assert play(metered, "chat/completions", asked, "read")[2] is None
    metered.upstream.script = [answer()]


STREAMS = {
    "plain": [delta("a"), delta("b", "stop"), USAGE, DONE],
    "packets": [bytes([b]) for b in delta("a") + USAGE + DONE],
    "crlf": [x.replace(b"\n", b"\r\n") for x in (delta("a"), USAGE, DONE)],
    "cr": [x.replace(b"\n", b"\r") for x in (delta("a"), USAGE, DONE)],
    "comments": [b": ping\n\n", delta("a"), b":\n\n: more\n\n", USAGE, DONE],
    "fields": [b"id: 7\nevent: message\nretry: 10\n", delta("a"), USAGE, DONE],
    "several data lines": [b'data: {"choices":\ndata: [{"delta":{"content":"\xe9\x96\xa2"}}]}\n\n', USAGE, DONE],
    "no space": [delta("a").replace(b"data: ", b"data:"), USAGE.replace(b"data: ", b"data:"), DONE],
    "unknown members": [event({"choices": [{"delta": {"reasoning_content": "hm"}}], "x": {"usage": 1}}), USAGE, DONE],
    "large": [delta("a" * 300000), USAGE, DONE],
    "no json": [b"data: \xff{nonsense\n\n", USAGE, DONE],
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_pass_byte_for_byte(metered, name):
    """As it came when usage was asked for; without the usage event, and nothing else, when it was not."""
    pieces = STREAMS[name]
    whole = b"".join(pieces)
    usage = re.compile(rb'data: ?\{"choices": \[\], "usage".*?\}\}(\r\n\r\n|\n\n|\r\r)')
    for head, script in ((CHUNKED, [chunk(p) for p in pieces] + [b"0\r\n\r\n"]), (HEAD, pieces + ["close"])):
        metered.upstream.script = [head, *script]
        assert play(metered, "chat/completions", {**STREAM, "stream_options": {"include_usage": True}}, "read")[2] == whole
        without = play(metered, "chat/completions", STREAM, "read")[2]
        assert without == usage.sub(b"", whole) and len(without) < len(whole)
    metered.upstream.script = [answer()]


def test_the_body_reaches_the_engine_as_it_was(metered):
    """But for the usage that is asked for in streams."""
    text = b'{ "messages" :[{"role":"user","content":"\\u95a2 \xe9\x96\xa2"}],\n"model":"m" , "seed":1.50, "x":{"model":"other"}}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {metered.secret}\r\nContent-Length: {{}}\r\n\r\n"
    with RawClient(metered.address("gateway")) as client:
        client.send(head.format(len(text)).encode() + text)
        assert client.response().body == OK_BODY
        sent, body = metered.upstream.requests[-1]
        assert body == text and metered.secret.encode() not in sent
        stream = text[:1] + b'"stream":true,' + text[1:]
        client.send(head.format(len(stream)).encode() + stream)
        client.response()
        assert metered.upstream.requests[-1][1] == b'{"stream_options":{"include_usage":true},' + stream[1:]
