"""Streams that survive their engine: the text goes on from another replica, with nothing twice and nothing missing, and is billed once."""
import json
import os

import pytest

from cloud import Cloud, wait_for
from wire import RawClient, Upstream, answer, journal

WORDS = ["one", " \u00fcber", " \"three\"", "\n\\four", " \U0001f600", " six"]
TEXT = "".join(WORDS)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "say it"}], "stream": True}
COMPLETION = {"model": "m", "prompt": "say it:", "stream": True}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
PROMPT = 7
DIE = {"closes": ["close"], "resets": ["reset"], "cuts an event": [b'data: {"choices":[{"index":0,"del', "close"],
       "cuts before the blank line": [b'data: {"choices":[{"index":0,"delta":{"content":"never seen"},"finish_reason":null}]}', "close"],
       "says so": [b'data: {"error":{"message":"out of memory","code":500}}\n\n', b"data: [DONE]\n\n", "close"], "hangs": ["hold"]}


def event(doc):
    return b"data: " + json.dumps(doc).encode() + b"\n\n"


class Script:
    """An engine with fixed tokens. Each answer in `dies` ends behind so many tokens, those after them are whole."""

    def __init__(self):
        self.dies, self.end, self.after, self.n = [], ["close"], None, 0

    def __call__(self, head, body):
        b = json.loads(body)
        self.n += 1
        chat = "messages" in b
        text = b["messages"][-1]["content"] if chat and b["messages"][-1]["role"] == "assistant" else "" if chat else b["prompt"][len("say it:"):]
        assert TEXT.startswith(text)
        done = next(i for i in range(len(WORDS) + 1) if "".join(WORDS[:i]) == text)
        words = WORDS[done:]
        most = int(b.get("n_predict", b.get("max_tokens", 100)))
        finish = "length" if most < len(words) else "stop"
        words = words[:most]
        base = {"id": f"id-{self.n}", "created": self.n, "model": "m"}

        def choice(text, reason=None, role=False):
            if chat:
                delta = {"role": "assistant", "content": None} if role else {"content": text} if text else {}
                return event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
            return event({**base, "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]})
        out = [HEAD] + ([choice("", role=True)] if chat else []) + [choice(w) for w in words]
        tail = [choice("", finish)]
        if b.get("stream_options", {}).get("include_usage"):
            p = PROMPT + done
            tail.append(event({**base, "choices": [], "usage": {"prompt_tokens": p, "completion_tokens": len(words), "total_tokens": p + len(words)}}))
        tail.append(b"data: [DONE]\n\n")
        if self.dies:
            made = self.dies.pop(0)
            keep = 1 + chat + made
            return (out + tail)[:keep] + self.end
        return out + tail + ["close"]


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-idle-timeout": "2s", "gateway-keepalive": "0", "gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.project("demo")
        c.create("modelendpoints", "demo", "m", {"replicas": 3, "engine": {"driver": "vllm", "url": c.upstream.url}})
        c.create("modelendpoints", "demo", "plain", {"replicas": 2, "servedName": "plain", "engine": {"driver": "openai", "url": c.upstream.url, "remoteModel": "m"}})
        for name, n in (("m", 3), ("plain", 2)):
            wait_for(lambda: c.get("modelendpoints", "demo", name).get("status", {}).get("readyReplicas") == n, what="all replicas")
        c.secret = c.key("demo")
        yield c
        c.upstream.stop()


@pytest.fixture
def engine(cloud):
    e = cloud.upstream
    e.script, e.first[:], e.requests[:] = Script(), [], []
    yield e
    e.script = Script()
    for _ in range(40):  # the budget of retries, and replicas that were put aside
        ask(cloud, CHAT)


def ask(c, body):
    path = "chat/completions" if "messages" in body else "completions"
    data = json.dumps(body).encode()
    with RawClient(c.address("gateway")) as client:
        client.send(f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        return client.response()


def events(got):
    assert got.status == 200
    out = [e[6:] for e in got.body.decode().split("\n\n") if e.startswith("data: ")]
    return [json.loads(e) for e in out if e != "[DONE]"], out[-1] == "[DONE]"


def text_of(docs):
    choices = [d["choices"][0] for d in docs if d.get("choices")]
    return "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices)



def check_whole(got, chat=True, text=TEXT, finish="stop"):
    docs, done = events(got)
    assert done and text_of(docs) == text and not any("error" in d for d in docs)
    assert len({d["id"] for d in docs}) == len({d["created"] for d in docs}) == 1
    assert got.body.count(b'"role"') == chat
    assert [d["choices"][0]["finish_reason"] for d in docs if d["choices"] and d["choices"][0]["finish_reason"]] == [finish]
    return docs


@pytest.mark.parametrize("body", [CHAT, COMPLETION], ids=["chat", "completion"])
@pytest.mark.parametrize("wants", [False, True], ids=["", "usage"])
def test_killed_at_each_token_the_text_goes_on(cloud, engine, body, wants):
    """With the end of the choice, which has no token, and the usage that follows it."""
    body = {**body, "stream_options": {"include_usage": True}} if wants else body
    for at in range(1, len(WORDS) + 3):
        engine.requests[:] = []
        engine.script = Script()
        engine.script.dies = [at]
        docs = check_whole(ask(cloud, body), chat=body is not COMPLETION and "messages" in body)
        usage = [d["usage"] for d in docs if d.get("usage")]
        assert len(usage) == wants
        assert len(engine.requests) == (2 if at <= len(WORDS) else 1), at
        if at <= len(WORDS):
            sent = json.loads(engine.requests[1][1])
            assert "messages" not in body or (sent["continue_final_message"] is True and sent["add_generation_prompt"] is False)
            assert not wants or usage[0] == {"prompt_tokens": PROMPT, "completion_tokens": len(WORDS), "total_tokens": PROMPT + len(WORDS)}


@pytest.mark.parametrize("how", DIE)
def test_whatever_ends_it(cloud, engine, how):
    engine.script.dies, engine.script.end = [3], DIE[how]
    check_whole(ask(cloud, CHAT))
    assert len(engine.requests) == 2


def test_twice_and_not_more(cloud, engine):
    engine.script.dies = [2, 2]
    check_whole(ask(cloud, CHAT))
    engine.script = Script()
    engine.script.dies = [1, 1, 1, 1]
    docs, done = events(ask(cloud, CHAT))
    assert not done and text_of(docs) == "".join(WORDS[:3]) and docs[-1]["error"]["code"] == "upstream_error"


def test_max_tokens_shrinks_by_what_was_made(cloud, engine):
    engine.script.dies = [2]
    check_whole(ask(cloud, {**CHAT, "max_tokens": 5}), text="".join(WORDS[:5]), finish="length")
    assert json.loads(engine.requests[1][1])["max_tokens"] == 3
    engine.requests[:] = []
    engine.script.dies = [5]
    check_whole(ask(cloud, {**CHAT, "max_tokens": 5}), text="".join(WORDS[:5]), finish="length")
    assert len(engine.requests) == 1  # all that may be made was


@pytest.mark.parametrize("most", [{"max_tokens": 5.0}, {"max_tokens": "5"}, {"max_tokens": 5, "n_predict": 5}], ids=["float", "string", "n_predict"])
def test_a_most_that_engines_take_shrinks_likewise(cloud, engine, most):
    engine.script.dies = [2]
    check_whole(ask(cloud, {**CHAT, **most}), text="".join(WORDS[:5]), finish="length")
    again = json.loads(engine.requests[1][1])
    assert {k: again[k] for k in most} == {k: 3 for k in most}


@pytest.mark.parametrize("more", [{"tools": [{"type": "function", "function": {"name": "f"}}]}, {"response_format": {"type": "json_object"}}, {"logprobs": True},
                                  {"model": "plain"}, {"messages": [*CHAT["messages"], {"role": "assistant", "content": "one"}]}],
                         ids=["tools", "schema", "logprobs", "driver", "prefill"])
def test_what_is_more_than_text_ends_with_an_error(cloud, engine, more):
    engine.script.dies = [2]
    docs, done = events(ask(cloud, {**CHAT, **more}))
    assert not done and docs[-1]["error"]["code"] == "upstream_error" and len(engine.requests) == 1


def test_too_long_a_text_ends_with_an_error(cloud, engine):
    long = event({"choices": [{"index": 0, "delta": {"content": "x" * 30000}, "finish_reason": None}]})
    engine.script = [HEAD, *[long] * 10, "close"]
    docs, done = events(ask(cloud, CHAT))
    assert not done and len(text_of(docs)) == 300000 and docs[-1]["error"]["code"] == "upstream_error" and len(engine.requests) == 1


def test_it_is_billed_once(cloud, engine):
    engine.script.dies = [2, 1]
    got = ask(cloud, CHAT)
    check_whole(got)
    wait_for(lambda: mine(cloud, got), what="the usage record")
    r = mine(cloud, got)[0]
    assert r["outcome"] == "ok" and r["exact"] and (r["prompt_tokens"], r["completion_tokens"]) == (PROMPT, len(WORDS))
    # the second engine read the prompt and 2 tokens again, the third one the prompt and 3
    assert r["replayed_tokens"] == PROMPT + 2 + PROMPT + 3
    assert [(e["read"], e["written"], e["exact"]) for e in r["engines"]] == [(PROMPT, 2, False), (PROMPT + 2, 1, False), (PROMPT + 3, len(WORDS) - 3, True)], r
    assert r["unseen_tokens"] == r["hedge_loser_tokens"] == 0


def mine(c, got):
    import pathlib
    found = []
    for d in {p.parent for p in pathlib.Path(c.data).rglob("usage-gateway.[0-9]*")}:
        found += [r for r in journal(d) if r["id"] == got.headers["x-request-id"]]
    return found
