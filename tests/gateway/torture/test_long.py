"""Long ones: thousands of idle streams, and memory over a bounded soak and over many distinct prompts.

SOAK_SECONDS and DISTINCT_PROMPTS make them longer or shorter; what they measured is printed (pytest -s). For figures: a release build.
"""
import concurrent.futures
import os
import re
import selectors
import time

import pytest

from cloud import ROOT, SLOW, Cloud, wait_for
from exposition import parse
from prompts import Distinct
from target import Target
from test_clients import Few, Scrape
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, post

pytestmark = pytest.mark.full
STREAMS = 9000
SOAK_SECONDS = int(os.environ.get("SOAK_SECONDS", "120"))
DISTINCT_PROMPTS = int(os.environ.get("DISTINCT_PROMPTS", "100000"))


class Lean(Cloud):
    """A sanitized build keeps what was freed, up to 256 MiB: here only a little, so that what is not freed shows."""

    def command(self, role=None):
        return ["env", "ASAN_OPTIONS=detect_leaks=1:exitcode=99:quarantine_size_mb=4:thread_local_quarantine_size_kb=64", *super().command(role)]


def metric(c, name):
    return sum(v for (n, _), v in parse(c.metrics("metrics-gateway")).items() if n == name)


def resident(c):
    return metric(c, "process_resident_memory_bytes")


class Silent:
    """An engine of one thread: each stream gets its first word, and waits for the last one until `finish()`."""

    def __init__(self):
        import socket
        import threading
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.open, self.stopping = [], False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        poll = selectors.DefaultSelector()
        self.listener.setblocking(False)
        poll.register(self.listener, selectors.EVENT_READ)
        while not self.stopping:
            for key, _ in poll.select(0.2):
                if key.fileobj is self.listener:
                    sock, _ = self.listener.accept()
                    poll.register(sock, selectors.EVENT_READ)
                    continue
                try:
                    data = key.fileobj.recv(65536)
                except OSError:
                    data = b""
                if data.startswith(b"GET"):
                    key.fileobj.sendall(answer(b'{"object":"list","data":[{"id":"m"}]}'))
                elif data.startswith(b"POST"):
                    key.fileobj.sendall(STREAM_HEAD + STREAM_ROLE + STREAM_TEXT)
                    self.open.append(key.fileobj)
                elif not data:
                    poll.unregister(key.fileobj)
                    key.fileobj.close()

    def finish(self):
        while self.open:
            sock = self.open.pop()
            sock.sendall(STREAM_USAGE + STREAM_DONE)
            sock.shutdown(1)


def has_begun(client):
    status, _ = client.read_head()
    assert status == 200, (status, client.rest)
    client.read_until(b"good")


def test_nine_thousand_idle_streams():
    """Two descriptors each, and there are no more: all run, whoever comes on top gets 503 at once, the gateway sleeps meanwhile, its memory stays small, all end well, and then others get in.
    Client and engine live in this process, with two more each."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = min(STREAMS, (hard - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    few = Few(options={"gateway-threads": 2, "gateway-idle-timeout": "10m", "gateway-first-byte-timeout": "10m"})
    few.limit = 2 * streams + 128  # what the gateway keeps for itself
    with few as c:
        engine = Silent()
        key = c.serve(engine.url)
        scrape = Scrape(c.address("metrics-gateway"))
        before = scrape("process_resident_memory_bytes")
        request = post(key, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True})
        clients = []
        for i in range(streams):
            clients.append(RawClient(c.address("gateway")))
            clients[-1].send(request)
            if i % 200 == 199:
                has_begun(clients[-1])
        for i, client in enumerate(clients):
            if i % 200 != 199:
                has_begun(client)
        assert scrape("seki_gateway_requests_active") == streams
        descriptors, grown = scrape("process_open_fds"), (scrape("process_resident_memory_bytes") - before) / streams
        took = [refused(c, request) for _ in range(100)]
        begun, used = time.monotonic(), scrape("process_cpu_seconds_total")
        wait_for(lambda: time.monotonic() - begun > 5, what="five seconds of silence")
        idle = (scrape("process_cpu_seconds_total") - used) / (time.monotonic() - begun)
        print(f"{streams} idle streams, {descriptors:.0f} of {few.limit} descriptors: {grown / 1024:.1f} KiB each, {idle:.1%} of a core; 100 more refused, the slowest after {max(took) * 1000:.1f} ms")
        assert idle < 0.3 * SLOW and grown < 64 * 1024 * SLOW
        assert scrape("seki_gateway_requests_active") == streams
        engine.finish()
        for client in clients:
            client.read_until(b"[DONE]")
            client.close()
        wait_for(lambda: scrape("seki_gateway_requests_active") == 0, what="all to be settled")
        with RawClient(c.address("gateway")) as client:
            client.send(request)
            has_begun(client)
            engine.finish()
            client.read_until(b"[DONE]")
        scrape.connection.close()
        engine.stopping = True


def refused(c, request):
    """One that comes when no place is left: how long until it knows."""
    begun = time.monotonic()
    with RawClient(c.address("gateway")) as client:
        client.send(request)
        try:
            assert client.read_head()[0] == 503
        except EOFError:
            pass  # the word may be lost when the connection closes on what the client still says
    return time.monotonic() - begun


def index_bytes():
    """What an index of prefixes may take, one a replica."""
    return int(re.search(r"TARGET_INDEX_BYTES \(\(size_t\)(\d+) << 10\)", (ROOT / "src/gateway/target.h").read_text())[1]) << 10


@pytest.mark.timeout(3600)
def test_distinct_prompts_leave_nothing_behind():
    """No two have a beginning in common. A fifth of them fills the indexes of prefixes, whose size is given; all others together add less than half of what these may have."""
    replicas = 4
    with Lean(options={"gateway-threads": 1, "log-level": "info"}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "m", replicas=replicas, tokens=1, tokens_per_second=0)
        wait_for(lambda: c.get("modelendpoints", "demo", "m")["status"].get("readyReplicas") == replicas, what="all replicas")
        key = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", key) == 200, what="the model")
        at = [resident(c)]
        with Distinct(c.address("gateway"), key, "m") as prompts:
            for part in (0.2, 0.6, 1):
                prompts.up_to(int(DISTINCT_PROMPTS * part))
                at.append(resident(c))
        print(f"{DISTINCT_PROMPTS} prompts: " + ", ".join(f"{a / 2**20:.1f}" for a in at) + " MiB before, after a fifth, three fifths and all")
        budget = replicas * index_bytes()
        assert at[-1] - at[1] < budget / 2, at


@pytest.mark.timeout(SOAK_SECONDS + 300)
def test_memory_is_flat_over_a_soak():
    """Distinct prompts, streams, broken engines and leaving clients: after the first fifth memory and descriptors stand still."""
    seconds = SOAK_SECONDS
    with Lean(options={"gateway-threads": 2, "log-level": "info"}) as c:
        engine = Upstream()
        key = c.serve(engine.url)
        t = Target(c.address("gateway"), key, "m", engine, c)
        good, kinds = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, STREAM_DONE, "close"], [[STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "close"], ["reset"], [answer(b"what?")]]
        count = iter(range(1 << 40))

        def script(_, body):
            n = next(count)
            return kinds[n // 10 % 3] if n % 10 == 0 else good
        engine.script = script
        end, done = time.monotonic() + seconds, []

        def work(i):
            n = 0
            while time.monotonic() < end:
                n += 1
                body = t.chat() | {"messages": [{"role": "user", "content": f"{i} {n} " * 300}]}
                with RawClient(t.address) as client:
                    t.send(client, body)
                    try:
                        client.read_until(b"\r\n") if n % 7 == 0 else client.response()
                    except EOFError:
                        pass
            done.append(n)
        samples = []
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            running = [pool.submit(work, i) for i in range(4)]
            begun = time.monotonic()
            while time.monotonic() < end:
                wait_for(lambda: time.monotonic() > begun + len(samples), what="the next second")
                samples.append((resident(c), metric(c, "process_open_fds")))
            for r in running:
                r.result()
        early, late = (max(m for m, _ in part) for part in (samples[seconds // 5: seconds // 5 * 2], samples[-seconds // 5:]))
        print(f"{sum(done)} requests: {early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB; {max(f for _, f in samples)} descriptors at most")
        assert late - early < 16 << 20
        assert max(f for _, f in samples[-10:]) <= max(f for _, f in samples[:30]) + 8
        engine.stop()
