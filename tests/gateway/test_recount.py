"""Streams that end without their usage: the engine's tokenizer is asked, and the record, the bill and the limits are by what it says."""
import json
import signal

import pytest

from cloud import GROUP, Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream, answer, journal, post

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
WORDS = ["one two", " \u00fcber three", " \"four\" five six"]
TEXT = "".join(WORDS)
PROMPT = "say  it,\nthen \"stop\""
CHAT = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
COMPLETION = {"model": "m", "prompt": PROMPT, "stream": True}
PRICE = 7  # micro-units a token
TEMPLATE = 10  # tokens that a chat has besides its words


def event(doc):
    return b"data: " + json.dumps(doc).encode() + b"\n\n"


def choice(chat, text):
    return event({"id": "x", "created": 1, "choices": [{"index": 0, **({"delta": {"content": text}} if chat else {"text": text}), "finish_reason": None}]})


class Engine:
    """Streams WORDS and ends as it is told, never with a usage. Its tokenizer knows words: a message is TEMPLATE more."""

    def __init__(self):
        self.end, self.tokenizer, self.questions, self.extra = ["hold"], None, [], []

    def __call__(self, head, body):
        doc, path = json.loads(body), head.split(b" ")[1].decode()
        if path.startswith("/v1/"):
            chat = "messages" in doc
            return [HEAD] + [choice(chat, w) for w in WORDS] + self.extra + self.end
        self.questions.append((path, doc, head))
        if self.tokenizer:
            return self.tokenizer
        text = doc["prompt"] if "prompt" in doc else doc["messages"][0]["content"]
        n = len(text.split()) + (TEMPLATE if "messages" in doc else 0)
        return [answer(json.dumps({"count": n, "max_model_len": 4096, "tokens": list(range(n))}).encode())]


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-threads": 1, "gateway-idle-timeout": "60s"}) as c:
        c.upstreams = [Upstream(), Upstream(), Upstream()]
        for u in c.upstreams:
            u.tokenizes = True
        c.project("demo")
        a, b, s = (u.url for u in c.upstreams)
        c.api("POST", f"{GROUP}/prices", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Price", "metadata": {"name": "all"},
                                          "spec": {"model": "m", "currency": "EUR", "microsPerMillionTokens": {"input": PRICE * 10**6, "output": PRICE * 10**6}}})
        c.create("modelendpoints", "demo", "m", {"replicas": 1, "engine": {"driver": "vllm", "url": a}})
        c.create("modelendpoints", "demo", "other", {"replicas": 1, "engine": {"driver": "openai", "url": a, "remoteModel": "m"}})
        c.create("modelendpoints", "demo", "s", {"replicas": 1, "engine": {"driver": "sglang", "url": s, "remoteModel": "m"}})
        for name in ("m", "other", "s"):
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo", limits={"tokensPerMinute": 100000, "concurrentRequests": 1})
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", c.secret) == 200 for m in ("m", "other", "s")), what="the models")
        yield c
        for u in c.upstreams:
            u.stop()


def metric(c, name, **labels):
    return sum(v for k, v in parse(c.metrics("metrics-gateway")).items() if k[0] == name and labels.items() <= dict(k[1]).items())


@pytest.fixture
def engine(cloud):
    wait_for(lambda: metric(cloud, "seki_gateway_requests_active") == 0, what="the records of the test before")
    e = Engine()
    for u in cloud.upstreams:
        u.script = e
    return e


def records(c):
    return journal(c.data / "ledger")


def cut(c, body, secret=None, end=b"five six"):
    """A stream whose client leaves when it has that; the record that comes of it."""
    before = len(records(c))
    with RawClient(c.address("gateway")) as client:
        client.send(post(secret or c.secret, body, "chat/completions" if "messages" in body else "completions"))
        client.read_until(end)
    return wait_for(lambda: records(c)[before:], what="the record")[0]


def cut_and_asked_for(c, engine):
    """A stream whose client leaves, and whose tokenizer holds the question."""
    engine.tokenizer = ["hold"]
    with RawClient(c.address("gateway")) as client:
        client.send(post(c.secret, CHAT))
        client.read_until(b"five six")
    wait_for(lambda: engine.questions, what="the question")


def adds_up(r):
    return sum(e["read"] + e["written"] for e in r["engines"]) == r["prompt_tokens"] + r["completion_tokens"] + r["hedge_loser_tokens"] + r["replayed_tokens"] + r["unseen_tokens"]


@pytest.mark.parametrize("body, extra", [(COMPLETION, 0), (CHAT, TEMPLATE)], ids=["completion", "chat"])
def test_who_leaves_is_counted_by_the_tokenizer(cloud, engine, body, extra):
    """The text that was passed on and the prompt, to the letter; not exact, as the engine may have made more."""
    before = [metric(cloud, "seki_gateway_tokens_total", type=t) for t in ("input", "output")]
    r = cut(cloud, body)
    want = (len(PROMPT.split()) + extra, len(TEXT.split()))
    assert want[1] != len(WORDS), "an estimate would be another number"
    assert (r["outcome"], r["prompt_tokens"], r["completion_tokens"], r["exact"], r["tokenized"]) == ("client_gone", *want, False, True)
    assert [(e["read"], e["written"], e["exact"]) for e in r["engines"]] == [(*want, False)] and adds_up(r)
    (path, text, head), (_, prompt, _) = engine.questions
    assert path == "/tokenize" and text == {"model": "m", "prompt": TEXT, "add_special_tokens": False}
    assert prompt == ({"model": "m", "messages": body["messages"]} if extra else {"model": "m", "prompt": PROMPT})
    wait_for(lambda: metric(cloud, "seki_gateway_requests_active") == 0, what="the end")
    assert [metric(cloud, "seki_gateway_tokens_total", type=t) - b for t, b in zip(("input", "output"), before)] == list(want)


def test_a_question_names_the_model_as_the_engine_knows_it(cloud, engine):
    """Also where a route's name was asked for, which the engine does not know."""
    cloud.api("POST", f"{GROUP}/namespaces/demo/modelroutes", {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelRoute", "metadata": {"name": "alias"}, "spec": {"backends": [{"endpoint": "m", "weight": 1}]}})
    wait_for(lambda: cloud.gateway_status("/models/alias", cloud.secret) == 200, what="the route")
    assert cut(cloud, {**CHAT, "model": "alias"})["tokenized"]
    assert [doc["model"] for _, doc, _ in engine.questions] == ["m", "m"]


def test_the_bill_and_limits_are_by_that_count(cloud, engine):
    secret = cloud.key("demo", "few", limits={"tokensPerMinute": 1000})
    wait_for(lambda: cloud.gateway_status("/models/m", secret) == 200, what="the key")
    engine.tokenizer = [answer(b'{"count":300}')]
    r = cut(cloud, CHAT, secret)
    assert (r["prompt_tokens"], r["completion_tokens"], r["cost"], r["currency"]) == (300, 300, 600 * PRICE, "EUR")
    engine.end = [b"data: [DONE]\n\n", "close"]
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(secret, {**CHAT, "max_tokens": 1}))
        got = client.response()
    assert 300 < int(got.headers["x-ratelimit-remaining-tokens"]) <= 420


def test_a_stream_that_ends_without_usage(cloud, engine):
    """As some engines' do: the client has its end, and is counted a little later."""
    engine.end = [b"data: [DONE]\n\n", "close"]
    before = len(records(cloud))
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(cloud.secret, CHAT))
        assert client.response().status == 200
    r = wait_for(lambda: records(cloud)[before:], what="the record")[0]
    assert (r["outcome"], r["completion_tokens"], r["exact"], r["tokenized"]) == ("ok", len(TEXT.split()), False, True) and adds_up(r)


@pytest.mark.parametrize("tokenizer", [[answer(b"{}")], [answer(b'{"count":-1}')], [answer(b'{"count":1e99}')], [answer(b"nonsense")], [answer(b"{}", 404)], ["reset"], ["hold"]],
                         ids=["empty", "negative", "huge", "nonsense", "unknown", "reset", "hangs"])
def test_who_cannot_tell_leaves_an_estimate(cloud, engine, tokenizer):
    """As before, within the deadline; a client's next request does not wait for it, though it may have one at once."""
    engine.tokenizer = tokenizer
    before = len(records(cloud))
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(cloud.secret, COMPLETION, "completions"))
        client.read_until(b"five six")
    wait_for(lambda: engine.questions, what="the question")
    engine.end = [event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}), b"data: [DONE]\n\n", "close"]
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(cloud.secret, COMPLETION, "completions"))
        assert client.response().status == 200
    r = wait_for(lambda: [r for r in records(cloud)[before:] if r["outcome"] == "client_gone"], what="the record")[0]
    assert (r["completion_tokens"], r["exact"], r.get("tokenized")) == (len(WORDS), False, None) and adds_up(r)
    assert len(engine.questions) == 1


def test_who_is_not_asked(cloud, engine):
    """Who told, what is more than text, what has no tokenizer; of a chat with tools the text is counted, and its prompt is not."""
    thinks = event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]})
    assert "tokenized" not in cut(cloud, {**CHAT, "model": "other"}) and not engine.questions
    engine.extra = [thinks, choice(True, "seven five six")]
    assert cut(cloud, CHAT, end=b"seven five six")["completion_tokens"] >= len(WORDS) and not engine.questions
    engine.extra = []
    r = cut(cloud, {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]})
    assert (r["completion_tokens"], r.get("tokenized")) == (len(TEXT.split()), None) and len(engine.questions) == 1 and adds_up(r)
    r = cut(cloud, {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}]}]})
    assert (r["completion_tokens"], r.get("tokenized")) == (len(TEXT.split()), None) and len(engine.questions) == 2
    r = cut(cloud, {**CHAT, "model": "s"})
    assert (r["completion_tokens"], r.get("tokenized")) == (len(TEXT.split()), None), "SGLang takes no chats"
    r = cut(cloud, {**COMPLETION, "model": "s"})
    assert (r["completion_tokens"], r["tokenized"], r["prompt_tokens"]) == (len(TEXT.split()), True, len(PROMPT.split()))


def test_a_tokenizer_that_hangs_takes_no_places_of_other_tenants(cloud, engine):
    """A tenant's engine may be the tenant's own, and answer as it likes: what others used is counted meanwhile."""
    cloud.project("neighbour")
    cloud.create("modelendpoints", "neighbour", "m", {"replicas": 1, "engine": {"driver": "vllm", "url": cloud.upstreams[1].url}})
    cloud.wait_condition("modelendpoints", "neighbour", "m")
    theirs = cloud.key("neighbour")
    wait_for(lambda: cloud.gateway_status("/models/m", theirs) == 200, what="the model")
    greedy = cloud.key("demo", "greedy")
    wait_for(lambda: cloud.gateway_status("/models/m", greedy) == 200, what="the key")
    cloud.upstreams[1].script = Engine()
    engine.tokenizer = ["hold"]
    clients = [RawClient(cloud.address("gateway")) for _ in range(40)]
    for client in clients:
        client.send(post(greedy, CHAT))
    for client in clients:
        client.read_until(b"five six")
    for client in clients:
        client.close()
    wait_for(lambda: len(engine.questions) >= 8, what="its questions")
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(theirs, CHAT))
        client.read_until(b"five six")
    r = wait_for(lambda: [r for r in records(cloud) if r["project"] == "neighbour"], what="the record")[0]
    assert (r["completion_tokens"], r["tokenized"]) == (len(TEXT.split()), True)
    wait_for(lambda: sum(r["key"] == "greedy" for r in records(cloud)) == 40, what="the records of the others")
    assert len(engine.questions) == 8


def test_another_replica_is_asked_when_one_has_died(cloud, engine):
    """The text cannot go on (it was asked for otherwise than by its text), and the engine that wrote it is gone: another of its endpoint counts."""
    cloud.create("modelendpoints", "demo", "two", {"replicas": 2, "servedName": "two", "engine": {"driver": "vllm", "url": cloud.upstreams[0].url, "remoteModel": "m"}})
    wait_for(lambda: cloud.get("modelendpoints", "demo", "two").get("status", {}).get("readyReplicas") == 2, what="both")
    wait_for(lambda: cloud.gateway_status("/models/two", cloud.secret) == 200, what="the model")
    engine.end = ["reset"]
    before = len(records(cloud))
    with RawClient(cloud.address("gateway")) as client:
        client.send(post(cloud.secret, {**COMPLETION, "model": "two", "min_tokens": 1}, "completions"))
        assert b"upstream_error" in client.response().body
    r = wait_for(lambda: records(cloud)[before:], what="the record")[0]
    assert (r["outcome"], r["prompt_tokens"], r["completion_tokens"], r["tokenized"]) == ("upstream_error", len(PROMPT.split()), len(TEXT.split()), True) and adds_up(r)
    cloud.api("DELETE", f"{GROUP}/namespaces/demo/modelendpoints/two")


def test_a_gateway_that_is_killed_while_it_asks(cloud, engine):
    """The request is counted once, as one that ran: by what had come by."""
    before = len(records(cloud))
    cut_and_asked_for(cloud, engine)
    assert metric(cloud, "seki_gateway_requests_active") == 1
    cloud.kill_role("gateway", signal.SIGKILL)
    wait_for(lambda: cloud.is_ready("metrics-gateway"), what="the gateway to be back")
    found = wait_for(lambda: records(cloud)[before:], what="the record")
    assert [(r["outcome"], r["completion_tokens"]) for r in found] == [("killed", len(WORDS))] and adds_up(found[0])
    wait_for(lambda: cloud.gateway_status("/models/m", cloud.secret) == 200, what="the gateway to serve")


def test_one_that_stops_does_not_wait(cloud, engine):
    """Stopped while it asks: the record is there, as estimated."""
    before = len(records(cloud))
    cut_and_asked_for(cloud, engine)
    cloud.kill_role("gateway", signal.SIGTERM)
    found = wait_for(lambda: records(cloud)[before:], what="the record")
    assert [(r["outcome"], r["completion_tokens"], r.get("tokenized")) for r in found] == [("client_gone", len(WORDS), None)]
    wait_for(lambda: cloud.is_ready("metrics-gateway"), what="the gateway to be back")


def test_the_real_engine_tells_what_it_would_have(cloud):
    """llama.cpp: of a stream that is cut the prompt is counted to the token as in an answer that is whole, with its template; the text is what came by."""
    cloud.real_endpoint("demo", "gemma")
    wait_for(lambda: cloud.gateway_status("/models/gemma", cloud.secret) == 200, what="the model")
    for body in ({**CHAT, "model": "gemma", "temperature": 0, "ignore_eos": True}, {**COMPLETION, "model": "gemma", "temperature": 0, "ignore_eos": True}):
        chat = "messages" in body
        path = "chat/completions" if chat else "completions"
        with RawClient(cloud.address("gateway")) as client:
            client.send(post(cloud.secret, {**body, "stream": False, "max_tokens": 2}, path))
            whole = client.response().json()["usage"]
        before, seen = len(records(cloud)), b""
        with RawClient(cloud.address("gateway")) as client:
            client.send(post(cloud.secret, {**body, "max_tokens": 400}, path))
            for _ in range(8):
                seen += client.read_until(b'"content":"' if chat else b'"text":"')
        r = wait_for(lambda: records(cloud)[before:], what="the record")[0]
        assert (r["outcome"], r["tokenized"], r["prompt_tokens"]) == ("client_gone", True, whole["prompt_tokens"]), r
        assert 4 <= r["completion_tokens"] < 400 and adds_up(r), r
