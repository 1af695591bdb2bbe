"""A slow first token of the real engine: another one is asked too, has the stream, and is all that is billed."""
import http.client
import json
import os
import re
import signal
import socket

import pytest

from cloud import BUILD, CACHE, Cloud, wait_for
from counting import engine_pids
from exposition import parse
from wire import RawClient, journal, post

pytestmark = pytest.mark.skipif(not os.path.exists(BUILD) or not os.path.exists(CACHE / "models/gemma3-270m/manifest.json"), reason="no build or no model")
LONG = 20


def ask(c, key, max_tokens):
    with RawClient(c.address("gateway")) as client:
        client.send(post(key, {"model": "gemma", "prompt": "one two three four", "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": max_tokens}, path="completions"))
        got = client.response()
    assert got.status == 200 and got.body.rstrip().endswith(b"data: [DONE]"), got.body[-300:]
    events = [json.loads(line[6:]) for line in got.body.splitlines() if line.startswith(b"data: {")]
    return next(e["usage"] for e in reversed(events) if e.get("usage"))


def counters(c, replica):
    """What the engine itself says: of requests that run, and of tokens that it has made."""
    connection = http.client.HTTPConnection("engine", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(30)
    connection.sock.connect(c.get("modelreplicas", "demo", replica)["status"]["address"].removeprefix("unix:"))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return [float(re.search(rf"^llamacpp:{name} (\S+)", text, re.M)[1]) for name in ("requests_processing", "tokens_predicted_total")]


def hedged(c):
    return parse(c.metrics("metrics-gateway")).get(("seki_gateway_hedges_total", (("result", "won"),)), 0)


@pytest.mark.full
def test_another_engine_writes_and_the_late_one_is_left():
    with Cloud(options={"gateway-threads": 1, "gateway-keepalive": "0", "engine-probe-interval": "60s"}) as c:
        c.project("demo")
        c.real_endpoint("demo", "gemma", parallel=1, replicas=2)
        key = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/gemma", key) == 200, what="the model")
        pids = engine_pids(c, "demo", "gemma", 2)
        for _ in range(60):  # what is usual is learned
            ask(c, key, 1)
        late, asked, before = 0, 60, hedged(c)
        made = counters(c, f"gemma-{late}")[1]
        os.kill(pids[late], signal.SIGSTOP)
        try:
            while hedged(c) == before:  # until one is sent there: which it is, is chance
                usage = ask(c, key, LONG)
                asked += 1
                assert usage["completion_tokens"] == LONG and asked < 90
        finally:
            os.kill(pids[late], signal.SIGCONT)
        wait_for(lambda: counters(c, f"gemma-{late}")[0] == 0, what="the late one to have let go")
        assert counters(c, f"gemma-{late}")[1] - made < LONG / 2

        record, = wait_for(lambda: [r for r in journal(c.data / "ledger") if r["completion_tokens"] == LONG and r["engines"][0].get("loser")], what="the record")
        assert (record["outcome"], record["prompt_tokens"], record["exact"]) == ("ok", usage["prompt_tokens"], True) and record["completion_tokens"] == LONG
        assert [(e["replica"], e.get("loser", False)) for e in record["engines"]] == [(f"demo/gemma-{late}", True), (f"demo/gemma-{1 - late}", False)]
        assert len(journal(c.data / "ledger")) == asked
