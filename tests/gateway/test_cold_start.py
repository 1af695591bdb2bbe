"""Endpoints that start with the first request and stop when nobody asks: requests are held, told how long, sent in order, and none is lost; more engines come with a queue."""
import json
import threading
import time

import pytest

from cloud import ApiError, Cloud, GROUP, wait_for
from exposition import parse
from wire import RawClient, journal


pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-hold-max": 8, "gateway-hold-bytes": "64K", "gateway-hold-timeout": "30s", "gateway-keepalive": "100ms", "engine-drain": "20s"}) as c:
        c.project("lab")
        c.secret = c.key("lab")
        yield c


def endpoint(c, name, scaling=None, parallel=2, replicas=0, wait="ScaledToZero", **options):
    c.create("modelendpoints", "lab", name, {"replicas": replicas, "scaling": {"minReplicas": 0, "maxReplicas": 1, **(scaling or {})},
                                            "engine": {"driver": "fake", "parallel": parallel, "options": {"tokens": "4", **options}}})
    if wait:
        c.wait_condition("modelendpoints", "lab", name, status="False", reason=wait)
    wait_for(lambda: c.gateway_status(f"/models/{name}", c.secret) == 200, what=f"the gateway to know {name}")
    return name


def send(c, model, text="hi", **more):
    data = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}).encode()
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data


def ask(c, model, **more):
    with RawClient(c.address("gateway")) as client:
        client.send(send(c, model, **more))
        return client.response()


class Asks:
    """So many requests at once; .got: their answers."""

    def __init__(self, c, model, count=1, **more):
        self.got = []
        self.threads = [threading.Thread(target=lambda: self.got.append(ask(c, model, **more)), daemon=True) for _ in range(count)]
        for t in self.threads:
            t.start()

    def wait(self, timeout=120):
        for t in self.threads:
            t.join(timeout)
        assert len(self.got) == len(self.threads), "some were not answered"
        return self.got


def value(c, name, which="metrics-gateway"):
    return parse(c.metrics(which))[name, ()]


def replicas(c, name):
    return c.get("modelendpoints", "lab", name)["spec"]["replicas"]


def names(c, name):
    items = c.api("GET", f"{GROUP}/namespaces/lab/modelreplicas")["items"]
    return sorted(r["metadata"]["name"] for r in items if r["spec"]["endpoint"] == name and not r["metadata"].get("deletionTimestamp"))


def delete(c, name):
    c.api("DELETE", f"{GROUP}/namespaces/lab/modelendpoints/{name}")


def events(c, name):
    return {(e["reason"], e["message"]) for e in c.api("GET", "/api/v1/namespaces/lab/events")["items"] if e["involvedObject"]["name"] == name}


def test_the_first_request_starts_an_engine_and_idleness_stops_it(cloud):
    name = endpoint(cloud, "zero", {"idleSeconds": 2}, loadDelayMs="1500")
    asks = Asks(cloud, name, 3)
    wait_for(lambda: value(cloud, "seki_gateway_requests_held") == 3, what="them to be held")
    assert [r.status for r in asks.wait()] == [200] * 3
    assert value(cloud, "seki_gateway_requests_held") == 0
    load = wait_for(lambda: cloud.get("modelendpoints", "lab", name)["status"].get("load"), what="the time that loading took")
    assert load["lastMilliseconds"] >= 1400 and load["medianMilliseconds"] == load["lastMilliseconds"]
    assert cloud.condition("modelendpoints", "lab", name, "ScalingActive")["status"] == "True"
    wait_for(lambda: replicas(cloud, name) == 0 and names(cloud, name) == [], what="it to stop")
    seen = events(cloud, name)
    assert ("ScaledFromZero", "scaled 0→1: a request waits") in seen
    assert any(reason == "ScaledToZero" and message.startswith("scaled 1→0: nothing was asked for ") for reason, message in seen), seen
    # Now it is known how long it takes: streams are told.
    with RawClient(cloud.address("gateway")) as client:
        client.send(send(cloud, name, stream=True))
        got = client.response()
    assert got.status == 200 and 1 <= int(got.headers["x-seki-expected-wait"]) <= 60
    assert b": the model is being started; about " in got.body and b"data: [DONE]" in got.body
    assert got.body.count(b"tok") == 4
    assert parse(cloud.metrics("metrics"))["seki_inference_load_seconds_count", ()] >= 2
    delete(cloud, name)


def test_what_cannot_be_held_is_told_when_to_come_again(cloud):
    name = endpoint(cloud, "full", loadDelayMs="4000")
    asks = Asks(cloud, name, 8)
    wait_for(lambda: value(cloud, "seki_gateway_requests_held") == 8, what="them to be held")
    got = ask(cloud, name)
    assert got.status == 503 and 1 <= int(got.headers["retry-after"]) <= 10
    assert json.loads(got.body)["error"]["code"] == "model_not_ready" and b"as many requests wait" in got.body
    assert [r.status for r in asks.wait()] == [200] * 8
    delete(cloud, name)


def test_bodies_that_are_held_have_an_end(cloud):
    name = endpoint(cloud, "large", loadDelayMs="4000")
    asks = Asks(cloud, name, 1, text="x" * 40960)
    wait_for(lambda: value(cloud, "seki_gateway_requests_held") == 1, what="it to be held")
    got = ask(cloud, name, text="x" * 40960)
    assert got.status == 503 and b"as many requests wait" in got.body
    asks.got += Asks(cloud, name, 1).wait()  # a small one may
    wait_for(lambda: len(asks.got) == 2, what="both")
    assert [r.status for r in asks.got] == [200] * 2
    delete(cloud, name)


def test_a_load_that_fails_ends_what_waits_with_the_reason(cloud):
    name = endpoint(cloud, "broken", tokens="not a number")
    asks = Asks(cloud, name, 2)
    for got in asks.wait():
        assert got.status == 503 and b"CrashLoopBackOff" in got.body and json.loads(got.body)["error"]["code"] == "model_not_ready"
        assert int(got.headers["retry-after"]) >= 1
    started = time.monotonic()
    assert ask(cloud, name).status == 503  # nobody waits for what is known to fail
    assert time.monotonic() - started < 20
    delete(cloud, name)


def test_nothing_is_lost_when_requests_meet_the_end(cloud):
    """Requests that come in the instant in which the last replica goes: when it is decided, while it drains, when it is gone."""
    name = endpoint(cloud, "edge", {"idleSeconds": 1})
    before = len(journal(cloud.data / "ledger"))
    statuses = []
    for i in range(2):
        statuses += [r.status for r in Asks(cloud, name, 2).wait()]
        wait_for(lambda: replicas(cloud, name) == 0 if i % 2 else names(cloud, name) == [], what="the end")
        statuses += [r.status for r in Asks(cloud, name, 2).wait()]
    assert set(statuses) == {200}, statuses
    wait_for(lambda: len(journal(cloud.data / "ledger")) >= before + len(statuses), what="the records")
    assert all(r["outcome"] == "ok" for r in journal(cloud.data / "ledger")[before:] if r["endpoint"] == name)
    delete(cloud, name)


def test_scaling_down_lets_streams_end(cloud):
    name = "drain"
    cloud.create("modelendpoints", "lab", name, {"replicas": 2, "engine": {"driver": "fake", "parallel": 2, "options": {"tokens": "40", "tokensPerSecond": "20"}}})
    cloud.wait_condition("modelendpoints", "lab", name, reason="Serving")
    asks = Asks(cloud, name, 4, stream=True, max_tokens=40)
    wait_for(lambda: value(cloud, "seki_gateway_requests_active") == 4, what="all to run")
    cloud.kubectl("-n", "lab", "scale", "modelendpoint", name, "--replicas=1")
    wait_for(lambda: len(names(cloud, name)) == 1, what="one to go")
    for got in asks.wait():
        assert got.status == 200 and got.body.count(b"tok") == 40 and b"data: [DONE]" in got.body
    wait_for(lambda: len([r for r in cloud.api("GET", f"{GROUP}/namespaces/lab/modelreplicas")["items"] if r["spec"]["endpoint"] == name]) == 1, what="it to be gone")
    delete(cloud, name)


def test_the_idlest_goes(cloud):
    name = endpoint(cloud, "idlest", {"minReplicas": 1, "maxReplicas": 2}, replicas=2, wait=None, parallel=1, tokens="60", tokensPerSecond="20")
    cloud.wait_condition("modelendpoints", "lab", name, reason="Serving")
    first = RawClient(cloud.address("gateway"))
    first.send(send(cloud, name, stream=True, max_tokens=60))
    first.read_until(b"tok0")
    second = RawClient(cloud.address("gateway"))  # each has one slot: this one runs on the other replica, and leaves
    second.send(send(cloud, name, stream=True, max_tokens=60))
    second.read_until(b"tok0")
    second.close()
    wait_for(lambda: value(cloud, "seki_gateway_requests_active") == 1, what="the second to be gone")
    wait_for(lambda: journal(cloud.data / "ledger")[-1]["outcome"] == "client_gone", what="its record")
    idle = journal(cloud.data / "ledger")[-1]["replica"]
    told = value(cloud, "seki_gateway_load_reports_total")
    wait_for(lambda: value(cloud, "seki_gateway_load_reports_total") >= told + 2, what="control to hear of it")
    cloud.api("PATCH", f"{GROUP}/namespaces/lab/modelendpoints/{name}", {"spec": {"scaling": {"maxReplicas": 1}}}, content_type="application/merge-patch+json")
    wait_for(lambda: len(names(cloud, name)) == 1, what="one to go")
    assert names(cloud, name) == [n for n in (f"{name}-0", f"{name}-1") if n != idle]
    first.read_until(b"data: [DONE]")
    first.close()
    delete(cloud, name)


def test_a_queue_brings_more_engines(cloud):
    name = endpoint(cloud, "grow", {"maxReplicas": 3, "targetQueueSeconds": 1, "idleSeconds": 3, "scaleDownSeconds": 3}, parallel=1, tokens="8", tokensPerSecond="10")
    asks = Asks(cloud, name, 8, max_tokens=8)
    assert {r.status for r in asks.wait()} == {200}
    seen = wait_for(lambda: [m for r, m in events(cloud, name) if r == "ScaledUp"], what="an event")
    assert any("→" in m and ("queue would take" in m or "requests run" in m) for m in seen), seen
    assert parse(cloud.metrics("metrics"))["seki_inference_scalings_total", (("reason", "ScaledUp"),)] >= 1
    wait_for(lambda: replicas(cloud, name) == 0, what="all to stop")
    delete(cloud, name)


def test_wrong_scaling_is_refused_by_name(cloud):
    for spec, field in (({"scaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.scaling.minReplicas"), ({"scaling": {}}, "spec.scaling.maxReplicas"),
                        ({"scaling": {"maxReplicas": 0}}, "spec.scaling.maxReplicas"), ({"scaling": {"maxReplicas": 1, "idleSeconds": 0}}, "spec.scaling.idleSeconds"),
                        ({"scaling": {"maxReplicas": 1}, "engine": {"driver": "openai", "url": "https://example.com/v1"}}, "spec.scaling")):
        with pytest.raises(ApiError) as e:
            cloud.create("modelendpoints", "lab", "wrong", {"engine": {"driver": "fake"}, **spec})
        assert e.value.status == 422 and field in [c["field"] for c in e.value.body["details"]["causes"]], (spec, e.value.body)


def test_only_gateways_tell_loads(cloud):
    told = {"apiVersion": "seki.cloud/v1alpha1", "kind": "GatewayLoad", "spec": {"gateway": "x", "endpoints": [{"namespace": "lab", "name": "zero", "waiting": 1}]}}
    with pytest.raises(ApiError) as e:
        cloud.api("POST", f"{GROUP}/gatewayloads", told, headers={"Impersonate-User": "ann", "Impersonate-Group": "system:authenticated"})
    assert e.value.status == 403


@pytest.mark.full
def test_a_real_engine_starts_with_the_first_request(cloud):
    name = cloud.real_endpoint("lab", "gemma")
    cloud.api("PATCH", f"{GROUP}/namespaces/lab/modelendpoints/{name}", {"spec": {"scaling": {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": 1}}}, content_type="application/merge-patch+json")
    wait_for(lambda: names(cloud, name) == [], what="it to stop")
    wait_for(lambda: value(cloud, "seki_gateway_requests_active") == 0, what="nothing to run")
    got = ask(cloud, name, stream=True)
    assert got.status == 200 and b"data: [DONE]" in got.body and int(got.headers.get("x-seki-expected-wait", "1")) >= 1
    delete(cloud, name)
