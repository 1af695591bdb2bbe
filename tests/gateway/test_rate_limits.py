"""Limits of those who call: exact with many at once, told truthfully, free where nothing was got."""
import concurrent.futures
import json
import signal
import time

import openai
import pytest

from cloud import ApiError, Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream, answer, ask_once, usage_answer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
PROMPT = len(json.dumps(CHAT["messages"])) // 4 + 1
EACH = PROMPT + 1


@pytest.fixture(scope="module")
def limited():
    with Cloud(options={"gateway-first-byte-timeout": "1s"}) as c:
        c.upstream = Upstream()
        c.project("demo")
        c.remote_endpoint("demo", "m", c.upstream.url)
        c.count = 0
        yield c
        c.upstream.stop()


@pytest.fixture
def key(limited):
    """key(requestsPerMinute=…) → a new key's secret; .name is its name."""
    def make(**limits):
        limited.count += 1
        make.name = f"k{limited.count}"
        limited.upstream.script, limited.upstream.requests[:] = [usage_answer(PROMPT, 1)], []
        return limited.key("demo", make.name, limits=limits)
    return make


def ask(c, secret, body=CHAT):
    return ask_once(c.address("gateway"), secret, body)


def test_a_thousand_at_once_get_only_what_fits(limited, key):
    secret = key(tokensPerMinute=100)
    fit = 100 // EACH
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        statuses = [r.status for r in pool.map(lambda _: ask(limited, secret), range(1000))]
    filled = (time.monotonic() - began) * 100 / 60
    assert set(statuses) == {200, 429}
    assert fit <= statuses.count(200) <= (100 + filled) / EACH
    assert len(limited.upstream.requests) == statuses.count(200)  # the engine has seen no other


def test_who_is_kept_away_is_in_the_audit_ledger_once_a_minute(limited, key):
    secret = key(requestsPerMinute=1)
    name = key.name
    statuses = [ask(limited, secret).status for _ in range(60)]
    assert statuses[0] == 200 and statuses.count(429) >= 58

    def records():
        events = [json.loads(line) for line in limited.seki("audit", "export", "--format", "json", str(limited.data / "ledger")).stdout.splitlines()]
        return [e for e in events if e["type"] == "refused" and e.get("user") == name]
    (first,) = wait_for(records, what="the record")
    assert first["status"] == 429 and first["rule"] == "RateLimit/key/requests" and first["namespace"] == "demo" and first["reason"] == "rate_limit_exceeded" and first.get("count", 1) == 1, first
    limited.kill_role("gateway", signal.SIGTERM)  # what was counted is written at the latest then
    wait_for(lambda: len(records()) == 2, what="the count")
    assert sum(e.get("count", 1) for e in records()) == statuses.count(429)
    wait_for(lambda: limited.is_ready("gateway") and limited.gateway_status("/models", secret) == 200, what="the gateway to be back")


@pytest.mark.parametrize("body, status", [({**CHAT, "model": "nope"}, 404), ({"model": "m"}, 400), (b"{", 400)], ids=["unknown model", "bad body", "no JSON"])
def test_what_is_refused_for_itself_counts_as_a_request(limited, key, body, status):
    """As at OpenAI: else a key with limits could ask for what is not there without end. The answer tells what is left; then it is 429, for good requests too."""
    secret = key(requestsPerMinute=3, tokensPerMinute=1000)
    got = [ask(limited, secret, body) for _ in range(5)]
    assert [r.status for r in got] == [status] * 3 + [429] * 2
    assert [r.headers["x-ratelimit-remaining-requests"] for r in got] == ["2", "1", "0", "0", "0"]
    assert {r.headers["x-ratelimit-remaining-tokens"] for r in got} == {"1000"}
    assert got[3].json()["error"]["code"] == "rate_limit_exceeded" and int(got[3].headers["retry-after"]) <= 20
    assert ask(limited, secret).status == 429 and not limited.upstream.requests
    assert ask(limited, key(requestsPerMinute=3)).status == 200  # nobody else's
    assert "x-ratelimit-remaining-requests" not in ask(limited, key(), body).headers


def test_what_is_left_is_told(limited, key):
    secret = key(requestsPerMinute=2, tokensPerMinute=1000)
    first = ask(limited, secret)
    assert first.headers["x-ratelimit-limit-requests"] == "2" and first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000" and first.headers["x-ratelimit-remaining-tokens"] == str(1000 - EACH)
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    ask(limited, secret)
    third = ask(limited, secret)
    assert third.status == 429 and third.headers["x-ratelimit-remaining-requests"] == "0"
    error = third.json()["error"]
    assert error["code"] == "rate_limit_exceeded" and error["type"] == "requests" and f"API key `{key.name}`" in error["message"] and "limit 2" in error["message"]
    assert 0 < int(third.headers["retry-after"]) <= 30 and int(third.headers["retry-after-ms"]) <= 30000
    samples = parse(limited.metrics("metrics-gateway"))
    assert samples["seki_gateway_limited_total", (("scope", "key"), ("unit", "requests"))] >= 1


def test_nothing_is_told_where_there_is_no_limit(limited, key):
    got = ask(limited, key())
    assert got.status == 200 and not [h for h in got.headers if h.startswith("x-ratelimit")]


def test_what_can_never_fit_is_not_told_to_wait(limited, key):
    secret = key(tokensPerMinute=50)
    got = ask(limited, secret, {**CHAT, "messages": [{"role": "user", "content": "x" * 400}]})
    assert got.status == 429 and "retry-after" not in got.headers and got.headers["x-should-retry"] == "false"
    assert "50 tokens a minute" in got.json()["error"]["message"]
    assert ask(limited, secret).status == 200


def test_what_was_not_used_comes_back(limited, key):
    secret = key(tokensPerMinute=1000)
    got = ask(limited, secret, {**CHAT, "max_tokens": 900})
    assert got.headers["x-ratelimit-remaining-tokens"] == str(1000 - EACH)


def test_a_stream_tells_what_is_left_while_it_runs(limited, key):
    secret = key(tokensPerMinute=1000)
    limited.upstream.script = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
                               b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n',
                               b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}\n\n', b"data: [DONE]\n\n", "close"]
    got = ask(limited, secret, {**CHAT, "stream": True, "max_tokens": 100})
    assert got.status == 200 and got.headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT - 100)
    limited.upstream.script = [usage_answer(PROMPT, 1)]
    assert int(ask(limited, secret).headers["x-ratelimit-remaining-tokens"]) in range(1000 - 6 - EACH, 1000 - 6 - EACH + 20)


@pytest.mark.parametrize("failure", [["reset"], ["hold"], [answer(b'{"error":{"message":"no"}}', 500)]], ids=["reset", "timeout", "500"])
def test_failures_are_free(limited, key, failure):
    secret = key(requestsPerMinute=1, tokensPerMinute=EACH, concurrentRequests=1)
    limited.upstream.script = failure
    for _ in range(2):
        assert ask(limited, secret).status in (500, 502, 504)
    limited.upstream.script = [usage_answer(PROMPT, 1)]
    assert ask(limited, secret).status == 200
    assert ask(limited, secret).status == 429


def test_what_an_engine_refuses_is_a_request_without_tokens(limited, key):
    secret = key(requestsPerMinute=2, tokensPerMinute=EACH)
    limited.upstream.script = [answer(b'{"error":{"message":"no"}}', 400)]
    assert ask(limited, secret).status == 400
    limited.upstream.script = [usage_answer(PROMPT, 1)]
    assert ask(limited, secret).status == 200
    third = ask(limited, secret)
    assert third.status == 429 and third.json()["error"]["type"] == "requests"


def test_requests_at_once(limited, key):
    secret = key(concurrentRequests=1)
    limited.upstream.script = [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n', "hold"]
    body = json.dumps({**CHAT, "stream": True}).encode()
    with RawClient(limited.address("gateway")) as client:
        client.send(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        client.read_until(b"delta")
        limited.upstream.script = [usage_answer(PROMPT, 1)]
        refused = ask(limited, secret)
        assert refused.status == 429 and "1 requests may run at the same time" in refused.json()["error"]["message"]
    # Who leaves gives his place back.
    wait_for(lambda: ask(limited, secret).status == 200, what="the place to be free")


def test_a_changed_limit_holds_at_once_and_forgives_nothing(limited, key):
    secret = key(requestsPerMinute=2)
    assert [ask(limited, secret).status for _ in range(3)] == [200, 200, 429]
    path = f"/apis/seki.cloud/v1alpha1/namespaces/demo/apikeys/{key.name}"
    limited.api("PATCH", path, {"spec": {"limits": {"requestsPerMinute": 1}}}, content_type="application/merge-patch+json")
    wait_for(lambda: (r := ask(limited, secret)).status == 429 and r.headers["x-ratelimit-limit-requests"] == "1", what="the new limit")
    limited.api("PATCH", path, {"spec": {"limits": None}}, content_type="application/merge-patch+json")
    wait_for(lambda: ask(limited, secret).status == 200, what="no limit")


def test_a_key_made_anew_is_no_new_bucket(limited, key):
    secret = key(requestsPerMinute=1)
    assert [ask(limited, secret).status for _ in range(2)] == [200, 429]
    limited.api("DELETE", f"/apis/seki.cloud/v1alpha1/namespaces/demo/apikeys/{key.name}")
    wait_for(lambda: ask(limited, secret).status == 401, what="the key to be gone")
    assert ask(limited, limited.key("demo", key.name, limits={"requestsPerMinute": 1})).status == 429


def test_the_sdk_understands(limited, key):
    client = openai.OpenAI(base_url=limited.base_url, api_key=key(requestsPerMinute=1), max_retries=0)
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as e:
        client.chat.completions.create(**CHAT)
    assert e.value.code == "rate_limit_exceeded" and int(e.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("member", ["requestsPerMinute", "tokensPerMinute", "concurrentRequests"])
@pytest.mark.parametrize("value", [0, -1, 10**15, "5", 1.5])
def test_bad_limits_are_refused(limited, member, value):
    with pytest.raises(ApiError) as e:
        limited.create("apikeys", "demo", "bad", {"limits": {member: value}})
    assert e.value.status in (400, 422) and f"spec.limits.{member}" in str(e.value)


def test_seki_key_create(limited):
    secret = limited.seki("-n", "demo", "key", "create", "cli", "--requests-per-minute", "1", "--tokens-per-minute", "5000", "--concurrent-requests", "3", "--quiet").stdout.strip()
    assert limited.get("apikeys", "demo", "cli")["spec"]["limits"] == {"requestsPerMinute": 1, "tokensPerMinute": 5000, "concurrentRequests": 3}
    wait_for(lambda: ask(limited, secret).status == 429, what="the limit")
    p = limited.seki("-n", "demo", "key", "create", "cli2", "--requests-per-minute", "no", check=False)
    assert p.returncode == 2 and "expected a number from 1 on" in p.stderr


# ---- projects and tenants ----

def merge(c, path, doc):
    return c.api("PATCH", path, doc, content_type="application/merge-patch+json")


def test_a_project_s_limit_holds_all_its_keys_together(limited, key):
    """Two keys without limits of their own share their project's; the tighter of two Limits holds."""
    one, two = key(), key()
    kind = {"apiVersion": "seki.cloud/v1alpha1", "kind": "Limit"}
    path = "/apis/seki.cloud/v1alpha1/namespaces/demo/projectlimits"
    for name, rpm in (("wide", 100), ("narrow", 3)):
        limited.api("POST", path, {**kind, "metadata": {"name": name}, "spec": {"requestsPerMinute": rpm}})
    try:
        wait_for(lambda: ask(limited, one).headers.get("x-ratelimit-limit-requests") == "3", what="the limit")
        statuses = [ask(limited, k).status for k in (one, two, one, two)]
        assert 429 in statuses and statuses[-1] == 429
        message = ask(limited, two).json()["error"]["message"]
        assert "project `demo`" in message and "the project's admin" in message
    finally:
        for name in ("wide", "narrow"):
            limited.api("DELETE", f"{path}/{name}")
    wait_for(lambda: ask(limited, two).status == 200, what="no limit")


def test_a_tenant_s_limit_holds_all_its_projects_together(limited):
    tenant = limited.tenant("acme")
    limited.project("acme-two", tenant="acme")
    for ns in ("acme", "acme-two"):
        limited.remote_endpoint(ns, "m", limited.upstream.url)
    limited.upstream.script = [usage_answer(PROMPT, 1)]
    keys = [limited.key("acme"), limited.key("acme-two")]
    merge(limited, "/apis/seki.cloud/v1alpha1/tenants/acme", {"spec": {"limits": {"tokensPerMinute": 4 * EACH}}})
    wait_for(lambda: "x-ratelimit-limit-tokens" in ask(limited, keys[0]).headers, what="the limit")
    statuses = [ask(limited, k).status for k in keys * 3]
    assert statuses[-1] == 429 and statuses.count(200) <= 4, (tenant, statuses)
    message = ask(limited, keys[1]).json()["error"]["message"]
    assert "tenant `acme`" in message and "operator" in message
