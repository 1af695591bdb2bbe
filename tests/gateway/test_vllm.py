"""Driver vllm against somebody else's server with vLLM's API: vLLM itself, or a simulator of it.

    VLLM_URL=http://127.0.0.1:8000/v1 VLLM_MODEL=base VLLM_ADAPTER=style pytest tests/gateway/test_vllm.py

Without VLLM_URL nothing is tested. The adapter may lack. What is written to the server is no check of it: its answers must come through as OpenAI's SDK wants them, its counts into the
records, its metrics into status.
"""
import os

import openai
import pytest

from cloud import Cloud, wait_for
from wire import journal

URL = os.environ.get("VLLM_URL")
MODEL = os.environ.get("VLLM_MODEL", "base")
ADAPTER = os.environ.get("VLLM_ADAPTER")
SAID = [{"role": "user", "content": "Say something about the sea."}]
pytestmark = [pytest.mark.full, pytest.mark.skipif(not URL, reason="VLLM_URL names no server")]


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-threads": 1, "usage-reconcile-interval": "10s"}) as c:
        c.project("demo", tenant="tenant-demo")
        for name, model in (("m", MODEL), ("tuned", ADAPTER)):
            if model:
                c.create("modelendpoints", "demo", name, {"visibility": "Everyone", "engine": {"driver": "vllm", "url": URL, "remoteModel": model}})
                c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", c.secret) == 200, what="the model")
        yield c


def client(c):
    return openai.OpenAI(base_url=c.base_url, api_key=c.secret, max_retries=0, timeout=120)


def last(c, old):
    wait_for(lambda: len(journal(c.data / "ledger")) > old, what="the record")
    return journal(c.data / "ledger")[-1]


def records(c):
    return len(journal(c.data / "ledger"))


def test_it_is_found_ready(cloud):
    assert cloud.condition("modelendpoints", "demo", "m")["status"] == "True"


def test_a_whole_answer(cloud):
    old = records(cloud)
    r = client(cloud).chat.completions.create(model="m", messages=SAID, max_tokens=8)
    record = last(cloud, old)
    assert r.choices[0].message.content and record["exact"] and (record["prompt_tokens"], record["completion_tokens"]) == (r.usage.prompt_tokens, r.usage.completion_tokens)


def test_a_stream_with_usage_and_without(cloud):
    for asked in (True, False):
        old = records(cloud)
        chunks = list(client(cloud).chat.completions.create(model="m", messages=SAID, max_tokens=8, stream=True, **({"stream_options": {"include_usage": True}} if asked else {})))
        record = last(cloud, old)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) and record["exact"] and record["completion_tokens"] > 0
        assert bool(chunks[-1].usage) == asked and (not asked or chunks[-1].usage.completion_tokens == record["completion_tokens"])


def test_completions(cloud):
    old = records(cloud)
    r = client(cloud).completions.create(model="m", prompt="The sea is", max_tokens=8)
    assert r.choices[0].text and last(cloud, old)["completion_tokens"] == r.usage.completion_tokens


@pytest.mark.skipif(not ADAPTER, reason="VLLM_ADAPTER names none")
def test_an_adapter_is_a_model(cloud):
    old = records(cloud)
    assert client(cloud).chat.completions.create(model="tuned", messages=SAID, max_tokens=8).choices[0].message.content
    record = last(cloud, old)
    assert (record["endpoint"], record["exact"]) == ("tuned", True)


def test_a_stream_that_is_left_is_counted_as_far_as_it_came(cloud):
    old = records(cloud)
    stream = client(cloud).chat.completions.create(model="m", messages=SAID, max_tokens=400, stream=True)
    seen = 0
    for chunk in stream:
        seen += bool(chunk.choices and chunk.choices[0].delta.content)
        if seen == 3:
            break
    stream.close()
    record = last(cloud, old)
    assert record["outcome"] == "client_gone" and not record["exact"] and record["completion_tokens"] >= 3


def test_bad_requests_are_told_in_its_words(cloud):
    with pytest.raises(openai.BadRequestError) as e:
        client(cloud).chat.completions.create(model="m", messages=SAID, max_tokens=-3)
    assert str(e.value)


def test_its_metrics_are_read(cloud):
    """requests_running and the counters of progress: what they are called is what the driver asks for."""
    import urllib.request
    with urllib.request.urlopen(URL.removesuffix("/v1") + "/metrics", timeout=30) as r:
        text = r.read().decode()
    assert all(f"\n{name}" in text for name in ("vllm:num_requests_running", "vllm:prompt_tokens_total", "vllm:generation_tokens_total"))
