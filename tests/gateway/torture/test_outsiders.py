"""Other people's suites, pointed at the gateway: llm-comply (schemas of OpenAI's API), and OpenAI's SDK in its strict mode."""
import json
import os
import pathlib
import re
import subprocess
import sys

import openai
import pytest

from brief_engine import BriefEngine
from cloud import Cloud, wait_for

PROGRAM = pathlib.Path(sys.executable).parent / "llm-comply"
NOT_OURS = {"chat-tool-calling"}  # the fake engine has no tools …
OF_THE_ENGINE = "refusal,logprobs,annotations"  # … and leaves out what is null: it passes as it is


@pytest.fixture(scope="module")
def fake():
    with Cloud() as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=20)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/fake", c.secret) == 200, what="the model")
        yield c


def comply(url, secret, model, form, directory, *args, timeout=60):
    """llm-comply's results."""
    command = [str(PROGRAM), "-u", url, "-k", secret, "-m", model, "--format", form, "--json", "--timeout", str(timeout), *args]
    p = subprocess.run(command, capture_output=True, text=True, timeout=20 * timeout, cwd=directory, env={**os.environ, "HOME": str(directory)})
    assert p.stdout, p.stderr
    return json.loads(p.stdout)["results"]


@pytest.mark.skipif(not PROGRAM.exists(), reason="llm-comply is not there")
def test_llm_comply(fake, tmp_path):
    results = comply(fake.base_url, fake.secret, "fake", "openai-chat", tmp_path, "-i", OF_THE_ENGINE)
    bad = {r["id"]: r["errors"] for r in results if r["status"] == "failed" and r["id"] not in NOT_OURS}
    assert not bad and sum(r["status"] == "passed" for r in results) >= 6, (bad, results)


@pytest.fixture(scope="module")
def brief():
    with BriefEngine() as engine, Cloud(options={"gateway-first-byte-timeout": "10m", "gateway-idle-timeout": "10m"}) as c:
        c.engine, c.secret = engine, c.serve(engine.url)
        yield c


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PROGRAM.exists(), reason="llm-comply is not there")
@pytest.mark.parametrize("form", ["openai-chat", "open-responses", "anthropic"])
def test_llm_comply_finds_the_engine_behind_us_as_it_is(brief, tmp_path, form):
    """llama.cpp asked directly and through the gateway, in every dialect: what it can do it can here too, and what is wrong is the engine's own, found in the same words directly. Bad requests, which
    it takes, may be refused here."""
    def found(url, secret):
        # The values that an error quotes (texts, counts) are the model's, the ports nobody's.
        return {r["id"]: (r["status"], sorted({re.sub(r"\{.*\}|:\d+", "", e) for e in r.get("errors", [])})) for r in comply(url, secret, "m", form, tmp_path, timeout=300)}
    direct, through = found(brief.engine.url, "none"), found(brief.base_url, brief.secret)
    print(f"{form}: {sum(s == 'passed' for s, _ in direct.values())} of {len(direct)} passed directly, {sum(s == 'passed' for s, _ in through.values())} through the gateway")
    assert len(direct) >= 9 and any(status == "passed" for status, _ in direct.values()), direct
    assert direct.keys() == through.keys()
    refused = {i for i, (_, errors) in direct.items() if any(e.startswith("HTTP ") for e in errors)}  # how errors look is the gateway's to say
    worse = {i: (direct[i], through[i]) for i in direct if through[i][0] != "passed" and direct[i] != through[i] and i not in refused}
    assert not worse, str(worse)


def test_the_sdk_in_strict_mode(fake):
    """Each answer is what the SDK's types say, and nothing else."""
    client = openai.OpenAI(base_url=fake.base_url, api_key=fake.secret, max_retries=0, timeout=60, _strict_response_validation=True)
    said = [{"role": "user", "content": "hi"}]
    assert client.chat.completions.create(model="fake", messages=said).usage.completion_tokens == 20
    chunks = list(client.chat.completions.create(model="fake", messages=said, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 20 and sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 20
    assert client.completions.create(model="fake", prompt="hi").choices[0].text
    assert [m.id for m in client.models.list()] == ["fake"] and client.models.retrieve("fake").id == "fake"
