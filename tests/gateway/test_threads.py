"""Several loops at once: load, keys that come and go, replicas that come and go, clients that leave. Under ThreadSanitizer this is where races show; everywhere it is where
counts must agree."""
import concurrent.futures
import json
import random
import threading

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import RawClient, journal

pytestmark = pytest.mark.threads
WORKERS, EACH = 8, 25


@pytest.fixture(scope="module")
def busy():
    with Cloud(options={"gateway-threads": 4}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "two", replicas=2, tokens=5)
        c.fake_endpoint("demo", "long", tokens=100000, tokens_per_second=100)
        c.secret = c.key("demo")
        yield c


def body_of(model, **more):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **more}).encode()


def post(c, client, secret, body):
    client.send(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def work(c, seed):
    """Returns how many requests had a key that holds; each kind of ending is among them."""
    dice, counted = random.Random(seed), 0
    for _ in range(EACH):
        kind = dice.choice(["whole", "stream", "leave", "wrong", "unknown"])
        with RawClient(c.address("gateway")) as client:
            if kind == "leave":
                post(c, client, c.secret, body_of("long", stream=True))
                client.read_until(b"tok1")
            else:
                post(c, client, "wrong" if kind == "wrong" else c.secret, body_of("nope" if kind == "unknown" else "two", stream=kind == "stream"))
                assert client.response().status == {"wrong": 401, "unknown": 404}.get(kind, 200)
            counted += kind != "wrong"
    return counted


def change(c, stop):
    """Makes the snapshot new again and again."""
    n = 0
    while not stop.is_set():
        name = f"k{n}"
        secret = c.create("apikeys", "demo", name, {})["status"]["key"]
        wait_for(lambda: c.gateway_status("/models", secret) == 200, what="the new key")
        c.api("DELETE", f"/apis/seki.cloud/v1alpha1/namespaces/demo/apikeys/{name}")
        wait_for(lambda: c.gateway_status("/models", secret) == 401, what="the key to be gone")
        n += 1
    return n


def test_load_changes_and_aborts(busy):
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(WORKERS + 1) as pool:
        changes = pool.submit(change, busy, stop)
        try:
            counted = sum(pool.map(lambda seed: work(busy, seed), range(WORKERS)))
        finally:
            stop.set()
        assert changes.result() > 0
    wait_for(lambda: "seki_gateway_requests_active 0\n" in busy.metrics("metrics-gateway"), what="all requests to be settled")
    records = journal(busy.data / "ledger")
    samples = parse(busy.metrics("metrics-gateway"))
    summed = sum(v for (n, l), v in samples.items() if n == "seki_gateway_refused_counted_total")  # refusals beyond a few have no record of their own
    assert len({r["id"] for r in records}) == len(records) and counted - summed <= sum(r.get("count", 1) for r in records) <= counted
    assert sum(v for (n, l), v in samples.items() if n == "seki_gateway_requests_total" and ("route", "none") not in l) == counted


def test_drain_under_load(busy):
    """SIGTERM while requests run: each gets its whole answer or none at all, and what was counted stays counted."""
    clients = [RawClient(busy.address("gateway")) for _ in range(WORKERS)]
    for client in clients:
        post(busy, client, busy.secret, body_of("long", stream=True, max_tokens=100))
    for client in clients:
        client.read_until(b"tok0")
    busy.process.terminate()
    for client in clients:
        client.read_until(b"data: [DONE]\n\n")
        client.close()
    assert busy.process.wait(60) == 0
    busy.start()  # SIGTERM leaves engines running, by design: they are adopted, and stopped with it
