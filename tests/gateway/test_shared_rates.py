"""Rates over several gateways: together they let through what one would, wherever requests come, and though one is killed or control is away."""
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import time

import pytest

from cloud import SLOW, Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream, ask_once, usage_answer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
PROMPT = len(json.dumps(CHAT["messages"])) // 4 + 1
EACH = PROMPT + 1
pytestmark = pytest.mark.threads
NAMES = ["gateway", "gateway-b", "gateway-c"]


def parts(c, name):
    return parse(c.metrics(f"metrics-{name}")).get(("seki_gateway_rate_parts", ()))


@contextlib.contextmanager
def fleet(count=3):
    """As many gateways on one data directory; c.more are those beside the first."""
    with Cloud(options={"gateway-first-byte-timeout": "10s", "limits-lease": f"{1500 * SLOW}ms"}) as c, contextlib.ExitStack() as stack:
        c.upstream, c.more, c.count = Upstream(), {}, 0
        stack.callback(c.upstream.stop)
        c.upstream.script = [usage_answer(PROMPT, 1)]
        c.project("demo")
        c.remote_endpoint("demo", "m", c.upstream.url)
        log = stack.enter_context(open(c.log, "ab"))

        def start(name):
            p = subprocess.Popen([*c.command("gateway"), f"--gateway-name={name[len('gateway-'):]}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            stack.callback(p.wait)
            stack.callback(p.kill)
            return p
        c.start_more = start
        for name in NAMES[1:count]:
            c.more[name] = start(name)
        c.names = NAMES[:count]
        for name in c.names:
            wait_for(lambda n=name: (c.data / "run" / f"metrics-{n}.addr").exists() and c.is_ready(f"metrics-{n}"), what=name)
            wait_for(lambda n=name: parts(c, n) == count, what=f"the part of {name}")
        dealt = int(time.time())
        wait_for(lambda: int(time.time()) > dealt, what="the next second: what is made in it is younger than the shares, and full")
        yield c


@pytest.fixture(scope="module")
def three():
    with fleet() as c:
        yield c


def make_key(c, **limits):
    c.count += 1
    secret = c.key("demo", f"k{c.count}", limits=limits)
    for name in c.names:
        wait_for(lambda n=name: knows(c, secret, n), what="the key to be known")
    return secret


def knows(c, secret, gateway):
    """By what counts in no limit."""
    with RawClient(c.address(gateway)) as client:
        client.send(f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
        return client.response().status == 200


def ask(c, secret, body=CHAT, gateway="gateway"):
    return ask_once(c.address(gateway), secret, body)


def storm(c, secret, count, names):
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        return [r.status for r in pool.map(lambda i: ask(c, secret, gateway=names[i % len(names)]), range(count))]


def test_a_thousand_at_once_on_three_get_only_what_fits(three):
    secret, began = make_key(three, tokensPerMinute=100), time.monotonic()
    statuses = storm(three, secret, 1000, three.names)
    filled = (time.monotonic() - began) * 100 / 60
    assert set(statuses) == {200, 429}
    assert 30 // EACH * 3 <= statuses.count(200) <= (100 + filled) / EACH


def test_what_others_do_not_use_moves_to_where_it_is_asked_for(three):
    secret = make_key(three, requestsPerMinute=60)
    statuses = [ask(three, secret, gateway="gateway-b").status for _ in range(60)]
    assert statuses.count(200) == 60  # 20 were its own
    got = ask(three, secret, gateway="gateway-b")
    assert got.status in (200, 429) and got.headers.get("x-ratelimit-limit-requests") == "60"
    statuses = [ask(three, secret, gateway=name).status for name in three.names for _ in range(3)]
    assert 429 in statuses and statuses.count(200) <= 6  # what has flowed in meanwhile


def test_a_request_larger_than_any_share_gathers_what_it_needs(three):
    secret = make_key(three, tokensPerMinute=3 * EACH)
    large = {**CHAT, "messages": [{"role": "user", "content": "hi" * 2 * 4 * EACH}]}
    prompt = len(json.dumps(large["messages"])) // 4 + 1
    wide = make_key(three, tokensPerMinute=prompt + EACH)
    assert ask(three, wide, large, "gateway-c").status == 200
    never = ask(three, secret, large, "gateway-c")
    assert never.status == 429 and never.headers["x-should-retry"] == "false"


def test_requests_at_once_are_counted_over_all(three):
    secret = make_key(three, concurrentRequests=4)
    three.upstream.go.clear()
    three.upstream.script = ["wait", usage_answer(PROMPT, 1)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        got = [pool.submit(ask, three, secret, CHAT, three.names[i % 3]) for i in range(12)]
        wait_for(lambda: sum(f.done() for f in got) == 8, what="those beyond the limit")
        assert all(f.result().status == 429 for f in got if f.done())
        three.upstream.go.set()
    assert sorted(f.result().status for f in got) == [200] * 4 + [429] * 8
    three.upstream.script = [usage_answer(PROMPT, 1)]
    assert [ask(three, secret, gateway=name).status for name in three.names] == [200] * 3


def test_without_control_each_goes_on_with_its_share(three):
    c, secret = three, make_key(three, requestsPerMinute=60)
    os.kill(c.process.pid, signal.SIGSTOP)  # or it would start control anew
    os.kill(c.role_pid("control"), signal.SIGKILL)
    for name in c.names:
        statuses = [ask(c, secret, gateway=name).status for _ in range(30)]
        assert statuses[:20] == [200] * 20 and 429 in statuses[20:], name
    os.kill(c.process.pid, signal.SIGCONT)
    wait_for(lambda: c.is_ready("metrics") and all(parts(c, n) == 3 for n in c.names), what="control to be back")


def test_one_that_starts_without_control_goes_on_with_its_share(three):
    c, secret = three, make_key(three, requestsPerMinute=600)
    wait_for(lambda: f'"k{c.count}"'.encode() in (c.data / "run" / "gateway-c.snapshot").read_bytes(), what="the key to be in the snapshot")
    os.kill(c.process.pid, signal.SIGSTOP)  # or it would start control anew
    os.kill(c.role_pid("control"), signal.SIGKILL)
    c.more["gateway-c"].kill()
    c.more["gateway-c"].wait()
    (c.data / "run" / "metrics-gateway-c.addr").unlink()
    began = time.monotonic()
    c.more["gateway-c"] = c.start_more("gateway-c")
    wait_for(lambda: (c.data / "run" / "metrics-gateway-c.addr").exists() and c.is_ready("metrics-gateway-c"), what="the gateway")
    wait_for(lambda: parts(c, "gateway-c") == 3, 2, what="its part")
    statuses = [ask(c, secret, gateway="gateway-c").status for _ in range(60)]
    assert statuses.count(200) <= 1 + (time.monotonic() - began) * 200 / 60  # what has flowed into its part; the others' are full, and stay theirs
    assert set(statuses) <= {200, 429}
    os.kill(c.process.pid, signal.SIGCONT)
    wait_for(lambda: c.is_ready("metrics") and all(parts(c, n) == 3 for n in c.names), what="control to be back")


def test_a_part_comes_back_when_its_gateway_leaves_and_when_a_killed_ones_lease_is_over(three):
    c, secret = three, make_key(three, requestsPerMinute=60)
    c.more["gateway-c"].kill()
    statuses = storm(c, secret, 60, c.names[:2])
    assert 40 <= statuses.count(200) < 60  # of the dead one's part nothing is used
    wait_for(lambda: all(parts(c, n) == 2 for n in c.names[:2]), what="the lease's end")
    c.more["gateway-b"].terminate()
    assert c.more["gateway-b"].wait(30) == 0
    wait_for(lambda: parts(c, "gateway") == 1, what="the part of the one that left")
    wait_for(lambda: "has left, and given back" in c.log.read_text(), what="its slices of budgets")
