"""A ModelRoute falls over: what one backend cannot serve another one does, and what the border, a limit or a budget says holds there too."""
import json
import os
import signal

import pytest

from cloud import GROUP, Cloud, wait_for
from exposition import parse
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, journal, post

BROKEN = answer(b"{}", status=502)


class Pair:
    """A route to a first backend, which gets all but nothing for the second one's weight, and that second one. Each test has a first one of its own: what fails is put aside."""

    def __init__(self, cloud, n):
        self.cloud, self.name, self.one, self.model = cloud, f"one-{n}", Upstream(), f"both-{n}"
        cloud.create("modelendpoints", "demo", self.name, {"engine": {"driver": "openai", "url": self.one.url, "remoteModel": "m", "maxConcurrentRequests": 1}})
        route(cloud, self.model, **{self.name: 1000000, "two": 1})

    @property
    def two(self):
        return self.cloud.engines["two"]

    def ask(self, **more):
        return ask(self.cloud, self.model, **more)


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-threads": 1, "gateway-idle-timeout": "5s", "gateway-keepalive": "0"}) as c:
        c.project("demo")
        c.engines = {name: Upstream() for name in ("two", "three")}
        for name in c.engines:
            c.create("modelendpoints", "demo", name, {"engine": {"driver": "openai", "url": c.engines[name].url, "remoteModel": "m"}})
        c.pairs = [Pair(c, n) for n in range(14)]
        for name in [*c.engines, *(p.name for p in c.pairs)]:
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        for p in c.pairs:
            wait_for(lambda: c.gateway_status(f"/models/{p.model}", c.secret) == 200, what="the route")
        yield c
        for e in [*c.engines.values(), *(p.one for p in c.pairs)]:
            e.stop()


def route(c, name, **weights):
    c.api("POST", f"{GROUP}/namespaces/demo/modelroutes", {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelRoute", "metadata": {"name": name},
                                                          "spec": {"backends": [{"endpoint": e, "weight": w} for e, w in weights.items()]}})


@pytest.fixture
def pair(cloud):
    p = cloud.pairs.pop()
    for e in cloud.engines.values():
        e.script, e.requests[:] = [answer()], []
    yield p
    p.one.stop()


def ask(c, model, key=None, **more):
    with RawClient(c.address("gateway")) as client:
        client.send(post(key or c.secret, {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}))
        return client.response()


def record(c, got):
    def find():
        return [r for r in journal(c.data / "ledger") if r["id"] == got.headers["x-request-id"]]
    return wait_for(find, what="the usage record")[0]


def fallen(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_fall_overs_total", ()]


@pytest.mark.parametrize("how", [[BROKEN], ["close"], ["reset"], [answer(b"what?")], [answer(b"{}", status=429)], [STREAM_HEAD, STREAM_ROLE, "close"]],
                         ids=["status", "closes", "resets", "no JSON", "busy", "before its first content"])
def test_what_fails_before_its_first_byte_is_served_by_another(cloud, pair, how):
    pair.one.script = how
    before = fallen(cloud)
    got = pair.ask()
    assert got.status == 200 and got.json()["choices"][0]["message"]["content"] == "ok", got
    assert pair.one.requests and len(pair.two.requests) == 1 and fallen(cloud) == before + 1
    assert json.loads(pair.two.requests[0][1])["model"] == "m"
    # one request, billed where it was served, under the name that was asked for
    r = record(cloud, got)
    assert (r["endpoint"], r["replica"], r["model"], r["outcome"], r["prompt_tokens"], r["completion_tokens"]) == ("two", "two-0", pair.model, "ok", 5, 7)


def test_a_stream_too(cloud, pair):
    pair.one.script = ["reset"]
    pair.two.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, STREAM_DONE, "close"]
    got = pair.ask(stream=True)
    assert got.status == 200 and got.body == STREAM_ROLE + STREAM_TEXT + STREAM_DONE


def test_what_has_begun_is_not_begun_elsewhere(cloud, pair):
    pair.one.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "reset"]
    got = pair.ask(stream=True)
    assert got.status == 200 and b'"code":"upstream_error"' in got.body and not pair.two.requests


def test_what_the_engine_refuses_is_refused(cloud, pair):
    pair.one.script = [answer(b'{"error":{"message":"too long","type":"invalid_request_error"}}', status=400)]
    assert pair.ask().status == 400 and not pair.two.requests


def test_who_waits_where_nothing_is_left_is_served_elsewhere(cloud, pair):
    """Its backend is scaled to nothing: what runs there ends there, what waits goes to the other one."""
    pair.one.script = ["wait", answer()]
    clients = [RawClient(cloud.address("gateway")) for _ in range(2)]

    def put(client):
        client.send(post(cloud.secret, {"model": pair.model, "messages": [{"role": "user", "content": "hi"}]}))
    put(clients[0])
    pair.one.wait(lambda: pair.one.requests, "the first one to run")
    put(clients[1])
    wait_for(lambda: parse(cloud.metrics("metrics-gateway"))["seki_gateway_requests_waiting", ()] == 1, what="the second one to wait")
    cloud.kubectl("-n", "demo", "scale", "modelendpoint", pair.name, "--replicas=0")
    assert clients[1].response().status == 200 and len(pair.two.requests) == 1
    pair.one.go.set()
    assert clients[0].response().status == 200 and len(pair.one.requests) == 1


def test_when_all_fail_the_last_one_says_so(cloud, pair):
    pair.one.script = pair.two.script = [BROKEN]
    got = pair.ask()
    assert got.status == 502 and got.json()["error"]["code"] == "upstream_error"
    assert (len(pair.one.requests), len(pair.two.requests)) == (1, 1)
    r = record(cloud, got)
    assert r["outcome"] == "upstream_error" and r["prompt_tokens"] == r["completion_tokens"] == 0


def test_it_is_one_request_of_a_limit(cloud, pair):
    key = cloud.key("demo", "limited", limits={"requestsPerMinute": 2})
    pair.one.script = [BROKEN]
    assert [pair.ask(key=key).status for _ in range(3)] == [200, 200, 429]


def test_the_border_holds_there_too(cloud, pair):
    """The other backend stands where a rule bars: the request fails, and not one byte goes there."""
    for site, country, e in (("tokyo", "JP", pair.one), ("paris", "FR", pair.two)):
        cloud.create_site(site, jurisdiction=country, servers=[e.url.split("//")[1].split("/")[0]])
    cloud.create("residencypolicies", "demo", "only-japan", {"jurisdictions": ["JP"]})
    wait_for(lambda: ask(cloud, "two").status == 403, what="the rule")
    pair.two.requests[:] = []
    pair.one.script = [BROKEN]
    got = pair.ask()
    assert got.status == 502 and not pair.two.requests
    cloud.api("DELETE", f"{GROUP}/namespaces/demo/residencypolicies/only-japan")
    wait_for(lambda: ask(cloud, "two").status == 200, what="the rule to be gone")


def test_a_budget_pays_the_other_s_price(cloud, pair):
    """Under a budget only what has a price may take over."""
    for name, (prompt, completion) in {pair.name: (1, 2), "two": (10, 20)}.items():  # micro-units a token
        cloud.api("POST", f"{GROUP}/prices", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Price", "metadata": {"name": name}, "spec": {
            "model": name, "currency": "EUR", "microsPerMillionTokens": {"input": prompt * 1000000, "output": completion * 1000000}}})
    route(cloud, "unpriced", **{pair.name: 1000000, "three": 1})
    key = cloud.key("demo", "payer", limits={"budget": {"amountMicros": 1000000, "currency": "EUR", "period": "Total"}})
    wait_for(lambda: ask(cloud, pair.name, key).status == 200, what="the price")
    pair.one.script = [BROKEN]
    got = pair.ask(key=key)
    assert got.status == 200 and record(cloud, got)["cost"] == 5 * 10 + 7 * 20
    assert ask(cloud, "unpriced", key).status == 502 and not cloud.engines["three"].requests


def test_a_killed_backend_under_load():
    """An engine that is killed and started again and again: not one request notices."""
    with Cloud(options={"gateway-threads": 1}) as c:
        c.project("demo")
        for name in ("one", "two"):
            c.fake_endpoint("demo", name, tokens=3)
        route(c, "both", one=1, two=1)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/both", c.secret) == 200, what="the route")
        for _ in range(2):
            pid = wait_for(lambda: c.condition("modelendpoints", "demo", "one").get("status") == "True" and c.get("modelreplicas", "demo", "one-0")["status"].get("pid"), what="the engine")
            os.kill(pid, signal.SIGKILL)
            for _ in range(30):
                got = ask(c, "both")
                assert got.status == 200, got
        assert fallen(c) > 0
