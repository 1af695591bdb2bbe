"""A stream of the real engine goes on from another one when its own is killed. The text is not compared with what would have been written: engines round otherwise in another batch."""
import os

import pytest

from cloud import BUILD, CACHE, Cloud, wait_for
from counting import Counting, Engines, engine_pids
from wire import journal

pytestmark = pytest.mark.skipif(not os.path.exists(BUILD) or not os.path.exists(CACHE / "models/gemma3-270m/manifest.json"), reason="no build or no model")
TOKENS = 36


def test_a_real_stream_outlives_its_engine():
    with Cloud() as c:
        c.project("demo")
        c.real_endpoint("demo", "gemma", parallel=1, replicas=2)
        key = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/gemma", key) == 200, what="the model")
        engines = Engines(engine_pids(c, "demo", "gemma", 2))
        stream = Counting(c, key, "gemma", TOKENS)
        stream.take(2)
        engines.kill_the_busy_one()
        known = len(stream.text)
        assert len(stream.rest()) > known
        usage = stream.check()
        assert usage["completion_tokens"] == TOKENS

        def records():
            return [r for d in {p.parent for p in c.data.rglob("usage-gateway.[0-9]*")} for r in journal(d) if r["stream"]]
        record, = wait_for(records, what="the usage record")
        assert record["outcome"] == "ok" and record["exact"]
        assert (record["prompt_tokens"], record["completion_tokens"]) == (usage["prompt_tokens"], TOKENS)
        # the second engine read the prompt again, and the text so far
        assert record["prompt_tokens"] < record["replayed_tokens"] < record["prompt_tokens"] + TOKENS
