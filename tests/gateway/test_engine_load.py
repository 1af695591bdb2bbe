"""What engines tell of their queues and of memory for keys and values: requests go where the others' are not."""
import json

import pytest

from cloud import Cloud, wait_for
from wire import Upstream, ask_once

ASKED = 20  # requests in a row: by chance all of them go one way once in half a million times


def metrics(waiting=0, running=0, kv=0.1, kv_name="kv_cache_usage_perc"):
    series = {"num_requests_running": running, "num_requests_waiting": waiting, kv_name: kv, "prompt_tokens_total": 1, "generation_tokens_total": 1}
    return "".join(f'vllm:{name}{{model_name="m",engine="0"}} {value}\n' for name, value in series.items()).encode()


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"engine-probe-interval": "100ms", "gateway-threads": 1, "gateway-decision-log-per-million": 1000000}) as c:
        c.engines = [Upstream(), Upstream()]
        c.project("demo")
        c.create("modelendpoints", "demo", "m", {"replicas": 2, "engine": {"driver": "vllm"}, "servers": [{"url": e.url} for e in c.engines]})
        wait_for(lambda: c.get("modelendpoints", "demo", "m").get("status", {}).get("readyReplicas") == 2, what="both servers")
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", c.secret) == 200, what="the model")
        yield c
        for e in c.engines:
            e.stop()


def shares(c):
    """How many of ASKED requests each got."""
    before = [len(e.requests) for e in c.engines]
    for _ in range(ASKED):
        assert ask_once(c.address("gateway"), c.secret, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}).status == 200
    return [len(e.requests) - b for e, b in zip(c.engines, before)]


def all_go_to(c, which):
    wait_for(lambda: shares(c)[1 - which] == 0, what=f"all requests to go to engine {which}")


def both_get_some(c):
    wait_for(lambda: min(shares(c)) > 0, what="both to be asked")


@pytest.mark.parametrize("busy", [dict(waiting=3, running=8), dict(kv=0.97), dict(kv=0.97, kv_name="gpu_cache_usage_perc")], ids=["queue", "memory", "memory, by its older name"])
def test_who_is_busy_with_others_is_spared(cloud, busy):
    """Only what the engines tell differs; both are alike again once they tell the same, or nothing."""
    one, two = cloud.engines
    one.metrics = two.metrics = metrics()
    both_get_some(cloud)
    one.metrics = metrics(**busy)
    all_go_to(cloud, 1)
    one.metrics, two.metrics = metrics(), metrics(**busy)
    all_go_to(cloud, 0)
    one.metrics = two.metrics = metrics(**busy)
    both_get_some(cloud)
    one.metrics, two.metrics = None, metrics(**busy)
    all_go_to(cloud, 0)
    two.metrics = b"vllm:num_requests_waiting nonsense\nvllm:kv_cache_usage_perc 17\n"
    both_get_some(cloud)


def test_decisions_say_so(cloud):
    cloud.engines[0].metrics, cloud.engines[1].metrics = metrics(waiting=4, running=9, kv=0.9), metrics()
    all_go_to(cloud, 1)
    lines = wait_for(lambda: [c for path in (cloud.data / "log").glob("decisions-*.jsonl") for line in path.read_text().splitlines() for s in json.loads(line)["sent"] for c in s["candidates"]
                              if c.get("others") == 13], what="a line")
    assert {k: lines[0][k] for k in ("replica", "others_waiting", "kv_thousandths")} == {"replica": "m-0", "others_waiting": 4, "kv_thousandths": 900}
