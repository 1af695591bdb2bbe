"""Engines that are busy, flap, fall silent, are swapped under load; and a clock that jumps."""
import concurrent.futures
import os
import threading
import time

import pytest

from cloud import BUILD, Cloud, GROUP, wait_for
from exposition import parse
from jumpy import Jumpy
from target import Target
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, journal

GOOD = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, STREAM_DONE, "close"]


def busy(seconds=1):
    return [answer(b'{"error":{"message":"too much to do","type":"rate_limit"}}', 429, headers=f"Retry-After: {seconds}\r\n")]


@pytest.fixture(scope="module")
def pair():
    """Two servers behind one name, each in the test's hands, and a gateway with short patience."""
    with Cloud(options={"gateway-idle-timeout": "2s", "gateway-first-byte-timeout": "8s", "gateway-threads": 1}) as c:
        c.engines = [Upstream(), Upstream()]
        c.project("demo")
        for i, e in enumerate(c.engines):
            c.create("modelendpoints", "demo", f"m{i}", {"engine": {"driver": "openai", "url": e.url}})
        c.create("modelendpoints", "demo", "both", {"replicas": 2, "engine": {"driver": "openai", "url": c.engines[0].url}})
        for name in ("m0", "m1", "both"):
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", c.secret) == 200 for m in ("m0", "m1", "both")), what="the models")
        yield c
        for e in c.engines:
            e.stop()


def target(c, model, n=0):
    return Target(c.address("gateway"), c.secret, model, c.engines[n], c)


@pytest.fixture
def lone(pair):
    t = target(pair, "m0")
    t.engine.requests[:], t.engine.script = [], list(GOOD)
    yield t
    t.engine.go.set()
    t.well()
    t.engine.go.clear()


def metric(c, name):
    return sum(v for (n, _), v in parse(c.metrics("metrics-gateway")).items() if n == name)


def test_a_storm_of_429(pair, lone):
    """Two hundred requests meet an engine that has too much to do: each gets its word and its time, nobody is put aside, no place is lost, and when it is over all is well at once."""
    aside = metric(pair, "seki_gateway_replicas_put_aside_total")
    lone.engine.script = busy(1)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: lone.ask(), range(200)))
    assert {a.status for a in answers} == {429} and {a.headers["retry-after"] for a in answers} == {"1"}
    assert all(b"too much to do" in a.body for a in answers)
    lone.engine.script = list(GOOD)
    assert [lone.ask().status for _ in range(20)] == [200] * 20
    assert metric(pair, "seki_gateway_replicas_put_aside_total") == aside
    wait_for(lambda: metric(pair, "seki_gateway_requests_active") == 0, what="all to be settled")


def test_who_is_busy_is_left_alone_for_as_long_as_it_asks(pair):
    first, second = engines = [Upstream(), Upstream()]
    first.script, second.script = busy(30), list(GOOD)
    pair.create("modelendpoints", "demo", "apart", {"engine": {"driver": "openai", "remoteModel": "m"}, "replicas": 2, "servers": [{"url": e.url} for e in engines]})
    wait_for(lambda: pair.get("modelendpoints", "demo", "apart").get("status", {}).get("readyReplicas") == 2, what="both servers")
    t = Target(pair.address("gateway"), pair.secret, "apart", second, pair)
    wait_for(lambda: t.ask().status == 200 and first.requests, what="the busy one to have been asked")
    until, asked = time.monotonic() + 2.5, len(first.requests)  # a busy one that does not say is asked again sooner
    while time.monotonic() < until:
        assert t.ask().status == 200
    assert len(first.requests) == asked
    for e in engines:
        e.stop()


def test_a_flapping_replica(pair):
    """Every other request of a replica fails before its first content: no client sees more of it than its share of retries allows, and nothing stays broken."""
    t = target(pair, "both")
    dice = iter([0, 0, 0, 1, 0, 0, 1, 0, 0, 0] * 1000)
    t.engine.script = lambda head, body: (["reset"] if next(dice) else GOOD)
    statuses = [t.ask().status for _ in range(300)]
    assert statuses.count(200) >= 295, {s: statuses.count(s) for s in set(statuses)}
    t.engine.script = list(GOOD)
    wait_for(lambda: [t.ask().status for _ in range(5)] == [200] * 5, what="the replica to be well")
    t.well()


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_an_engine_that_hangs_after_so_many_tokens(pair, lone, tokens):
    """Its streams end with an error that says so, are counted as far as they went, and hold nothing afterwards."""
    lone.engine.script = [STREAM_HEAD, STREAM_ROLE, *[STREAM_TEXT] * tokens, "hold"]
    held = lone.engine.closed
    got = lone.ask()
    if tokens:
        assert got.status == 200 and got.body.startswith(STREAM_ROLE + STREAM_TEXT * tokens) and b'"code":"upstream_error"' in got.body and b"[DONE]" not in got.body
    else:
        assert got.status in (502, 504) and got.json()["error"]["code"].startswith("upstream_")
    lone.engine.wait(lambda: lone.engine.closed > held, "the engine to be let go")
    record = journal(pair.data / "ledger")[-1]
    assert record["outcome"] in ("timeout", "upstream_error") and record["completion_tokens"] == tokens


def test_one_that_hangs_holds_up_no_other(pair, lone):
    """Streams of one engine hang; another endpoint's answer as ever meanwhile."""
    other = target(pair, "m1", 1)
    other.engine.script = list(GOOD)
    lone.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    hung = [RawClient(lone.address) for _ in range(50)]
    for client in hung:
        lone.send(client)
        client.read_until(b"good")
    assert [other.ask().status for _ in range(50)] == [200] * 50
    lone.engine.go.set()
    for client in hung:
        assert b"[DONE]" in client.read_until(b"[DONE]")
        client.close()


@pytest.mark.parametrize(("replicas", "surge"), [pytest.param(1, 1, id="one"), pytest.param(2, 1, id="two", marks=pytest.mark.full), pytest.param(2, 0, id="without room", marks=pytest.mark.full)])
def test_a_model_is_swapped_under_load(own_cloud, replicas, surge):
    """Its replicas are replaced while streams run and new ones come: none is aborted, none is refused."""
    c = own_cloud(options={"gateway-threads": 2})
    c.project("demo")
    c.create("modelendpoints", "demo", "swap", {"replicas": replicas, "maxSurge": surge, "engine": {"driver": "fake", "options": {"tokens": "40", "tokensPerSecond": "40"}}})
    c.wait_condition("modelendpoints", "demo", "swap")
    wait_for(lambda: c.get("modelendpoints", "demo", "swap")["status"]["readyReplicas"] == replicas, what="all replicas")
    secret = c.key("demo")
    t = Target(c.address("gateway"), secret, "swap", None, c)
    wait_for(lambda: c.gateway_status("/models/swap", secret) == 200, what="the model")
    stop, results, lock = threading.Event(), [], threading.Lock()

    def load():
        while not stop.is_set():
            try:
                got = t.ask()
                fine = got.status == 200 and got.body.endswith(STREAM_DONE) and b'"error"' not in got.body
                what = "ok" if fine else f"{got.status} {got.body[-200:]}"
            except EOFError as e:
                what = f"broken: {e}"
            with lock:
                results.append(what)

    def started():
        return [r.get("status", {}).get("pid") for r in c.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"]]
    threads = [threading.Thread(target=load) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(replicas):
            before = started()
            c.api("PATCH", f"{GROUP}/namespaces/demo/modelendpoints/swap", {"spec": {"engine": {"options": {"tokens": str(61 + generation)}}}}, "application/merge-patch+json")

            def swapped():
                now = started()
                return len(now) == replicas and not set(before) & set(now) and c.get("modelendpoints", "demo", "swap")["status"].get("readyReplicas") == replicas
            wait_for(swapped, 30, "all engines to be new ones")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    bad = [r for r in results if r != "ok"]
    assert results and not bad, (len(results), len(bad), bad[:5])


# ---- the clock ----

@pytest.mark.parametrize("seconds", [86400 * 3, -86400 * 3], ids=["ahead", "back"])
def test_a_clock_that_jumps(seconds):
    """The wall clock is moved three days while a stream runs: it goes on, limits do not open or close, nobody is put aside, and what ran is counted with a sane duration."""
    with Jumpy(options={"gateway-threads": 1, "gateway-idle-timeout": "20s"}) as c:
        engine = Upstream()
        c.project("demo")
        c.remote_endpoint("demo", "m", engine.url)
        few = c.key("demo", "few", limits={"requestsPerMinute": 3})
        wait_for(lambda: c.gateway_status("/models/m", few) == 200, what="the model")
        t = Target(c.address("gateway"), few, "m", engine, c)
        engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_TEXT, STREAM_USAGE, STREAM_DONE, "close"]
        with RawClient(t.address) as client:
            t.send(client)
            client.read_until(b"good")
            c.jump.write_text(f"{seconds}\n")
            engine.script = [answer()]
            statuses = [t.ask(t.chat(stream=False)).status for _ in range(4)]
            assert statuses == [200, 200, 429, 429], "a minute is a minute"
            engine.go.set()
            assert b"[DONE]" in client.read_until(b"[DONE]")
        wait_for(lambda: metric(c, "seki_gateway_requests_active") == 0, what="the end")
        assert metric(c, "seki_gateway_replicas_put_aside_total") == 0
        ran = next(r for r in journal(c.data / "ledger") if r["stream"])
        assert 0 <= ran["duration_ms"] < 600000 and ran["outcome"] == "ok"
        assert c.alive()
        engine.stop()


# ---- leaving the real engine ----

@pytest.mark.skipif(not os.path.exists(BUILD), reason="no build")
def test_the_real_engine_s_slot_is_free_soon_after_a_client_leaves(own_cloud):
    """llama.cpp looks at its connection after each batch: the figure is printed (-s)."""
    c = own_cloud()
    c.project("demo")
    c.real_endpoint("demo", "gemma", parallel=1)
    secret = c.key("demo")
    wait_for(lambda: c.gateway_status("/models/gemma", secret) == 200, what="the model")
    t = Target(c.address("gateway"), secret, "gemma", None, c)
    times = []
    for _ in range(5):
        client = RawClient(t.address)
        t.send(client, {"model": "gemma", "messages": [{"role": "user", "content": "Count to a thousand, in words."}], "stream": True, "max_tokens": 400})
        client.read_until(b'"content":"')
        begun = time.monotonic()
        client.close()
        # There is one slot: whoever comes next gets his first word only when it is free.
        with RawClient(t.address) as following:
            t.send(following, {"model": "gemma", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
            assert following.response().status == 200
        times.append((time.monotonic() - begun) * 1000)
    print("next answer after a client left, ms:", [f"{x:.0f}" for x in times])
    assert min(times) < 5000
