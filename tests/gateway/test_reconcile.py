"""The usage ledger against engines' own counters: the same, or an Event and a metric."""
import json
import os
import pathlib
import signal

import pytest

from cloud import GROUP, Cloud, wait_for
from engine_socket import call, sockets
from exposition import parse
from wire import RawClient, post, journal

TOKENS = 5


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"usage-reconcile-interval": "200ms", "engine-probe-interval": "100ms", "engine-idle-probe-interval": "300ms"}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=TOKENS)
        c.secret = c.key("demo")
        yield c


def metric(c, name, **labels):
    return sum(v for k, v in parse(c.metrics("metrics")).items() if k[0] == name and labels.items() <= dict(k[1]).items())


def compared(c, times=2):
    """So many comparisons with records of now have been made: a difference is told at the second."""
    before = metric(c, "seki_billing_reconciliations_total")
    wait_for(lambda: metric(c, "seki_billing_reconciliations_total") >= before + times + 1, 10, "comparisons")


def events(c, reason):
    found = c.api("GET", "/api/v1/namespaces/demo/events")["items"]
    return [e for e in found if e["reason"] == reason and e["involvedObject"]["kind"] == "ModelEndpoint"]


def worked(pid):
    """Seconds of processor time."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(c, **body):
    with RawClient(c.address("gateway")) as client:
        client.send(post(c.secret, {"model": "fake", "prompt": "one two three", **body}, "completions"))
        assert client.response().status == 200


UNEXPLAINED = "seki_billing_unexplained_tokens_total"


@pytest.mark.timeout(300)
def test_differences_are_told(cloud):
    """What goes through the gateway is the same on both sides, our own probes of an idle engine too; what goes around it is an Event, and a metric; a killed engine counts anew."""
    wait_for(lambda: metric(cloud, "seki_billing_reconciliations_total", result="begun"), what="a beginning")
    for n in range(10):
        ask(cloud, stream=bool(n % 2))
    call(sockets(cloud)[0], "POST", "/v1/completions", json.dumps({"prompt": "a b c d"}))
    wait_for(lambda: metric(cloud, UNEXPLAINED), 10, "the difference")
    assert (metric(cloud, UNEXPLAINED, type="input", endpoint="fake", project="demo"), metric(cloud, UNEXPLAINED, type="output")) == (4, TOKENS)
    told = wait_for(lambda: events(cloud, "UsageDiffers"), what="the Event")
    assert metric(cloud, "seki_billing_unseen_tokens_total") == 0 and metric(cloud, "seki_billing_reconciled_timestamp_seconds") > 1_700_000_000
    shown = cloud.get("modelreplicas", "demo", "fake-0")["status"]["counters"]
    assert (shown["tokensRead"], shown["tokensWritten"]) == (30 + 4, 11 * TOKENS), shown
    assert told[0]["type"] == "Warning" and "replica fake-0" in told[0]["message"] and f"4 tokens read more and {TOKENS} tokens written more" in told[0]["message"]
    begun = metric(cloud, "seki_billing_reconciliations_total", result="begun")
    os.kill(cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"], signal.SIGKILL)
    wait_for(lambda: metric(cloud, "seki_billing_reconciliations_total", result="begun") > begun, 10, "a new beginning")
    assert metric(cloud, UNEXPLAINED) == 4 + TOKENS and len(events(cloud, "UsageDiffers")) == 1


@pytest.mark.full
@pytest.mark.timeout(300)
def test_what_is_made_for_who_has_left(cloud):
    """The real engine, and a client that leaves while the gateway stands still, so that the engine makes what nobody sees: no figure for the request, but one in sum."""
    begun = metric(cloud, "seki_billing_reconciliations_total", result="begun")
    cloud.real_endpoint("demo", "gemma")
    wait_for(lambda: metric(cloud, "seki_billing_reconciliations_total", result="begun") > begun, what="a beginning")
    wait_for(lambda: cloud.gateway_status("/models/gemma", cloud.secret) == 200, what="the model")
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(cloud.secret, {"model": "gemma", "stream": True, "max_tokens": 400, "ignore_eos": True, "messages": [{"role": "user", "content": "Count to a hundred"}]}))
        client.read_until(b'"content":')
        gateway, engine = cloud.role_pid("gateway"), cloud.get("modelreplicas", "demo", "gemma-0")["status"]["pid"]
        os.kill(gateway, signal.SIGSTOP)
    before = worked(engine)
    wait_for(lambda: worked(engine) > before + 1, 20, "the engine to write on")
    os.kill(gateway, signal.SIGCONT)
    ask(cloud, model="gemma", max_tokens=3, ignore_eos=True)
    ask(cloud, model="gemma", max_tokens=3, ignore_eos=True)  # its prompt is in the cache now
    wait_for(lambda: metric(cloud, "seki_billing_unseen_tokens_total", endpoint="gemma"), 45, "the sum")  # for ten seconds it may be counted still
    cut = next(r for r in journal(cloud.data / "ledger") if r["model"] == "gemma" and r["outcome"] == "client_gone")
    assert not cut["exact"] and not cut["engines"][0]["exact"] and cut["unseen_tokens"] == 0
    told = wait_for(lambda: [e for e in events(cloud, "UsageUnseen") if "gemma-0" in e["message"]], what="the Event")
    assert told[0]["type"] == "Normal"
    compared(cloud)
    assert metric(cloud, UNEXPLAINED, endpoint="gemma") == 0
    assert cloud.api("GET", f"{GROUP}/namespaces/demo/usagereports")["items"][0]["status"]["inexactAttempts"] >= 1
