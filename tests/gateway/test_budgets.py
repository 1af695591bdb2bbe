"""Money: what requests cost, budgets that no number of them passes, and what is left of them when processes die."""
import concurrent.futures
import json
import os
import re
import signal
import ssl
import subprocess

import pytest

from cloud import GROUP, SLOW, ApiError, Cloud, wait_for
from exposition import parse
from wire import Upstream, ask_once, journal, usage_answer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
PROMPT = len(json.dumps(CHAT["messages"])) // 4 + 1
EACH = PROMPT + 1  # micro-units: a token costs one
FLOOR = 4096       # tokens of an answer, where the request does not say how many there may be


def budget(amount, period="Total", currency="EUR"):
    return {"budget": {"amountMicros": amount, "currency": currency, "period": period}}


def euros(micros):
    whole, _, part = f"{micros / 1e6:.6f}".rstrip("0").partition(".")
    return f"{whole}.{part:0<2} EUR"


def price(c, name, model, input=1000000, output=1000000, **more):
    tokens = {"input": input, "output": output, **more.pop("tokens", {})}
    return c.api("POST", f"{GROUP}/prices", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Price", "metadata": {"name": name},
                                             "spec": {"model": model, "currency": "EUR", "microsPerMillionTokens": tokens, **more}})


def cloud(**options):
    c = Cloud(options={"gateway-first-byte-timeout": "4s", **options})
    c.count = 0
    return c


def fill(c):
    c.upstream = Upstream()
    c.project("demo")
    c.remote_endpoint("demo", "m", c.upstream.url)
    price(c, "m", "m")
    c.upstream.script = [usage_answer(PROMPT, 1)]


@pytest.fixture(scope="module")
def paid():
    with cloud() as c:
        fill(c)
        yield c
        c.upstream.stop()


@pytest.fixture
def key(paid):
    def make(**limits):
        paid.count += 1
        make.name = f"k{paid.count}"
        paid.upstream.script, paid.upstream.requests[:] = [usage_answer(PROMPT, 1)], []
        return paid.key("demo", make.name, limits=limits)
    return make


def ask(c, secret, body=CHAT, gateway="gateway"):
    return ask_once(c.address(gateway), secret, body)


def records(c):
    names = sorted({p.name.rsplit(".", 1)[0] for p in (c.data / "ledger").glob("usage-gateway*.0*")})
    return [r for name in names for r in journal(c.data / "ledger", name)]


def spent(c, name):
    return sum(r.get("cost", 0) for r in records(c) if r["key"] == name)


def test_a_thousand_at_once_spend_only_what_there_is(paid, key):
    secret = key(**budget(100))
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        statuses = [r.status for r in pool.map(lambda _: ask(paid, secret), range(1000))]
    assert set(statuses) == {200, 429} and statuses.count(200) == 100 // EACH
    assert len(paid.upstream.requests) == statuses.count(200)  # the engine has seen no other
    assert spent(paid, key.name) == 100 // EACH * EACH


@pytest.mark.parametrize("most", [{"max_tokens": 50000}, {"max_tokens": 1, "n_predict": 50000}, {"max_tokens": 50000.0}], ids=["max_tokens", "n_predict", "float"])
def test_short_answers_of_before_do_not_let_long_ones_pass_a_budget(paid, key, most):
    """What an answer usually needs is what a rate reserves: money is reserved for all that the request lets the engine make."""
    secret = key(**budget(1000))
    assert {ask(paid, secret).status for _ in range(20)} == {200}
    paid.upstream.script = [usage_answer(PROMPT, 50000)]
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        got = list(pool.map(lambda _: ask(paid, secret, {**CHAT, **most}), range(30)))
    assert {(r.status, r.json()["error"]["code"]) for r in got} == {(429, "insufficient_quota")}
    assert f"may cost {euros(PROMPT + 50000)}" in got[0].json()["error"]["message"] and spent(paid, key.name) == 20 * EACH


def test_an_answer_of_unknown_length_costs_no_less_than_a_floor(paid, key):
    """So many can run at once as there are floors in the budget, whatever was learned before."""
    secret = key(**budget(2 * (PROMPT + FLOOR) + 20 * EACH + FLOOR // 2))
    assert {ask(paid, secret).status for _ in range(20)} == {200}
    body = {k: v for k, v in CHAT.items() if k != "max_tokens"}
    paid.upstream.go.clear()
    paid.upstream.script = ["wait", usage_answer(PROMPT, FLOOR)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, paid, secret, body) for _ in range(12)]
        wait_for(lambda: sum(a.done() for a in asked) == 10, what="who has no money")
        paid.upstream.go.set()
        statuses = [a.result().status for a in asked]
    assert statuses.count(200) == 2 and statuses.count(429) == 10
    assert spent(paid, key.name) == 2 * (PROMPT + FLOOR) + 20 * EACH


def test_who_has_no_money_is_told_whose_budget_it_is_and_when_it_opens(paid, key):
    secret = key(**budget(EACH, "Month"))
    assert ask(paid, secret).status == 200
    got = ask(paid, secret)
    error = got.json()["error"]
    assert got.status == 429 and error["type"] == error["code"] == "insufficient_quota"
    assert f"API key `{key.name}`" in error["message"] and f"is {euros(EACH)} a month, of which {euros(EACH)} are used" in error["message"] and re.search(r"opens again at \d{4}-\d\d-01T00:00:00Z", error["message"])
    assert got.headers["x-should-retry"] == "false" and int(got.headers["retry-after"]) > 0
    assert parse(paid.metrics("metrics-gateway"))["seki_gateway_limited_total", (("scope", "key"), ("unit", "money"))] >= 1


def test_who_has_no_money_is_in_the_audit_ledger(paid, key):
    secret = key(**budget(EACH))
    assert [ask(paid, secret).status for _ in range(3)] == [200, 429, 429]

    def records():
        events = [json.loads(line) for line in paid.seki("audit", "export", "--format", "json", str(paid.data / "ledger")).stdout.splitlines()]
        return [e for e in events if e["type"] == "refused" and e.get("user") == key.name]
    (first,) = wait_for(records, what="the record")
    assert (first["status"], first["rule"], first["reason"], first["namespace"]) == (429, "Budget/key", "insufficient_quota", "demo")


def test_a_model_without_a_price_is_refused_under_a_budget(paid, key):
    paid.remote_endpoint("demo", "free", paid.upstream.url)
    secret = key(**budget(100))
    got = wait_for(lambda: (r := ask(paid, secret, {**CHAT, "model": "free"})).status != 404 and r, what="the gateway to know the model")
    assert got.status == 403 and got.json()["error"]["code"] == "model_not_priced" and "EUR" in got.json()["error"]["message"]
    assert ask(paid, key(**budget(100, currency="JPY"))).status == 403
    assert ask(paid, key(), {**CHAT, "model": "free"}).status == 200  # nobody counts money here


def test_what_was_not_used_comes_back_and_what_is_cached_costs_less(paid, key):
    price(paid, "cached", "m", tokens={"cachedInput": 0})
    paid.api("DELETE", f"{GROUP}/prices/m")
    secret = key(**budget(1000))
    paid.upstream.script = [usage_answer(100, 10, cached=60)]

    def cost():
        assert ask(paid, secret, {**CHAT, "max_tokens": 900}).status == 200
        return records(paid)[-1]["cost"]
    assert wait_for(lambda: cost() == 50, what="the new price")
    price(paid, "m", "m")
    paid.api("DELETE", f"{GROUP}/prices/cached")


def test_charges_are_rounded_up_once(paid, key):
    paid.remote_endpoint("demo", "cheap", paid.upstream.url)
    price(paid, "cheap", "cheap", input=150, output=600)
    price(paid, "cheap-later", "cheap", input=10**12, output=10**12, validFrom="2099-01-01T00:00:00Z")
    price(paid, "all", "*", input=10**12, output=10**12)
    price(paid, "cheap-elsewhere", "cheap", input=10**12, output=10**12, project="other")
    secret = key()
    paid.upstream.script = [usage_answer(1000, 1000)]
    wait_for(lambda: ask(paid, secret, {**CHAT, "model": "cheap"}).status == 200, what="the model")
    last = records(paid)[-1]
    assert (last["cost"], last["currency"]) == (1, "EUR")  # 0.75 micro-units
    paid.api("DELETE", f"{GROUP}/prices/all")


def test_the_tightest_budget_holds(paid, key):
    limit = {"apiVersion": "seki.cloud/v1alpha1", "kind": "Limit", "metadata": {"name": "money"}, "spec": budget(10 * EACH)}
    for name in ("one", "two"):
        paid.project(name, "payer")
        paid.remote_endpoint(name, "m", paid.upstream.url)
    paid.api("POST", f"{GROUP}/namespaces/one/projectlimits", limit)
    paid.api("PATCH", f"{GROUP}/tenants/payer", {"spec": {"limits": budget(13 * EACH)}}, content_type="application/merge-patch+json")
    paid.upstream.script = [usage_answer(PROMPT, 1)]
    one, two, both = paid.key("one", "a"), paid.key("one", "b", limits=budget(2 * EACH)), paid.key("two", "c")
    got = [ask(paid, two).status for _ in range(4)]
    assert got == [200, 200, 429, 429]
    got = [ask(paid, one).status for _ in range(10)]
    assert got == [200] * 8 + [429] * 2
    got = [ask(paid, both) for _ in range(5)]
    assert [r.status for r in got] == [200] * 3 + [429] * 2
    assert "tenant `payer`" in got[-1].json()["error"]["message"] and "project `one` (Limit `money`)" in ask(paid, one).json()["error"]["message"]


def test_bad_prices_and_budgets_are_refused(paid):
    with pytest.raises(ApiError, match="spec.currency"):
        price(paid, "bad", "m", currency="eur")
    with pytest.raises(ApiError, match="microsPerMillionTokens.input"):
        price(paid, "bad", "m", input=-1)
    with pytest.raises(ApiError, match="spec.limits.budget.currency"):
        paid.create("apikeys", "demo", "bad", {"limits": budget(1, currency="e1r")})
    with pytest.raises(ApiError, match="budget.period"):
        paid.create("apikeys", "demo", "bad", {"limits": budget(1, "Year")})


def test_only_gateways_lease(paid):
    lease = {"apiVersion": "seki.cloud/v1alpha1", "kind": "GatewayLease", "spec": {"gateway": "x", "incarnation": "1"}}
    token = paid.api("POST", "/api/v1/namespaces/payer/serviceaccounts/tenant-admin/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    with pytest.raises(ApiError) as e:
        paid.api("POST", f"{GROUP}/gatewayleases", lease, context=ssl.create_default_context(cafile=str(paid.data / "pki" / "ca.crt")), headers={"Authorization": f"Bearer {token}"})
    assert e.value.status in (403, 404)


def test_the_bill_says_what_it_cost(paid, key):
    secret = key()
    assert ask(paid, secret).status == 200
    def cost():
        days = paid.api("GET", f"{GROUP}/namespaces/demo/usagereports")["items"]
        return next((i.get("cost") for d in days for i in d["status"]["items"] if i["key"] == key.name), None)
    assert wait_for(cost, what="the report") == [{"currency": "EUR", "amountMicros": EACH}]


def test_what_was_spent_survives_kills():
    with cloud() as c:
        fill(c)
        secret = c.key("demo", "k", limits=budget(20 * EACH, "Month"))
        assert [ask(c, secret).status for _ in range(5)] == [200] * 5
        for role in ("gateway", "control", "both"):
            for one in ("gateway", "control") if role == "both" else (role,):
                os.kill(c.role_pid(one), signal.SIGKILL)
            wait_for(lambda: c.role_pid("gateway") and c.role_pid("control") and c.is_ready("metrics") and c.is_ready("metrics-gateway"), what="both roles")
            wait_for(lambda: ask(c, secret).status == 200, what="the budget to be known again")
            assert [ask(c, secret).status for _ in range(2)] == [200] * 2
        got = [ask(c, secret) for _ in range(10)]
        assert [r.status for r in got] == [200] * 6 + [429] * 4 and spent(c, "k") == 20 * EACH
        c.upstream.stop()


def test_without_control_money_ends_with_the_lease_and_rates_go_on():
    with cloud(**{"limits-lease": f"{6 + 2 * SLOW}s"}) as c:
        fill(c)
        rich, rated = c.key("demo", "rich", limits=budget(10**9)), c.key("demo", "rated", limits={"requestsPerMinute": 1000})
        assert ask(c, rich).status == 200
        os.kill(c.process.pid, signal.SIGSTOP)  # or it would start control anew
        try:
            os.kill(c.role_pid("control"), signal.SIGKILL)
            assert ask(c, rich).status == 200  # of what is leased
            got = ask(c, rich, {**CHAT, "max_tokens": 10**9 - 100})  # more than that, and nobody says that there is no more
            assert got.status == 503 and got.json()["error"]["code"] == "budget_unconfirmed"
            assert ask(c, rich).status == 200  # the lease held all the while
            got = wait_for(lambda: (r := ask(c, rich)).status != 200 and r, what="the lease's end")
            assert got.status == 503 and got.json()["error"]["code"] == "budget_unconfirmed"
            assert ask(c, rated).status == 200
        finally:
            os.kill(c.process.pid, signal.SIGCONT)
        wait_for(lambda: ask(c, rich).status == 200, what="control to lease again")
        c.upstream.stop()


def test_three_gateways_spend_only_what_there_is_though_one_is_killed():
    with cloud() as c:
        fill(c)
        names, started = ["gateway", "gateway-b", "gateway-c"], []
        try:
            with open(c.log, "ab") as log:
                for name in "bc":
                    started.append(subprocess.Popen([*c.command("gateway"), f"--gateway-name={name}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True))
            for name in names:
                wait_for(lambda n=name: (c.data / "run" / f"metrics-{n}.addr").exists() and c.is_ready(f"metrics-{n}"), what=name)
            secret = c.key("demo", "k", limits=budget(30 * EACH))
            for name in names:
                wait_for(lambda n=name: ask(c, secret, {**CHAT, "model": "none"}, n).status == 404, what="the key to be known")
            with concurrent.futures.ThreadPoolExecutor(48) as pool:
                statuses = [r.status for r in pool.map(lambda i: ask(c, secret, gateway=names[i % 3]), range(60))]
            started[1].kill()
            started[1].wait()
            for name in names[:2]:  # what the others gave back, or what is left
                statuses += [ask(c, secret, gateway=name).status for _ in range(10)]
            assert set(statuses) == {200, 429}
            assert 20 <= statuses.count(200) <= 30 and spent(c, "k") == statuses.count(200) * EACH
        finally:
            for p in started:
                p.kill()
                p.wait()
            c.upstream.stop()
