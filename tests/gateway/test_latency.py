"""How long requests take, by tenant and endpoint."""
import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import RawClient, post

NAMES = {f"seki_gateway_endpoint_{n}_seconds" for n in ("queue", "time_to_first_token", "time_per_output_token", "request_duration")}


@pytest.fixture(scope="module")
def shared():
    with Cloud(options={"gateway-threads": 1}) as c:
        for name in ("a", "b"):
            c.project(name, tenant=f"tenant-{name}")
        c.create("modelendpoints", "a", "one", {"engine": {"driver": "fake", "parallel": 1, "options": {"tokens": "20", "tokensPerSecond": "40"}}, "visibility": "Tenants", "tenants": ["tenant-b"]})
        c.wait_condition("modelendpoints", "a", "one")
        c.keys = {name: c.key(name) for name in ("a", "b")}
        wait_for(lambda: all(c.gateway_status("/models/one", k) == 200 for k in c.keys.values()), what="the model")
        yield c


def counts(c):
    """{(name, tenant, project, endpoint): how many}"""
    out = {}
    for (n, labels), v in parse(c.metrics("metrics-gateway")).items():
        if n.endswith("_count") and n.removesuffix("_count") in NAMES:
            labels = dict(labels)
            out[n.removesuffix("_count"), labels["tenant"], labels["project"], labels["endpoint"]] = v
    return out


def test_who_waits_is_told_from_who_does_not(shared):
    body = {"model": "one", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with RawClient(shared.address("gateway")) as first, RawClient(shared.address("gateway")) as second:
        first.send(post(shared.keys["a"], body))
        first.read_until(b"tok1")
        second.send(post(shared.keys["b"], body))
        first.read_until(b"[DONE]")
        second.read_until(b"[DONE]")
    wait_for(lambda: "seki_gateway_requests_active 0\n" in shared.metrics("metrics-gateway"), what="both to be settled")
    got = counts(shared)
    of = lambda tenant: {n for (n, t, project, endpoint), v in got.items() if t == tenant and (project, endpoint) == ("a", "one") and v >= 1}
    assert of("tenant-b") == NAMES, "the caller's tenant, the endpoint's project"
    assert of("tenant-a") == NAMES - {"seki_gateway_endpoint_queue_seconds"}
