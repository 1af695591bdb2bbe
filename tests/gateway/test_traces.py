"""Traces: the collector of OpenTelemetry takes them; they say where a request's time went, and not what was in it; and requests do not wait for them."""
import json
import secrets

import pytest

from cloud import Cloud, wait_for
from collector import Collector
from exposition import parse
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_STOP, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, post

CANARY = "xyzzy-canary-17"
CHAT = {"model": "m", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 40}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
GOOD = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT.replace(b"good", CANARY.encode()), STREAM_STOP, STREAM_USAGE, STREAM_DONE, "close"]
SERVER, CLIENT, INTERNAL = 2, 3, 1


@pytest.fixture(scope="module")
def collector():
    with Collector() as c:
        yield c


@pytest.fixture(scope="module")
def cloud(collector):
    with Cloud(options={"tracing-otlp-endpoint": collector.endpoint, "gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.project("demo", tenant="acme")
        c.create("modelendpoints", "demo", "m", {"replicas": 2, "engine": {"driver": "openai", "url": c.upstream.url}})
        c.create("modelendpoints", "demo", "one", {"engine": {"driver": "openai", "url": c.upstream.url, "remoteModel": "m", "maxConcurrentRequests": 1}})
        for name in ("m", "one"):
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        wait_for(lambda: c.get("modelendpoints", "demo", "m")["status"].get("readyReplicas") == 2, what="both replicas")
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", c.secret) == 200 for m in ("m", "one")), what="the models")
        yield c
        c.upstream.stop()


def parent(sampled=True):
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, f"traceparent: 00-{trace}-{span}-0{int(sampled)}\r\ntracestate: them=1\r\n"


def ask(c, body, headers="", path="chat/completions"):
    with RawClient(c.address("gateway")) as client:
        client.send(post(c.secret, body, path, headers))
        return client.response()


def header_of(head, name):
    return [line.partition(": ")[2] for line in head.decode().split("\r\n") if line.lower().startswith(name + ":")]


def test_a_stream_that_another_replica_took_over(cloud, collector):
    cloud.upstream.first[:] = [["reset"]]
    cloud.upstream.script = GOOD
    cloud.upstream.requests[:] = []
    trace, span, headers = parent()
    assert ask(cloud, STREAM, headers).status == 200
    root, first, second = collector.trace(trace, 3)
    a = root["attributes"]
    assert root["kind"] == SERVER and root["name"] == "chat m" and root["parentSpanId"] == span and root.get("status", {}).get("code") != 2
    assert root["resource"]["service.name"] == "seki-gateway" and root["resource"]["service.instance.id"] == "gateway"
    want = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "seki", "gen_ai.request.max_tokens": 40, "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1, "http.route": "/v1/chat/completions", "http.response.status_code": 200,
            "seki.tenant": "acme", "seki.project": "demo", "seki.key": "key", "seki.endpoint": "m", "seki.endpoint.project": "demo", "seki.outcome": "ok", "seki.attempts": 2}
    assert {k: a.get(k) for k in want} == want
    assert 0 < a["gen_ai.response.time_to_first_chunk"] < (int(root["endTimeUnixNano"]) - int(root["startTimeUnixNano"])) / 1e9
    for number, s in enumerate((first, second), 1):
        assert s["kind"] == CLIENT and s["parentSpanId"] == root["spanId"] and s["attributes"]["seki.attempt"] == number
        assert int(root["startTimeUnixNano"]) <= int(s["startTimeUnixNano"]) <= int(s["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])
    assert first["status"]["code"] == 2 and first["attributes"]["error.type"] == "connect" and second["attributes"]["http.response.status_code"] == 200
    assert {first["attributes"]["seki.replica"], second["attributes"]["seki.replica"]} == {"m-0", "m-1"}
    told = [(header_of(head, "traceparent"), header_of(head, "tracestate")) for head, _ in cloud.upstream.requests]
    assert told == [([f"00-{trace}-{s['spanId']}-01"], ["them=1"]) for s in (first, second)], "each replica is told its own span"


def test_who_waits_for_a_turn(cloud, collector):
    cloud.upstream.go.clear()
    cloud.upstream.script = ["wait", answer()]
    cloud.upstream.requests[:] = []
    trace, _, headers = parent()
    with RawClient(cloud.address("gateway")) as running, RawClient(cloud.address("gateway")) as waits:
        running.send(post(cloud.secret, {**CHAT, "model": "one"}))
        cloud.upstream.wait(lambda: cloud.upstream.requests, "the first")
        waits.send(post(cloud.secret, {**CHAT, "model": "one"}, headers=headers))
        wait_for(lambda: "seki_gateway_requests_waiting 1\n" in cloud.metrics("metrics-gateway"), what="the second to wait")
        cloud.upstream.go.set()
        assert running.response().status == waits.response().status == 200
    root, queue, attempt = collector.trace(trace, 3)
    assert (queue["name"], queue["kind"], queue["attributes"]) == ("queue", INTERNAL, {"seki.wait": "queue"})
    assert int(queue["startTimeUnixNano"]) < int(queue["endTimeUnixNano"]) <= int(attempt["startTimeUnixNano"])
    assert header_of(cloud.upstream.requests[0][0], "traceparent") == [], "who was not sampled has no context of ours"


def test_what_a_client_writes_for_a_model_is_in_no_trace(cloud, collector):
    trace, _, headers = parent()
    assert ask(cloud, {**CHAT, "model": CANARY}, headers).status == 404
    (root,) = collector.trace(trace)
    assert root["name"] == "chat" and root["attributes"]["error.type"] == "refused" and "gen_ai.request.model" not in root["attributes"]
    cloud.upstream.script = [answer(b'{"error":{"message":"' + CANARY.encode() + b'"}}', 500)]
    trace, _, headers = parent()
    assert ask(cloud, CHAT, headers).status == 500
    (root, *attempts) = collector.trace(trace, 2)
    assert root["status"]["code"] == 2 and root["attributes"]["error.type"] == "upstream_error" and attempts[-1]["attributes"]["http.response.status_code"] == 500
    assert CANARY not in json.dumps(collector.spans)


def test_who_says_no_is_not_traced(cloud, collector):
    cloud.upstream.script = [answer()]
    cloud.upstream.requests[:] = []
    no, _, headers = parent(sampled=False)
    yes, _, later = parent()
    assert ask(cloud, CHAT, headers).status == ask(cloud, CHAT, later).status == ask(cloud, CHAT).status == 200
    collector.trace(yes, 2)
    assert not [s for s in collector.spans if s["traceId"] == no]
    assert header_of(cloud.upstream.requests[0][0], "traceparent") == [headers.split("\r\n")[0].partition(": ")[2]], "his context is passed on as it is"


def counters(c):
    return {"sent" if name.endswith("sent_total") else dict(labels)["reason"]: v for (name, labels), v in parse(c.metrics("metrics-gateway")).items() if name.startswith("seki_gateway_traces_")}


def test_a_collector_that_is_away(cloud, collector):
    """Requests are served, what was recorded waits a while, and reaches the one that comes back."""
    before = counters(cloud)["sent"]
    collector.stop()
    trace, _, headers = parent()
    assert ask(cloud, CHAT, headers).status == 200
    collector.start()
    collector.trace(trace, 2)
    wait_for(lambda: counters(cloud)["sent"] > before, what="it to be counted")
    assert sum(v for k, v in counters(cloud).items() if k != "sent") == 0


def test_by_chance_and_at_the_end():
    """All are sampled; what waits when the gateway is told to end is sent first."""
    with Collector() as collector, Cloud(options={"tracing-otlp-endpoint": collector.endpoint, "tracing-sample-per-million": 1000000, "gateway-threads": 1}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "m", tokens=2)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", c.secret) == 200, what="the model")
        for _ in range(3):
            assert ask(c, CHAT).status == 200
        c.stop()
        wait_for(lambda: len({s["traceId"] for s in collector.spans}) == 3, what="three traces")
        assert all(not s.get("parentSpanId") for s in collector.spans if s["kind"] == SERVER)
