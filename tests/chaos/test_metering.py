"""Usage is counted exactly once, whatever is killed in between."""
import concurrent.futures
import datetime
import json
import os
import random
import signal
import threading
import urllib.error
import urllib.request

import pytest

from cloud import GROUP, SLOW, ApiError, wait_for

TOKENS = 3


def ask(cloud, secret, base_url=None):
    """One request; the usage that its answer states, or None when it did not come back whole."""
    body = json.dumps({"model": "fake", "prompt": "one two", "max_tokens": TOKENS}).encode()
    request = urllib.request.Request((base_url or cloud.base_url) + "/completions", data=body, method="POST",
                                     headers={"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20 * SLOW) as r:
            return json.loads(r.read())["usage"]
    except (OSError, ValueError, urllib.error.HTTPError):
        return None


NUMBERS = ("requests", "failedRequests", "promptTokens", "completionTokens")


def totals(cloud, project="demo", key=None):
    """Sums over all of the project's reports: a test may run over midnight. With a key, of what that one asked."""
    sums = dict.fromkeys(NUMBERS, 0)
    try:
        reports = cloud.api("GET", f"{GROUP}/namespaces/{project}/usagereports")["items"]
    except (OSError, ApiError, FileNotFoundError):
        return sums
    for report in reports:
        status = report.get("status", {})
        for part in [status] if key is None else [i for i in status.get("items", []) if i["key"] == key]:
            for name in NUMBERS:
                sums[name] += part.get(name, 0)
    return sums


def settled(cloud, last):
    """The totals of `key`, once all that it asked so far is in them: records are collected in their order and a report is written in one, so what the key `last` asks after it
    is there only together with it."""
    def good():
        sums = totals(cloud, key="last")
        return sums["requests"] - sums["failedRequests"]
    before = good()
    wait_for(lambda: ask(cloud, last), what="an answer to the key that asks last")
    wait_for(lambda: good() > before, 30, "that one in the report")
    return totals(cloud, key="key")


def ask_until(cloud, secret, stop, whole, sent, lock):
    while not stop.is_set():
        try:
            usage = ask(cloud, secret)
        except FileNotFoundError:
            continue  # the gateway's address is being written
        with lock:
            sent[0] += 1
            if usage:
                whole.append(usage)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ["control", "gateway"])
def test_usage_is_exact_over_kills(own_cloud, role):
    """Every answer that a client got whole is in the report, once; a request that broke is there at most once, and never as more than it was."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", tokens=TOKENS)
    secret = cloud.key("demo")
    last = cloud.key("demo", "last")
    wait_for(lambda: ask(cloud, secret), what="a first answer")
    stop, lock, whole, sent = threading.Event(), threading.Lock(), [], [0]
    clients = [threading.Thread(target=ask_until, args=(cloud, secret, stop, whole, sent, lock)) for _ in range(4)]
    for c in clients:
        c.start()
    try:
        for _ in range(4):
            target = len(whole) + random.randint(5, 60)
            wait_for(lambda: len(whole) >= target, 60, "answers")
            cloud.kill_role(role)
    finally:
        stop.set()
        for c in clients:
            c.join()
    cloud.wait_ready(60)
    lost = sent[0] - len(whole)
    seen = settled(cloud, last)
    answered, good = len(whole) + 1, seen["requests"] - seen["failedRequests"]
    if role == "control":
        assert lost == 0, "a killed control process broke requests"
        assert good == answered and seen["promptTokens"] == 2 * answered and seen["completionTokens"] == TOKENS * answered
        assert seen["failedRequests"] == 0
    else:
        # A request is settled before its last byte goes out: what was in flight at a kill is either not settled, and then free, or settled and its answer lost on the way.
        assert answered <= good <= answered + lost
        assert seen["promptTokens"] <= 2 * seen["requests"] and seen["completionTokens"] <= TOKENS * seen["requests"]
        assert seen["completionTokens"] >= TOKENS * answered
    # And it stays so: whatever was collected is not collected again.
    cloud.kill_role("control")
    cloud.wait_ready(60)
    assert settled(cloud, last) == seen


@pytest.mark.timeout(300)
def test_probes_are_not_billed(own_cloud):
    """An idle engine is made to produce tokens; nobody pays for them."""
    cloud = own_cloud(options={"engine-idle-probe-interval": "100ms", "engine-probe-interval": "50ms"})
    cloud.project("demo")
    events = cloud.dir / "events"
    cloud.fake_endpoint("demo", "fake", event_log=str(events))
    secret = cloud.key("demo")
    wait_for(lambda: events.exists() and events.read_text().count("done") >= 5, 60, "five probes of an idle engine")
    wait_for(lambda: ask(cloud, secret), what="an answer")
    wait_for(lambda: totals(cloud)["requests"] >= 1, 30, "the report")
    before = events.read_text().count("done")
    wait_for(lambda: events.read_text().count("done") >= before + 3, 60, "more probes")
    seen = totals(cloud)
    assert seen["requests"] == 1 and seen["completionTokens"] == TOKENS
    records = (cloud.data / "ledger" / "usage-gateway.000001").read_bytes().count(b'"id"')
    assert records == 1
