"""Streams cut, glued and mangled in every way that a network or an engine may: the client sees the same events, byte for byte, and as soon as they are there."""
import json

import pytest

from cloud import wait_for
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, answer, journal

CHUNKED = STREAM_HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")


def event(text, end=b"\n"):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}, ensure_ascii=False, separators=(",", ":")).encode() + end * 2


# Letters of two, three and four bytes; a comment; fields that are none of ours; an event in two lines.
STREAM = b"".join([STREAM_ROLE, event("né"), b": a comment\n\n", event("日本語"), b"event: x\nid: 7\nretry: 10\n" + event("😀"),
                   b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"two"},"finish_reason":null}]}\n\n', STREAM_USAGE, STREAM_DONE])
ENDS = {"LF": b"\n", "CRLF": b"\r\n", "CR": b"\r"}


def ended(name):
    return STREAM.replace(b"\n", ENDS[name])


def seen(name):
    """What a client gets that did not ask for usage."""
    return ended(name).replace(STREAM_USAGE.replace(b"\n", ENDS[name]), b"")


def good(gateway, body, name="LF"):
    """Strangers need not ask for usage where the client did not, so they need take nothing out."""
    return body == seen(name) or (not gateway.cloud and body == ended(name))


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


@pytest.mark.parametrize("name", ENDS)
def test_cut_at_every_byte(gateway, name):
    """Each offset once; the usage is read each time, and taken out."""
    data = ended(name)
    scripts = [[STREAM_HEAD, data[:i], "gap", data[i:], "close"] for i in range(1, len(data))]
    gateway.engine.first[:] = scripts
    for i in range(1, len(data)):
        got = gateway.ask()
        assert got.status == 200 and good(gateway, got.body, name), (i, data[:i][-20:], got.body)
    if gateway.cloud:
        wait_for(lambda: "seki_gateway_requests_active 0\n" in gateway.cloud.metrics("metrics-gateway"), what="the end")
        records = journal(gateway.cloud.data / "ledger")[-len(scripts):]
        assert {(r["prompt_tokens"], r["completion_tokens"], r["exact"]) for r in records} == {(5, 1, True)}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("head", [STREAM_HEAD, CHUNKED], ids=["until-close", "chunked"])
def test_byte_by_byte(gateway, name, head):
    data = ended(name)
    one = [data[i:i + 1] for i in range(len(data))]
    gateway.engine.script = [head, *([chunk(b) for b in one] + [b"0\r\n\r\n"] if head == CHUNKED else one), "close"]
    assert good(gateway, gateway.ask().body, name)


def test_chunks_cut_at_every_byte(gateway):
    """The framing itself comes in two reads: within sizes, their line ends, the data, the end."""
    data = b"".join([STREAM_ROLE, STREAM_TEXT])
    framed = b"".join(chunk(data[i:i + 37]) for i in range(0, len(data), 37)) + b"11;x=y\r\n" + STREAM_DONE[:-1] + b"   \n\r\n0\r\nT: x\r\n\r\n"
    assert len(STREAM_DONE[:-1] + b"   \n") == 0x11
    gateway.engine.first[:] = [[CHUNKED, framed[:i], "gap", framed[i:]] for i in range(1, len(framed))]
    for i in range(1, len(framed)):
        got = gateway.ask()
        assert got.status == 200 and got.body.startswith(data) and b"[DONE]" in got.body, (i, got)


@pytest.mark.parametrize("name", ENDS)
def test_all_in_one_packet(gateway, name):
    gateway.engine.script = [STREAM_HEAD + ended(name), "close"]
    assert good(gateway, gateway.ask().body, name)


def test_events_are_not_held_until_more_come(gateway):
    """Each is with the client before the engine makes the next one."""
    words = [event(f"w{i}") for i in range(20)]
    steps = [STREAM_HEAD + STREAM_ROLE]
    for w in words:
        steps += [w, "turn"]
    with RawClient(gateway.address) as client:
        turns = iter(range(1 << 30))
        taken = []

        def play(sock, script):
            for step in script:
                if step == "turn":
                    n = next(turns)
                    gateway.engine.wait(lambda: len(taken) > n, f"the client to have event {n}")
                else:
                    sock.sendall(step)
            sock.sendall(STREAM_DONE)
            return False
        old, gateway.engine._play = gateway.engine._play, play
        gateway.engine.script = steps
        try:
            gateway.send(client)
            for i in range(len(words)):
                client.read_until(f'"w{i}"'.encode())
                with gateway.engine.changed:
                    taken.append(i)
                    gateway.engine.changed.notify_all()
            client.read_until(b"[DONE]")
        finally:
            gateway.engine._play = old


@pytest.mark.parametrize("asked", [False, True], ids=["usage-taken-out", "usage-wanted"])
def test_an_event_of_a_mebibyte(gateway, asked):
    """Larger than what is held: it passes, and what follows is read again."""
    big = event("x" * (1 << 20))
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, big, STREAM_USAGE, STREAM_DONE, "close"]
    got = gateway.ask(gateway.chat(stream_options={"include_usage": True}) if asked else None)
    assert got.body == STREAM_ROLE + big + (STREAM_USAGE if asked or not gateway.cloud and STREAM_USAGE in got.body else b"") + STREAM_DONE
    if gateway.cloud:
        record = wait_for(lambda: journal(gateway.cloud.data / "ledger")[-1:], what="a record")[0]
        assert record["exact"] and record["completion_tokens"] == 1


def test_a_mebibyte_without_a_line_s_end(gateway):
    """No event ever ends: the client gets an error, or a broken stream, and never a good end."""
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, b"data: " + b"x" * (1 << 20), "close"]
    with RawClient(gateway.address) as client:
        gateway.send(client)
        try:
            assert b"error" in client.response().body
        except EOFError:
            pass


def test_bytes_that_are_no_utf_8(gateway):
    """They pass or are refused; a good end after them is a good end."""
    bad = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe\xc3\x28"},"finish_reason":null}]}\n\n'
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, bad, STREAM_TEXT, STREAM_DONE, "close"]
    got = gateway.ask()
    assert got.body.endswith(STREAM_DONE) or b"error" in got.body


@pytest.mark.parametrize("last", [STREAM_DONE[:-1], STREAM_DONE[:-2], b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b": bye\n\n" + STREAM_DONE, STREAM_DONE + b": bye\n\n"],
                         ids=["one-line-end", "no-line-end", "no-blank", "other-line-ends", "comment-before", "comment-after"])
def test_ends_that_are_good(gateway, last):
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, last, "close"]
    got = gateway.ask()
    assert b"good" in got.body and b"[DONE]" in got.body and b"error" not in got.body


@pytest.mark.parametrize("rest", [[], [STREAM_TEXT[:-1]], [STREAM_TEXT[:30]], [b"data: [DON"], ["reset"]], ids=["no-done", "no-blank-line", "half-an-event", "half-a-done", "reset"])
def test_ends_that_are_none(gateway, rest):
    """A stream without its last event is never taken for whole: an error inside it, or a connection without an end."""
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, *rest, "close"]
    with RawClient(gateway.address) as client:
        gateway.send(client)
        try:
            got = client.response().body
            assert b"good" in got and b'"error"' in got and b"[DONE]" not in got.split(b'"error"')[0], got
        except EOFError:
            pass


def test_a_stream_s_stale_length(gateway):
    """An engine that gives a length for what it then changes: never more than it said, never a hang."""
    body = STREAM_ROLE + STREAM_TEXT + STREAM_DONE
    for wrong in (len(body) - 10, len(body) + 10):
        gateway.engine.script = [STREAM_HEAD.replace(b"Connection: close", b"Content-Length: %d" % wrong), body, "close"]
        with RawClient(gateway.address) as client:
            gateway.send(client)
            try:
                client.response()
            except EOFError:
                pass
    gateway.engine.script = [STREAM_HEAD.replace(b"Connection: close", b"Content-Length: %d" % len(body)), body]
    got = gateway.ask()
    assert got.body == body
    assert not gateway.cloud or "content-length" not in got.headers, "the length of what goes out is not the engine's to say"


def test_headers_of_the_engine_stay_behind(gateway):
    """Those that speak of its connection, its cookies, its server."""
    names = {"Connection": "x-secret-hop, close", "X-Secret-Hop": "1", "Keep-Alive": "timeout=5", "Set-Cookie": "a=b", "Proxy-Authenticate": "Basic", "Upgrade": "h2c", "Server": "engine"}
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + "".join(f"{k}: {v}\r\n" for k, v in names.items()) + "\r\n"
    gateway.engine.script = [head.encode(), STREAM_ROLE, STREAM_TEXT, STREAM_DONE, "close"]
    got = gateway.ask()
    assert got.status == 200 and not {"x-secret-hop", "set-cookie", "proxy-authenticate", "upgrade"} & set(got.headers) and got.headers.get("server") != "engine"


def test_many_at_once_keep_apart(gateway):
    """Streams that run side by side, cut at random places: nobody gets another's text."""
    import concurrent.futures
    import random
    dice = random.Random(7)

    def script(_, body):
        mark = json.loads(body)["user"]
        data = b"".join([STREAM_ROLE, *[event(f"{mark}-{i} ") for i in range(20)], STREAM_DONE])
        cuts = sorted(dice.sample(range(1, len(data)), 15))
        return [STREAM_HEAD, *[data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])], "close"]
    gateway.engine.script = script

    def one(n):
        got = gateway.ask(gateway.chat(user=f"u{n}"))
        return got.body == b"".join([STREAM_ROLE, *[event(f"u{n}-{i} ") for i in range(20)], STREAM_DONE])
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(200)))


def test_a_poisoned_answer_harms_no_other(gateway):
    """While streams run, an engine answers others with nonsense."""
    poison = [[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "close"], [b"HTTP/1.1 200 OK\r\nX: " + b"h" * 100000, "close"],
              [answer(b"\xff\xfe{")], [STREAM_HEAD, b"\x00\x01\x02", "close"]]
    with RawClient(gateway.address) as client:
        gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_TEXT, STREAM_DONE, "close"]
        gateway.send(client)
        client.read_until(b"good")
        for p in poison:
            gateway.engine.script = p
            got = gateway.ask(gateway.chat(stream=False))
            assert (got.status in (502, 503) or not gateway.cloud and got.status >= 500) and "error" in got.json()
        gateway.engine.go.set()
        assert b"good" in client.read_until(b"[DONE]")
