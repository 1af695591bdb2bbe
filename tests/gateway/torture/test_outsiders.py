"""Other people's suites, pointed at the gateway: llm-comply (schemas of OpenAI's API), and OpenAI's SDK in its strict mode."""
import json
import os
import pathlib
import subprocess
import sys

import openai
import pytest

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


@pytest.mark.skipif(not PROGRAM.exists(), reason="llm-comply is not there")
def test_llm_comply(fake, tmp_path):
    args = [str(PROGRAM), "-u", fake.base_url, "-k", fake.secret, "-m", "fake", "--format", "openai-chat", "--json", "--timeout", "60", "-i", OF_THE_ENGINE]
    p = subprocess.run(args, capture_output=True, text=True, timeout=240, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    results = json.loads(p.stdout)["results"]
    bad = {r["id"]: r["errors"] for r in results if r["status"] == "failed" and r["id"] not in NOT_OURS}
    assert not bad and sum(r["status"] == "passed" for r in results) >= 6, (bad, p.stdout[:3000])


def test_the_sdk_in_strict_mode(fake):
    """Each answer is what the SDK's types say, and nothing else."""
    client = openai.OpenAI(base_url=fake.base_url, api_key=fake.secret, max_retries=0, timeout=60, _strict_response_validation=True)
    said = [{"role": "user", "content": "hi"}]
    assert client.chat.completions.create(model="fake", messages=said).usage.completion_tokens == 20
    chunks = list(client.chat.completions.create(model="fake", messages=said, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 20 and sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 20
    assert client.completions.create(model="fake", prompt="hi").choices[0].text
    assert [m.id for m in client.models.list()] == ["fake"] and client.models.retrieve("fake").id == "fake"
