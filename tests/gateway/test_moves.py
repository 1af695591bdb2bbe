"""A request outlives the routes that it came with: while it waits or runs, keys, rules and replicas change, and what it does next obeys what is true then."""
import json
import queue
import select
import socket
import threading

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_STOP, STREAM_TEXT, RawClient, answer, journal, post

POLICIES = "/apis/seki.cloud/v1alpha1/namespaces/clinic/residencypolicies"
BROKEN = answer(b"{}", status=502)


class Call:
    def __init__(self, sock, body):
        self.sock, self.body, self.said = sock, body, threading.Event()

    def say(self, data, close=False):
        self.sock.sendall(data)
        if close:
            self.sock.shutdown(socket.SHUT_RDWR)
        self.said.set()


class Engine:
    """A server elsewhere whose every answer the test gives by hand: calls.get() is the next request."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.calls, self.asked = queue.Queue(), 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        f = sock.makefile("rb")
        with sock:
            while line := f.readline():
                length = 0
                while (header := f.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                body = f.read(length)
                if line.startswith(b"GET"):
                    sock.sendall(answer(b'{"object":"list","data":[{"id":"m","object":"model"}]}'))
                    continue
                self.asked += 1
                call = Call(sock, body)
                self.calls.put(call)
                call.said.wait(60)

    def next(self):
        return self.calls.get(timeout=30)


@pytest.fixture(scope="module")
def engines():
    both = Engine(), Engine()
    yield both
    for e in both:
        e.listener.close()


@pytest.fixture(scope="module")
def cloud(engines):
    tokyo, paris = engines
    with Cloud(options={"gateway-threads": 1, "gateway-keepalive": "100ms", "gateway-queue-timeout": "60s"}) as c:
        c.project("clinic", tenant="health")
        c.create_site("tokyo", jurisdiction="JP", servers=[tokyo.address])
        c.create_site("paris", jurisdiction="FR", servers=[paris.address])
        c.create("modelendpoints", "clinic", "m", {"replicas": 2, "engine": {"driver": "openai", "remoteModel": "m", "maxConcurrentRequests": 1}, "servers": [{"url": f"http://{e.address}/v1"} for e in engines]})
        c.create("modelendpoints", "clinic", "foreign", {"engine": {"driver": "openai", "remoteModel": "m", "url": f"http://{paris.address}/v1"}})
        c.create("modelendpoints", "clinic", "goes-on", {"replicas": 2, "engine": {"driver": "vllm", "remoteModel": "m"}, "servers": [{"url": f"http://{e.address}/v1"} for e in engines]})
        for name in ("m", "foreign", "goes-on"):
            c.wait_condition("modelendpoints", "clinic", name)
        for name in ("m", "goes-on"):
            wait_for(lambda name=name: c.get("modelendpoints", "clinic", name)["status"].get("readyReplicas") == 2, what="both replicas")
        c.secret, c.keys = c.key("clinic"), 0
        for name in ("m", "foreign", "goes-on"):
            wait_for(lambda name=name: c.gateway_status(f"/models/{name}", c.secret) == 200, what=name)
        yield c


def ask(c, text="hi", key=None, **more):
    client = RawClient(c.address("gateway"))
    client.send(post(key or c.secret, {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}))
    return client


def changed(c):
    """The gateway has newer routes than before."""
    c.keys += 1
    c.key("clinic", f"more-{c.keys}")


def waiting(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_requests_waiting", ()]


def looked(client):
    """It has waited for longer than until the next look at the routes."""
    for _ in range(8):
        client.read_until(b": keep-alive")


def test_a_replica_of_old_routes_is_let_go(cloud, engines):
    tokyo, paris = engines
    holders = [ask(cloud), ask(cloud)]
    at_tokyo, at_paris = tokyo.next(), paris.next()
    with ask(cloud, stream=True) as moved:
        wait_for(lambda: waiting(cloud) == 1, what="it to wait")
        changed(cloud)
        looked(moved)
        at_tokyo.say(answer())
        its = tokyo.next()
        changed(cloud)
        holders.append(ask(cloud))
        wait_for(lambda: waiting(cloud) == 1, what="another to wait")
        its.say(BROKEN)
        last = tokyo.next()
        wait_for(lambda: waiting(cloud) == 1, what="it to wait again")
        looked(moved)
        old = len(journal(cloud.data / "ledger"))
    wait_for(lambda: len(journal(cloud.data / "ledger")) > old, what="its record")
    record = journal(cloud.data / "ledger")[-1]
    assert record["outcome"] == "client_gone" and record["replica"].startswith("m-")
    at_paris.say(answer())
    last.say(answer())
    assert [h.response().status for h in holders] == [200, 200, 200]
    assert cloud.alive()


def answered(client):
    return bool(select.select([client.sock], [], [], 0)[0])


@pytest.fixture
def only_japan(cloud, engines):
    """only_japan(): the rule holds from then on."""
    def make():
        cloud.create("residencypolicies", "clinic", "only-japan", {"jurisdictions": ["JP"]})
        wait_for(lambda: rule_holds(), what="the rule")

    def rule_holds():
        with ask(cloud, model="foreign") as client:
            wait_for(lambda: engines[1].calls.qsize() or answered(client), what="the engine to be asked, or a refusal")
            if not engines[1].calls.qsize():
                return client.response().status == 403
            engines[1].next().say(answer())
            return client.response().status == 403
    yield make
    cloud.api("DELETE", f"{POLICIES}/only-japan")
    wait_for(lambda: not rule_holds(), what="the end of the rule")


def at_first_in_tokyo(cloud, engines, **more):
    """A request that runs in Tokyo, with Paris free."""
    tokyo, paris = engines
    for _ in range(20):
        client = ask(cloud, **more)
        wait_for(lambda: tokyo.calls.qsize() + paris.calls.qsize(), what="an engine to be asked")
        if tokyo.calls.qsize():
            return client, tokyo.next()
        paris.next().say(answer())
        client.read_head()
        client.close()
    raise AssertionError("never in Tokyo")


def test_a_second_try_obeys_the_rules_of_now(cloud, engines, only_japan):
    client, call = at_first_in_tokyo(cloud, engines)
    only_japan()
    before = engines[1].asked
    call.say(BROKEN)
    assert client.response().status in (502, 503)
    assert engines[1].asked == before


def test_a_text_that_goes_on_obeys_the_rules_of_now(cloud, engines, only_japan):
    client, call = at_first_in_tokyo(cloud, engines, model="goes-on", stream=True)
    call.sock.sendall(STREAM_HEAD + STREAM_ROLE + STREAM_TEXT)
    client.read_until(b"good")
    only_japan()
    before, old = engines[1].asked, len(journal(cloud.data / "ledger"))
    call.say(b"", close=True)
    wait_for(lambda: engines[1].asked > before or len(journal(cloud.data / "ledger")) > old, what="its end")
    assert engines[1].asked == before
    client.read_until(b"error")


def test_counts_that_cannot_be_are_not_added_up(cloud, engines):
    """An engine that goes on with a text says that it made as much as a number can be."""
    client, call = at_first_in_tokyo(cloud, engines, model="goes-on", stream=True, stream_options={"include_usage": True})
    call.sock.sendall(STREAM_HEAD + STREAM_ROLE + STREAM_TEXT)
    client.read_until(b"good")
    call.say(b"", close=True)
    most = 2**63 - 1
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": most, "completion_tokens": most, "total_tokens": most}}).encode()
    engines[1].next().say(STREAM_HEAD + STREAM_ROLE + STREAM_TEXT + STREAM_STOP + b"data: " + usage + b"\n\n" + STREAM_DONE, close=True)
    client.read_until(b"[DONE]")
    assert cloud.alive()


@pytest.mark.parametrize("change, status", [({"disabled": True}, 401), (None, 401)], ids=["disabled", "deleted"])
def test_who_waits_with_a_key_that_goes_is_refused(cloud, engines, change, status):
    tokyo, paris = engines
    holders = [ask(cloud), ask(cloud)]
    calls = [tokyo.next(), paris.next()]
    path = f"/apis/seki.cloud/v1alpha1/namespaces/clinic/apikeys/gone-{bool(change)}".lower()
    secret = cloud.key("clinic", path.rsplit("/", 1)[1])
    client = ask(cloud, key=secret)
    wait_for(lambda: waiting(cloud) == 1, what="it to wait")
    if change:
        cloud.api("PATCH", path, {"spec": change}, content_type="application/merge-patch+json")
    else:
        cloud.api("DELETE", path)
    r = client.response()
    assert r.status == status and r.json()["error"]["code"] == "invalid_api_key"
    for call in calls:
        call.say(answer())
    assert [h.response().status for h in holders] == [200, 200]


def test_a_second_try_with_a_key_that_is_gone_is_refused(cloud, engines):
    secret = cloud.key("clinic", "gone-meanwhile")
    client, call = at_first_in_tokyo(cloud, engines, key=secret)
    cloud.api("DELETE", "/apis/seki.cloud/v1alpha1/namespaces/clinic/apikeys/gone-meanwhile")
    wait_for(lambda: cloud.gateway_status("/models", secret) == 401, what="the key to be gone")
    before = engines[1].asked
    call.say(BROKEN)
    r = client.response()
    assert r.status == 401 and r.json()["error"]["code"] == "invalid_api_key" and engines[1].asked == before


def test_who_waits_for_what_his_key_may_call_no_more_is_refused(cloud, engines):
    holders = [ask(cloud), ask(cloud)]
    calls = [e.next() for e in engines]
    secret = cloud.key("clinic", "narrowed")
    client = ask(cloud, key=secret)
    wait_for(lambda: waiting(cloud) == 1, what="it to wait")
    cloud.api("PATCH", "/apis/seki.cloud/v1alpha1/namespaces/clinic/apikeys/narrowed", {"spec": {"endpoints": ["foreign"]}}, content_type="application/merge-patch+json")
    r = client.response()
    assert r.status == 404 and r.json()["error"]["code"] == "model_not_found"
    for call in calls:
        call.say(answer())
    assert [h.response().status for h in holders] == [200, 200]


def test_a_second_try_of_what_a_key_may_call_no_more_is_refused(cloud, engines):
    secret = cloud.key("clinic", "narrowed-later")
    client, call = at_first_in_tokyo(cloud, engines, key=secret)
    cloud.api("PATCH", "/apis/seki.cloud/v1alpha1/namespaces/clinic/apikeys/narrowed-later", {"spec": {"endpoints": ["foreign"]}}, content_type="application/merge-patch+json")
    wait_for(lambda: cloud.gateway_status("/models/m", secret) == 404, what="it to be so")
    before = engines[1].asked
    call.say(BROKEN)
    r = client.response()
    assert r.status == 404 and r.json()["error"]["code"] == "model_not_found" and engines[1].asked == before


def test_a_refusal_of_ours_costs_nothing_though_an_engine_was_asked(cloud, engines):
    """Rates count what an engine judged, not what a rule refused after an engine had failed."""
    def left():
        with ask(cloud, key=secret, model="foreign") as client:
            engines[1].next().say(answer())
            return int(client.response().headers["x-ratelimit-remaining-requests"])
    secret = cloud.key("clinic", "counted", limits={"requestsPerMinute": 3})
    assert left() == 2
    with ask(cloud) as holder:
        wait_for(lambda: sum(e.calls.qsize() for e in engines), what="an engine to be asked")
        busy, free = sorted(engines, key=lambda e: -e.calls.qsize())
        held = busy.next()
        with ask(cloud, key=secret) as client:
            call = free.next()
            held.say(answer())
            assert holder.response().status == 200
            cloud.api("PATCH", "/apis/seki.cloud/v1alpha1/namespaces/clinic/apikeys/counted", {"spec": {"endpoints": ["foreign"]}}, content_type="application/merge-patch+json")
            wait_for(lambda: cloud.gateway_status("/models/m", secret) == 404, what="it to be so")
            call.say(BROKEN)
            assert client.response().status == 404
    assert left() >= 1


def test_the_rule_is_told_of_who_has_moved_to_newer_routes(cloud, engines, only_japan):
    tokyo, _ = engines
    only_japan()
    holder = ask(cloud)
    held = tokyo.next()
    with ask(cloud) as moved:
        wait_for(lambda: waiting(cloud) == 1, what="it to wait")
        changed(cloud)
        with ask(cloud, stream=True) as other:  # who comes later has looked, too
            looked(other)
        held.say(answer())
        tokyo.next().say(answer())
        r = moved.response()
        assert r.status == 200 and "rule=\"ResidencyPolicy clinic/only-japan\"" in r.headers["x-seki-route"]
    assert holder.response().status == 200
