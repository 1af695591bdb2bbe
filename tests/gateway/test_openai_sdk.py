"""The gateway by the real OpenAI Python SDK, against the fake engine and against the real one."""
import asyncio
import json
import os
import pathlib

import openai
import pytest

from cloud import CACHE, Cloud, wait_for

MODEL_DIR = CACHE / "models" / "gemma3-270m"


def serve_gemma(c):
    """llama.cpp and Gemma 3 270M: one endpoint for text, one for embeddings."""
    facts = json.loads((MODEL_DIR / "manifest.json").read_text())
    c.project("demo")
    c.create("models", "demo", "gemma", {"source": f"file://{MODEL_DIR}", "format": "GGUF", "files": facts["files"], "license": facts["license"],
                                         "capabilities": ["Completion", "Embedding"]})
    c.create("modelendpoints", "demo", "gemma", {"model": "gemma", "engine": {"contextLength": 512, "parallel": 2}})
    c.create("modelendpoints", "demo", "gemma-embed", {"model": "gemma", "engine": {"contextLength": 512, "parallel": 1, "embeddings": True}})
    for name in ("gemma", "gemma-embed"):
        c.wait_condition("modelendpoints", "demo", name, timeout=120)
    c.secret = c.key("demo")
    wait_for(lambda: len(client(c).models.list().data) == 2, what="both models")


@pytest.fixture(scope="module")
def real():
    with Cloud() as c:
        serve_gemma(c)
        yield c


@pytest.fixture(scope="module")
def fake(request):
    with Cloud() as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=20, tokens_per_second=200)
        c.secret = c.key("demo")
        wait_for(lambda: [m.id for m in client(c).models.list()] == ["fake"], what="the model")
        yield c


def client(c, **kwargs):
    return openai.OpenAI(base_url=c.base_url, api_key=kwargs.pop("api_key", c.secret), max_retries=0, timeout=kwargs.pop("timeout", 120), **kwargs)


# ---- the real engine ----

def test_real_chat(real):
    r = client(real).chat.completions.create(model="gemma", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8)
    assert r.choices[0].message.content is not None
    assert r.usage.prompt_tokens > 0 and 0 < r.usage.completion_tokens <= 8


def test_real_answers_are_what_the_sdk_s_types_say(real):
    """In the SDK's strict mode. Not tried so, as they are no fault of ours: streams of completions (a null finish_reason is none of its types there), embeddings (it asks for base64 and
    checks it for floats), Responses (llama.cpp leaves members out)."""
    strict = client(real, _strict_response_validation=True)
    ask = {"model": "gemma", "messages": [{"role": "user", "content": "Count: one, two,"}], "max_tokens": 4}
    chunks = list(strict.chat.completions.create(**ask, stream=True, logprobs=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 4 and chunks[1].choices[0].logprobs.content
    whole = strict.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    assert strict.completions.create(model="gemma", prompt="One, two,", max_tokens=4).usage.completion_tokens == 4
    assert {m.id for m in strict.models.list()} == {"gemma", "gemma-embed"}


def test_real_stream_with_usage(real):
    chunks = list(client(real).chat.completions.create(model="gemma", messages=[{"role": "user", "content": "One, two,"}], max_tokens=12, stream=True,
                                                       stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0 and chunks[-1].choices == []
    assert len(chunks) > 2


def test_real_completion(real):
    r = client(real).completions.create(model="gemma", prompt="The capital of Japan is", max_tokens=8, temperature=0)
    assert "Tokyo" in r.choices[0].text


def test_real_embeddings(real):
    r = client(real).embeddings.create(model="gemma-embed", input=["tea", "coffee", "a locomotive"])
    a, b, c = (d.embedding for d in r.data)

    def cosine(x, y):
        return sum(p * q for p, q in zip(x, y)) / (sum(p * p for p in x) * sum(q * q for q in y)) ** 0.5
    assert len(a) == 640 and cosine(a, b) > cosine(a, c)


def test_real_async(real):
    async def main():
        c = openai.AsyncOpenAI(base_url=real.base_url, api_key=real.secret, max_retries=0)
        return await asyncio.gather(*[c.completions.create(model="gemma", prompt=f"{i},", max_tokens=4) for i in range(6)])
    assert all(r.usage.completion_tokens > 0 for r in asyncio.run(main()))


def test_the_real_engine_writes_no_prompt_down(own_cloud):
    """Its log is a file of ours: prompts that are answered, too long, nonsense or left alone are not in it, nor anywhere else."""
    canary = "canary-" + os.urandom(12).hex()
    c = own_cloud()
    serve_gemma(c)
    ask = client(c)
    said = [{"role": "user", "content": f"Say {canary}"}]
    ask.chat.completions.create(model="gemma", messages=said, max_tokens=4, user=canary)
    ask.completions.create(model="gemma", prompt=canary, max_tokens=4, stop=[canary])
    ask.embeddings.create(model="gemma-embed", input=[canary])
    stream = ask.chat.completions.create(model="gemma", messages=said, stream=True)
    next(stream)
    stream.close()
    for bad in (dict(messages=[{"role": "user", "content": f"{canary} " * 400}]), dict(messages=[{"role": canary, "content": {canary: 1}}]),
                dict(messages=said, extra_body={"grammar": f"root ::= {canary}"}), dict(messages=said, extra_body={"temperature": canary}),
                dict(messages=said, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": canary, "pattern": f"^({canary}"}}}),
                dict(messages=said, tools=[{"type": canary, "function": {"name": canary}}])):
        try:
            ask.chat.completions.create(model="gemma", max_tokens=2, **bad)
        except openai.APIError:
            pass
    with pytest.raises(openai.APIError):
        ask.embeddings.create(model="gemma-embed", input=f"{canary} " * 400)
    logs = list((c.data / "log").glob("*.log"))
    assert len(logs) == 2 and all("serving gemma" in log.read_text() for log in logs), "what the engines say of themselves is there"
    objects = c.kubectl("get", "seki,events", "-A", "-o", "yaml").stdout
    exposition = c.metrics("metrics-gateway") + c.metrics()
    c.stop()
    assert canary not in objects and canary not in exposition
    found = [path for path in pathlib.Path(c.dir).rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert not found, [(str(p), [line for line in p.read_text(errors="replace").splitlines() if canary in line][:3]) for p in found]


# ---- the fake engine ----

def test_chat_and_usage(fake):
    r = client(fake).chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    assert r.choices[0].message.content.startswith("tok0") and r.usage.completion_tokens == 20


def test_stream_without_usage_shows_none(fake):
    chunks = list(client(fake).chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}], stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.split() == [f"tok{i}" for i in range(20)]
    assert all(c.usage is None for c in chunks) and all(c.choices for c in chunks)


def test_request_id(fake):
    r = client(fake).chat.completions.with_raw_response.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    assert r.headers["x-request-id"].startswith("req-")


def test_errors_are_the_sdk_s_own(fake):
    c = client(fake)
    with pytest.raises(openai.NotFoundError) as e:
        c.chat.completions.create(model="nope", messages=[])
    assert e.value.body["code"] == "model_not_found" and "nope" in e.value.body["message"]
    with pytest.raises(openai.AuthenticationError) as e:
        client(fake, api_key="sk-seki-wrong").models.list()
    assert e.value.body["code"] == "invalid_api_key"
    with pytest.raises(openai.BadRequestError):
        c.embeddings.create(model="fake", input="x", extra_body={"model": None})
    with pytest.raises(openai.APIStatusError) as e:
        c.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x" * (17 << 20)}])
    assert e.value.status_code == 413


def test_timeout_is_the_client_s(fake):
    fake.fake_endpoint("demo", "slow", first_token_delay_ms=20000)
    wait_for(lambda: "slow" in [m.id for m in client(fake).models.list()], what="the model")
    with pytest.raises(openai.APITimeoutError):
        client(fake, timeout=0.5).chat.completions.create(model="slow", messages=[{"role": "user", "content": "hi"}])


def test_abort_in_a_stream(fake):
    fake.fake_endpoint("demo", "long", tokens=100000, tokens_per_second=50)
    wait_for(lambda: "long" in [m.id for m in client(fake).models.list()], what="the model")
    stream = client(fake).chat.completions.create(model="long", messages=[{"role": "user", "content": "hi"}], stream=True)
    seen = [next(stream) for _ in range(3)]
    stream.close()
    assert len(seen) == 3
    wait_for(lambda: "seki_gateway_requests_active 0" in fake.metrics("metrics-gateway") or None, what="the request to be settled")


def test_usage_is_counted_once(fake):
    secret = fake.key("demo", "metered")
    c = client(fake, api_key=secret)
    for _ in range(3):
        c.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])

    def items():
        reports = fake.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports")["items"]
        return [i for r in reports for i in r.get("status", {}).get("items", []) if i["key"] == "metered"]
    wait_for(lambda: sum(i["requests"] for i in items()) == 3, what="three requests in the usage report")
    assert sum(i["completionTokens"] for i in items()) == 60


def test_expired_disabled_and_limited_keys(fake):
    fake.fake_endpoint("demo", "other")
    secret = fake.key("demo", "narrow", endpoints=["other"])
    wait_for(lambda: [m.id for m in client(fake, api_key=secret).models.list()] == ["other"], what="one model")
    with pytest.raises(openai.NotFoundError):
        client(fake, api_key=secret).chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    fake.kubectl("-n", "demo", "patch", "apikey", "narrow", "--type=merge", "-p", '{"spec":{"disabled":true}}')
    wait_for(lambda: fake.gateway_status("/models", secret) == 401, what="the key to be refused")
    old = fake.create("apikeys", "demo", "old", {"expiresAt": "2020-01-01T00:00:00Z"})["status"]["key"]
    assert fake.gateway_status("/models", old) == 401


def test_other_projects_see_nothing(fake):
    fake.project("stranger")
    secret = fake.key("stranger")
    assert client(fake, api_key=secret).models.list().data == []
    with pytest.raises(openai.NotFoundError):
        client(fake, api_key=secret).chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])


def test_a_prompt_is_found_nowhere(own_cloud):
    """A canary in prompt and answer is in no file under the data directory afterwards, nor in the logs."""
    canary = "canary-" + os.urandom(12).hex()
    c = own_cloud()
    c.project("demo")
    c.fake_endpoint("demo", "fake", tokens=5)
    c.secret = c.key("demo")
    wait_for(lambda: len(client(c).models.list().data) == 1, what="the model")
    client(c).chat.completions.create(model="fake", messages=[{"role": "user", "content": canary}], user=canary)
    list(client(c).chat.completions.create(model="fake", messages=[{"role": "user", "content": canary}], stream=True))
    c.stop()
    for path in pathlib.Path(c.dir).rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path
    assert not list((c.data / "log").glob("decisions*")), "nobody asked for that log"
