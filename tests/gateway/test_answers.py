"""Several answers or prompts in one request: on the real engine, whose own counters say what was made."""
import json
import urllib.error
import urllib.request

import pytest

from cloud import SLOW, Cloud, wait_for
from engine_socket import counters, sockets
from wire import journal


@pytest.fixture(scope="module")
def real():
    with Cloud() as c:
        c.project("demo")
        c.real_endpoint("demo", "gemma")
        c.secret = c.key("demo")
        c.socket = sockets(c)[0]
        yield c


def ask(c, path, **body):
    request = urllib.request.Request(f"{c.base_url}/{path}", json.dumps({"model": "gemma", "max_tokens": 2, **body}).encode(),
                                     {"Authorization": f"Bearer {c.secret}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60 * SLOW) as r:
        return r.headers["x-request-id"], r.read()


CHAT = {"messages": [{"role": "user", "content": "Tell me about the sea"}]}
ASKS = {"one": ("chat/completions", {**CHAT, "stream": True}), "one whole": ("chat/completions", CHAT), "two answers": ("chat/completions", {**CHAT, "n": 2, "stream": True}),
        "two by llama.cpp's name": ("completions", {"prompt": "The sea is", "n_cmpl": 2, "stream": True}),
        "usage wanted": ("chat/completions", {**CHAT, "n": 2, "stream": True, "stream_options": {"include_usage": True}}),
        "two prompts": ("completions", {"prompt": ["The sea is", "Once upon a time there was a"], "stream": True}),
        "two answers to two prompts": ("completions", {"prompt": ["The sea, \"is\" \\", "Once upon"], "n": 2, "stream": True, "max_tokens": 2}),
        "tokens are one prompt": ("completions", {"prompt": [100, 200, 300], "stream": True})}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [n if n in ("two answers", "two answers to two prompts", "tokens are one prompt") else pytest.param(n, marks=pytest.mark.full) for n in ASKS])
def test_several_answers_are_billed_as_the_engine_counts(real, name):
    path, body = ASKS[name]
    before = counters(real.socket)
    request_id, answer = ask(real, path, ignore_eos=True, **body)
    after = counters(real.socket)
    if path == "chat/completions" and body.get("stream"):
        assert answer.count(b'"usage"') == (2 if "stream_options" in body else 0)
    record = wait_for(lambda: next((r for r in journal(real.data / "ledger") if r["id"] == request_id), None), what="the record")
    assert record["exact"], record
    assert (record["prompt_tokens"] - record["cached_tokens"], record["completion_tokens"]) == (after[0] - before[0], after[1] - before[1]), record


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path, more, param", [("chat/completions", {**CHAT, "n": 2}, "n"), ("completions", {"prompt": "x", "n_cmpl": 2}, "n"), ("completions", {"prompt": ["x", "y"]}, "prompt"),
                                               ("chat/completions", {**CHAT, "n": "2", "stream": True}, "n"), ("chat/completions", {**CHAT, "n": 1, "n_cmpl": 2, "stream": True}, "n"),
                                               ("responses", {"input": "x", "n": 2, "stream": True}, "n"), ("messages", {**CHAT, "n_cmpl": 2, "stream": True}, "n")], ids=str)
def test_what_could_not_be_counted_is_refused(real, path, more, param):
    before = counters(real.socket)
    with pytest.raises(urllib.error.HTTPError) as e:
        ask(real, path, **more)
    error = json.loads(e.value.read())["error"]
    assert e.value.code == 400 and (path == "messages" or (error["code"], error["param"]) == ("unsupported_value", param)), error
    assert "gemma" in error["message"] and counters(real.socket) == before
