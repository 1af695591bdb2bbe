"""Service levels: what endpoints promise is measured by request, told in metrics, and reported by month to whoever called."""
import json
import time

import pytest

from cloud import GROUP, ApiError, Cloud, wait_for
from exposition import parse
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_STOP, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, post

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
GOOD = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_STOP, STREAM_USAGE, STREAM_DONE, "close"]
LATE = ["gap"] * 20 + GOOD
BROKEN = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "reset"]
SLO = {"availability": "99.9", "ttft": {"percent": "50", "milliseconds": 20}}


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.project("shop")
        c.project("flat", tenant="acme")
        c.project("den", tenant="acme")
        engine = {"driver": "openai", "url": c.upstream.url, "remoteModel": "m"}
        c.create("modelendpoints", "shop", "m", {"engine": engine, "visibility": "Everyone", "slo": SLO})
        c.create("modelendpoints", "shop", "generous", {"engine": engine, "visibility": "Everyone", "slo": {"ttft": {"percent": "99.999", "milliseconds": 3600000}}})
        c.create("modelendpoints", "shop", "none", {"engine": engine, "visibility": "Everyone"})
        for name in ("m", "generous", "none"):
            c.wait_condition("modelendpoints", "shop", name)
        c.keys = {p: c.key(p) for p in ("shop", "flat", "den")}
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", c.keys["flat"]) == 200 for m in ("m", "generous", "none")), what="the models")
        yield c
        c.upstream.stop()


def ask(c, project, script, model="m"):
    c.upstream.script = script
    with RawClient(c.address("gateway")) as client:
        client.send(post(c.keys[project], {**STREAM, "model": model}))
        return client.response()


def items(c, project):
    """{(endpoint, objective): item} of the month's report."""
    month = time.strftime("%Y-%m", time.gmtime())
    try:
        report = c.api("GET", f"{GROUP}/namespaces/{project}/sloreports/month-{month}")
    except ApiError as e:
        assert e.status == 404
        return {}
    assert report["spec"]["month"] == month
    return {(i["endpoint"], i["objective"]): i for i in report.get("status", {}).get("items", [])}


def sums(item):
    return item and (item["requests"], item["bad"])


def metrics(c):
    """{(tenant, endpoint, objective): (good, bad)}"""
    out = {}
    for (name, labels), v in parse(c.metrics("metrics-gateway")).items():
        if name == "seki_gateway_slo_requests_total":
            l = dict(labels)
            assert l["project"] == "shop"
            out.setdefault((l["tenant"], l["endpoint"], l["objective"]), {})[l["result"]] = v
    return {k: (v["good"], v["bad"]) for k, v in out.items()}


def test_a_month_is_reported_to_whoever_called(cloud):
    c = cloud
    for script, model in ((GOOD, "generous"), (GOOD, "generous"), (GOOD, "generous"), (LATE, "m")):
        assert ask(c, "flat", script, model).status == 200
    assert b"upstream_error" in ask(c, "flat", BROKEN).body
    assert ask(c, "flat", [answer(b'{"error":{"message":"no"}}', 500)]).status == 500
    assert ask(c, "flat", [answer(b'{"error":{"message":"no"}}', 400)]).status == 400
    assert ask(c, "flat", GOOD, "unknown").status == 404
    assert ask(c, "flat", GOOD, "none").status == 200
    assert ask(c, "den", LATE).status == 200
    wait_for(lambda: sums(items(c, "flat").get(("shop/m", "availability"))) == (3, 2), what="the report of flat")
    flat = items(c, "flat")
    assert set(flat) == {("shop/m", "availability"), ("shop/m", "ttft"), ("shop/generous", "ttft")}
    assert sums(flat["shop/generous", "ttft"]) == (3, 0) and flat["shop/generous", "ttft"]["achieved"] == "100" and flat["shop/generous", "ttft"]["budgetLeft"] == "100"
    late = flat["shop/m", "ttft"]
    assert late["requests"] == 2 and late["bad"] in (1, 2), "the late one, and on a slow machine the broken one"
    assert {k: flat["shop/m", "availability"][k] for k in ("target", "achieved", "budgetLeft", "budgetMillionths")} == {"target": "99.9", "achieved": "33.333", "budgetLeft": "-66566.667", "budgetMillionths": 3000}
    wait_for(lambda: sums(items(c, "den").get(("shop/m", "availability"))) == (1, 0), what="the report of den")
    assert items(c, "shop") == {}, "what others call is not in the owner's"
    got = metrics(c)
    assert got["acme", "m", "availability"] == (2, 2) and got["acme", "generous", "ttft"] == (3, 0) and not [k for k in got if k[1] == "none"]
    assert 'seki_gateway_slo_error_budget_millionths{project="shop",endpoint="m",objective="availability"} 1000\n' in c.metrics("metrics-gateway")


def test_seki_slo(cloud):
    c = cloud
    ask(c, "den", GOOD)
    wait_for(lambda: (items(c, "den").get(("shop/m", "availability")) or {}).get("requests", 0) >= 1, what="a report")
    rows = json.loads(c.seki("-n", "den", "slo", "-o", "json").stdout)
    assert {(r["project"], r["endpoint"], r["objective"]) for r in rows} == {("den", "shop/m", "availability"), ("den", "shop/m", "ttft")}
    of = lambda rows: [sum(r[name] for r in rows if r["endpoint"] == "shop/m" and r["objective"] == "availability") for name in ("requests", "budgetMillionths")]
    ask_both = lambda: [json.loads(c.seki("slo", *args, "-o", "json").stdout) for args in (["-A"], ["--tenant", "acme"])]
    wait_for(lambda: of(ask_both()[0]) == of(ask_both()[1]), what="reports that no request adds to any more, and sums of them")
    together = ask_both()[1]
    assert {r.get("project") for r in together} == {None} and len([r for r in together if r["endpoint"] == "shop/m"]) == 2
    table = c.seki("-n", "den", "slo").stdout
    assert "BUDGET" in table and "shop/m" in table and "99.9 %" in table
    assert "no request counted" in c.seki("-n", "den", "slo", "--month", "2020-01").stderr
    assert c.seki("slo", "--month", "2020-1", check=False).returncode == 2 and c.seki("-n", "nowhere", "slo", check=False).returncode == 1


def test_reports_follow_from_the_ledger(cloud):
    """Control is killed and a report deleted: it is made anew with what was."""
    c = cloud
    ask(c, "den", GOOD)
    month = f"month-{time.strftime('%Y-%m', time.gmtime())}"
    wait_for(lambda: items(c, "den"), what="a report")
    before = wait_for(lambda: (items(c, "den").get(("shop/m", "availability")) or {}).get("requests"), what="its sum")
    c.api("DELETE", f"{GROUP}/namespaces/den/sloreports/{month}")
    c.kill_role("control")
    c.wait_ready()
    wait_for(lambda: (items(c, "den").get(("shop/m", "availability")) or {}).get("requests", 0) >= before, what="the report")


@pytest.mark.parametrize("slo, field", [
    ({}, "spec.slo"), ({"availability": "100"}, "spec.slo.availability"), ({"availability": "99.99999"}, "spec.slo.availability"), ({"availability": 99.9}, "spec.slo.availability"),
    ({"ttft": {"percent": "95"}}, "spec.slo.ttft.milliseconds"), ({"ttft": {"milliseconds": 5}}, "spec.slo.ttft.percent"), ({"ttft": {"percent": "0", "milliseconds": 5}}, "spec.slo.ttft.percent"),
    ({"ttft": {"percent": "95", "milliseconds": 0}}, "spec.slo.ttft.milliseconds"), ({"latency": "1s"}, "spec.slo.latency")], ids=str)
def test_what_cannot_be_promised(cloud, slo, field):
    with pytest.raises(ApiError) as e:
        cloud.create("modelendpoints", "shop", "bad", {"engine": {"driver": "fake"}, "slo": slo})
    assert e.value.status in (400, 422) and field in json.dumps(e.value.body), e.value.body


def test_embeddings_have_no_first_token(cloud):
    with pytest.raises(ApiError) as e:
        cloud.create("modelendpoints", "shop", "bad", {"engine": {"driver": "fake", "embeddings": True}, "slo": {"ttft": {"percent": "95", "milliseconds": 5}}})
    assert "spec.slo.ttft" in json.dumps(e.value.body)
