"""Long ones: thousands of idle streams, and memory over a bounded soak."""
import concurrent.futures
import selectors
import time

import pytest

from cloud import SLOW, Cloud, wait_for
from exposition import parse
from target import Target
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, post

pytestmark = pytest.mark.full
STREAMS = 9000


def metric(c, name):
    return sum(v for (n, _), v in parse(c.metrics("metrics-gateway")).items() if n == name)


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
        for sock in self.open:
            sock.sendall(STREAM_USAGE + STREAM_DONE)
            sock.shutdown(1)


def has_begun(client):
    status, _ = client.read_head()
    assert status == 200, (status, client.rest)
    client.read_until(b"good")


def test_nine_thousand_idle_streams():
    """Two descriptors each: all run, the gateway sleeps meanwhile, its memory stays small, all end well. Client and engine live in this process, with two more each."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = min(STREAMS, (hard - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Cloud(options={"gateway-threads": 2, "gateway-idle-timeout": "10m", "gateway-first-byte-timeout": "10m"}) as c:
        engine = Silent()
        key = c.serve(engine.url)
        before = metric(c, "process_resident_memory_bytes")
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
        assert metric(c, "seki_gateway_requests_active") == streams
        begun, used = time.monotonic(), metric(c, "process_cpu_seconds_total")
        wait_for(lambda: time.monotonic() - begun > 3, what="three seconds of silence")
        idle = (metric(c, "process_cpu_seconds_total") - used) / (time.monotonic() - begun)
        grown = (metric(c, "process_resident_memory_bytes") - before) / streams
        print(f"{streams} idle streams: {grown / 1024:.1f} KiB each, {idle:.1%} of a core")
        assert idle < 0.3 * SLOW and grown < 64 * 1024 * SLOW
        engine.finish()
        for client in clients:
            client.read_until(b"[DONE]")
            client.close()
        wait_for(lambda: metric(c, "seki_gateway_requests_active") == 0, what="all to be settled")
        engine.stopping = True


def test_memory_is_flat_over_a_soak():
    """Two minutes of distinct prompts, streams, broken engines and leaving clients: after the first fifth memory and descriptors stand still."""
    seconds = 120
    with Cloud(options={"gateway-threads": 2, "log-level": "info"}) as c:
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
                samples.append((metric(c, "process_resident_memory_bytes"), metric(c, "process_open_fds")))
            for r in running:
                r.result()
        early, late = (max(m for m, _ in part) for part in (samples[seconds // 5: seconds // 5 * 2], samples[-seconds // 5:]))
        print(f"{sum(done)} requests: {early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB; {max(f for _, f in samples)} descriptors at most")
        # A sanitized build keeps what was freed: it may fill its quarantine.
        assert late - early < (16 << 20 if SLOW == 1 else 300 << 20)
        assert max(f for _, f in samples[-10:]) <= max(f for _, f in samples[:30]) + 8
        engine.stop()
