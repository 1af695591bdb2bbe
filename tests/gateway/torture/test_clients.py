"""Clients that are slow, half gone, gone at any moment, or many."""
import concurrent.futures
import http.client
import json
import pathlib
import resource
import socket
import struct
import threading
import time

import pytest

from cloud import SLOW, Cloud, wait_for
from exposition import parse
from target import Target
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, journal, post

RESET = struct.pack("ii", 1, 0)


def reset(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def inside(gateway, name):
    """A metric of ours, summed over its series; None of a stranger."""
    if not gateway.cloud:
        return None
    return sum(v for (n, _), v in parse(gateway.cloud.metrics("metrics-gateway")).items() if n == name)


def settled(gateway):
    if gateway.cloud:
        wait_for(lambda: inside(gateway, "seki_gateway_requests_active") == 0, what="all to be settled")


LONG = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "hold"]
# What the client has sent and seen when it resets the connection.
PHASES = {
    "in the request line": (b"POST /v1/cha", None, None),
    "in the head": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthor", None, None),
    "before the body": ("head", None, None),
    "in the body": ("half", None, None),
    "while the engine thinks": ("whole", ["hold"], None),
    "before the content": ("whole", [STREAM_HEAD, STREAM_ROLE, "hold"], None),
    "in the stream": ("whole", LONG, b"good"),
    "at the end": ("whole", [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_DONE, "close"], b"[DONE]"),
}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("phase", PHASES)
def test_gone_at_each_phase(gateway, phase, how):
    """The engine's connection, if there was one, closes too; nothing is left; others are served."""
    sent, script, seen = PHASES[phase]
    whole = post(gateway.key, gateway.chat())
    sent = {"head": whole[:whole.index(b"\r\n\r\n") + 4], "half": whole[:-5], "whole": whole}.get(sent, sent)
    gateway.engine.script = script or [answer()]
    held, asked = gateway.engine.closed, len(gateway.engine.requests)
    client = RawClient(gateway.address)
    client.send(sent)
    if script:
        gateway.engine.wait(lambda: len(gateway.engine.requests) > asked, "the request at the engine")
    if seen:
        client.read_until(seen)
    reset(client) if how == "reset" else client.close()
    if script and script[-1] == "hold":
        gateway.engine.wait(lambda: gateway.engine.closed > held, "the engine's connection to close")
    settled(gateway)
    assert len(gateway.engine.requests) == asked + bool(script), "half a request is none"


def test_gone_with_the_last_event_is_no_loss(ours):
    """Who closes at [DONE], as many clients do, has got all: the request is one that was answered, whatever the engine still does."""
    ours.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, STREAM_DONE, "hold"]
    ledger, old = ours.cloud.data / "ledger", len(journal(ours.cloud.data / "ledger"))
    with RawClient(ours.address) as client:
        ours.send(client)
        client.read_until(b"[DONE]")
    wait_for(lambda: len(journal(ledger)) > old, what="the record")
    assert journal(ledger)[-1]["outcome"] == "ok", journal(ledger)[-1]


def test_end_of_file_while_an_answer_is_owed(ours):
    """A client that closes its half while it is owed an answer is taken for gone, as most proxies do and as docs/internals/gateway.md says: its engine is let go."""
    for script in (["hold"], LONG):
        ours.engine.script, held, asked = script, ours.engine.closed, len(ours.engine.requests)
        with RawClient(ours.address) as client:
            ours.send(client)
            ours.engine.wait(lambda: len(ours.engine.requests) > asked, "the request at the engine")
            client.sock.shutdown(socket.SHUT_WR)
            ours.engine.wait(lambda: ours.engine.closed > held, "the engine's connection to close")
    settled(ours)


def test_many_slow_readers_hold_little(ours):
    """Fifty streams of 64 MiB that nobody reads: each holds its mark and no more, and the engine waits."""
    streams, piece = 50, b"data: " + b"x" * 65000 + b"\n\n"
    before = inside(ours, "process_resident_memory_bytes")
    ours.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, *[piece] * 1000, STREAM_DONE, "close"]
    clients = []
    try:
        for _ in range(streams):
            client = RawClient(ours.address)
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            ours.send(client)
            clients.append(client)
        for client in clients:
            client.read_until(b"good")
        seen = []

        def stands():
            seen.append(ours.engine.played)
            return len(seen) > 30 and seen[-30] == seen[-1]
        wait_for(stands, what="the engine to be held back")
        grown = inside(ours, "process_resident_memory_bytes") - before
        assert grown < streams * (1 << 20) * SLOW, f"{grown / streams / 1024:.0f} KiB a stream"
    finally:
        for client in clients:
            client.close()
    settled(ours)


@pytest.mark.parametrize("size", [6 * 1024 + 300, 128 * 1024 + 1, 640 * 1024, 1 << 20, 4 << 20])
def test_long_prompts(gateway, size):
    """At the lengths at which other chains break; every byte reaches the engine."""
    text = ("wörd " * (size // 6 + 1))[:size]
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_DONE, "close"]
    got = gateway.ask(gateway.chat() | {"messages": [{"role": "user", "content": text}]})
    assert got.status == 200 and got.body.endswith(STREAM_DONE)
    assert json.loads(gateway.engine.requests[-1][1])["messages"][0]["content"] == text


def test_a_long_prompt_byte_by_byte_is_no_work_for_others(gateway):
    """A body that drips in does not hold up who comes meanwhile."""
    body = post(gateway.key, gateway.chat(stream=False) | {"messages": [{"role": "user", "content": "x" * 3000}]})
    gateway.engine.script = [answer()]
    with RawClient(gateway.address) as client:
        for i in range(0, len(body) - 1):
            client.send(body[i:i + 1])
            if i % 500 == 0:
                assert gateway.ask(gateway.chat(stream=False)).status == 200
        client.send(body[-1:])
        assert client.response().status == 200


def test_a_thousand_at_once(gateway):
    """All are answered; no slot is lost."""
    gateway.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_DONE, "close"]
    gate = threading.Barrier(8)

    def some(_):
        clients = [RawClient(gateway.address) for _ in range(125)]
        gate.wait()
        for client in clients:
            gateway.send(client)
        good = sum(client.response().body.endswith(STREAM_DONE) for client in clients)
        for client in clients:
            client.close()
        return good
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(some, range(8))) == 1000
    settled(gateway)


# ---- descriptors ----

class Few(Cloud):
    """May have so many descriptors in each of its processes."""
    limit = 200

    def command(self, role=None):
        return ["sh", "-c", f'ulimit -n {self.limit}; exec "$@"', "sh", *super().command(role)]


class Scrape:
    """The metrics, over one connection that was there before descriptors went short."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(address, timeout=30)

    def __call__(self, name):
        self.connection.request("GET", "/metrics")
        return sum(v for (n, _), v in parse(self.connection.getresponse().read().decode()).items() if n == name)

    def calm(self, c):
        """Waits a second, in which the gateway is to sleep rather than spin."""
        begun, used = time.monotonic(), self("process_cpu_seconds_total")
        wait_for(lambda: time.monotonic() - begun > 1, what="a second")
        assert self("process_cpu_seconds_total") - used < 0.5 * (time.monotonic() - begun), "it spins"


@pytest.fixture
def few():
    with Few(options={"gateway-threads": 1}) as c:
        c.engine = Upstream()
        c.secret = c.serve(c.engine.url)
        c.target = Target(c.address("gateway"), c.secret, "m", c.engine, c)
        c.scrape = Scrape(c.address("metrics-gateway"))
        c.scrape("process_open_fds")
        yield c
        c.scrape.connection.close()
        c.engine.stop()


def test_no_more_are_let_in_than_descriptors_are_there_for(few):
    """Each takes two: whoever gets a place gets an answer, the others a 503 at once; none of it is the engine's fault."""
    few.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    places = (Few.limit - 128) // 2
    served, refused = [], 0
    try:
        for _ in range(Few.limit):
            client = RawClient(few.target.address)
            few.target.send(client)
            try:
                status, _ = client.read_head()
            except EOFError:
                status = 503  # the word may be lost when the connection closes on what the client still says
            assert status in (200, 503), status
            if status == 200:
                served.append(client)
            else:
                client.close()
                refused += 1
        assert len(served) == places and refused == Few.limit - places
        few.scrape.calm(few)
        few.engine.go.set()
        for client in served:
            assert b"good" in client.read_until(b"[DONE]")
    finally:
        for client in served:
            client.close()
    assert few.scrape("seki_gateway_replicas_put_aside_total") == few.scrape("seki_gateway_upstream_errors_total") == 0
    assert "fewer connections are served" in few.log.read_text()
    assert few.target.well()


def test_none_is_left(few):
    """Someone takes the descriptors away while it runs: it waits for some without spinning, blames no engine, and goes on when it has them again."""
    pid = few.role_pid("gateway")
    few.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    with RawClient(few.target.address) as running, RawClient(few.target.address) as kept:
        few.target.send(running)
        running.read_until(b"good")
        kept.send(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {few.secret}\r\n\r\n".encode())
        assert kept.response().status == 200
        used = max(int(fd.name) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()) + 1
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
        try:
            holes = used - len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
            waiting = [RawClient(few.target.address) for _ in range(holes + 5)]
            few.scrape.calm(few)
            few.target.send(kept)
            got = kept.response()
            assert got.status == 503 and got.json()["error"]["code"] == "gateway_overloaded" and got.headers["retry-after"] == "1", got
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        few.engine.go.set()
        running.read_until(b"[DONE]")
        few.engine.script = [answer()]
        for client in waiting:
            few.target.send(client, few.target.chat(stream=False))
            assert client.response().status == 200
            client.close()
    assert few.scrape("seki_gateway_replicas_put_aside_total") == 0
