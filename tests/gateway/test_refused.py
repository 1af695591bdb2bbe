"""Refused requests, in numbers: they fill no disk, and none is forgotten."""
import json
import re
import signal

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from test_rate_limits import CHAT
from wire import RawClient, Upstream, ask_once, post

FLOOD = 400
OWN_USAGE, OWN_AUDIT = 10, 10  # REFUSED_OWN, KEPT_AWAY_OWN


@pytest.fixture
def flooded():
    with Cloud() as c:
        c.upstream = Upstream()
        c.project("demo")
        c.remote_endpoint("demo", "m", c.upstream.url)
        yield c
        c.upstream.stop()


def statuses(c, secret, body, times):
    return [ask_once(c.address("gateway"), secret, body).status for _ in range(times)]


def nobody(c):
    """Without a key: one that the gateway does not know yet was asked with before, as often as it took."""
    with RawClient(c.address("gateway")) as client:
        client.send(post("", CHAT, auth="X-Nobody: "))
        return client.response().status


def usage_records(c):
    found = b"".join(p.read_bytes() for p in sorted((c.data / "ledger").glob("usage-gateway.0*")))
    return [json.loads(text) for text in re.findall(rb'\{"id":"(?:[^{}]|\{[^{}]*\})*\}', found)]


def refusals(c, rule):
    lines = c.seki("audit", "export", "--format", "json", str(c.data / "ledger")).stdout.splitlines()
    return [e for e in map(json.loads, lines) if e["type"] == "refused" and e["rule"] == rule]


def total(records):
    return sum(r.get("count", 1) for r in records)


def test_a_flood_of_refusals_is_few_records_and_every_one_is_counted(flooded):
    c = flooded
    secret = c.key("demo", "noisy")
    wait_for(lambda: statuses(c, secret, CHAT, 1) == [200], what="the model")
    assert set(statuses(c, secret, {**CHAT, "model": "nope"}, FLOOD)) == {404}
    assert set(statuses(c, secret, {"model": "m"}, FLOOD)) == {400}
    assert {nobody(c) for _ in range(FLOOD)} == {401}
    counted = parse(c.metrics("metrics-gateway"))["seki_gateway_refused_counted_total", ()]
    assert 2 * FLOOD - 4 * OWN_USAGE <= counted <= 2 * FLOOD - OWN_USAGE  # of one minute, or of some that follow each other
    c.kill_role("gateway", signal.SIGTERM)  # what was counted is written at the latest then
    refused = wait_for(lambda: (lambda r: r if total(r) == 2 * FLOOD else None)([u for u in usage_records(c) if u["outcome"] == "refused" and u["status"] in (404, 400) and u["key"] == "noisy"]),
                       what="all of them in the journal")
    assert len(refused) < 6 * OWN_USAGE and {u["status"] for u in refused if u.get("count", 1) > 1} == {404, 400}
    assert all(not u["engines"] and not u["prompt_tokens"] and not u["completion_tokens"] for u in refused)

    def reported():
        items = [i for r in c.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports")["items"] for i in r.get("status", {}).get("items", []) if i["key"] == "noisy"]
        return sum(i["failedRequests"] for i in items) == 2 * FLOOD
    wait_for(reported, what="the reports")
    c.seki("usage", "verify", str(c.data / "ledger"))
    known = wait_for(lambda: (lambda r: r if total(r) == FLOOD else None)(refusals(c, "ModelNotVisible")), what="the key's refusals in the audit ledger")
    assert len(known) < 6 * OWN_AUDIT and {(e["user"], e["tenant"], e["status"]) for e in known} == {("noisy", "demo", 404)}
    strangers = wait_for(lambda: (lambda r: r if total(r) == FLOOD else None)(refusals(c, "KeyMissing")), what="the strangers' refusals in the audit ledger")
    assert len(strangers) < 6 and {e["source"] for e in strangers} == {"127.0.0.1"}
    counted = max(strangers, key=lambda e: e.get("count", 1))
    assert counted["first"] <= counted["last"] and counted["first"].endswith("Z")
