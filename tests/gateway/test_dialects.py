"""Responses and Messages: passed through to engines that speak them, metered alike; by the real SDKs on the real engine, and on the wire."""
import json

import anthropic
import openai
import pytest

from cloud import Cloud, wait_for
from test_openai_sdk import serve_gemma
from wire import RawClient, Upstream, answer, journal

ASK = [{"role": "user", "content": "Count: one, two,"}]


@pytest.fixture(scope="module")
def real():
    with Cloud() as c:
        serve_gemma(c)
        yield c


def last_record(c, old):
    wait_for(lambda: len(journal(c.data / "ledger")) > old, what="the record")
    return journal(c.data / "ledger")[-1]


def records(c):
    return len(journal(c.data / "ledger"))


def claude(c, **kwargs):
    return anthropic.Anthropic(base_url=c.base_url.removesuffix("/v1"), api_key=kwargs.pop("api_key", c.secret), max_retries=0, timeout=120)


def test_responses(real):
    client, old = openai.OpenAI(base_url=real.base_url, api_key=real.secret, max_retries=0, timeout=120), records(real)
    r = client.responses.create(model="gemma", input="Count: one, two,", max_output_tokens=6)
    assert r.usage.output_tokens == 6 and r.output
    record = last_record(real, old)
    assert record["route"] == "responses" and record["exact"] and record["completion_tokens"] == 6 and record["prompt_tokens"] == r.usage.input_tokens


def test_responses_streamed(real):
    client, old = openai.OpenAI(base_url=real.base_url, api_key=real.secret, max_retries=0, timeout=120), records(real)
    events = list(client.responses.create(model="gemma", input="Count: one, two,", max_output_tokens=6, stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed" and "response.output_text.delta" in {e.type for e in events}
    record = last_record(real, old)
    assert record["exact"] and record["stream"] and record["completion_tokens"] == 6 and record["prompt_tokens"] == events[-1].response.usage.input_tokens


def test_messages(real):
    old = records(real)
    m = claude(real).messages.create(model="gemma", messages=ASK, max_tokens=6)
    assert m.role == "assistant" and m.usage.output_tokens == 6
    record = last_record(real, old)
    assert record["route"] == "messages" and record["exact"] and record["completion_tokens"] == 6
    assert record["prompt_tokens"] == m.usage.input_tokens + m.usage.cache_read_input_tokens


def test_messages_streamed(real):
    old = records(real)
    with claude(real).messages.stream(model="gemma", messages=ASK, max_tokens=6) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text and final.usage.output_tokens == 6
    record = last_record(real, old)
    assert record["exact"] and record["stream"] and record["completion_tokens"] == 6 and record["prompt_tokens"] >= final.usage.input_tokens


def test_count_tokens_is_free(real):
    old = records(real)
    assert claude(real).messages.count_tokens(model="gemma", messages=ASK).input_tokens > 3
    record = last_record(real, old)
    assert record["route"] == "messages.count_tokens" and record["prompt_tokens"] == record["completion_tokens"] == 0


def test_errors_have_anthropic_s_shape(real):
    with pytest.raises(anthropic.NotFoundError) as e:
        claude(real).messages.create(model="nothing", messages=ASK, max_tokens=6)
    assert e.value.body["type"] == "error" and e.value.body["error"]["type"] == "not_found_error" and "nothing" in e.value.body["error"]["message"]
    with pytest.raises(anthropic.AuthenticationError):
        claude(real, api_key="sk-seki-wrong").messages.create(model="gemma", messages=ASK, max_tokens=6)
    with pytest.raises(anthropic.BadRequestError) as e:
        claude(real).messages.create(model="gemma-embed", messages=ASK, max_tokens=6)
    assert "embeddings" in e.value.body["error"]["message"]


# ---- on the wire ----

START = b'event: message_start\ndata: {"type":"message_start","message":{"content":[],"usage":{"input_tokens":5,"output_tokens":0}}}\n\n'
TEXT = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"good"}}\n\n'
DELTA = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def wired():
    with Cloud() as c:
        c.upstream = Upstream()
        c.secret = c.serve(c.upstream.url, replicas=2)
        yield c
        c.upstream.stop()


def ask(c, path, body, headers=""):
    data = json.dumps({"model": "m", **body}).encode()
    with RawClient(c.address("gateway")) as client:
        client.send(f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nx-api-key: {c.secret}\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return client.response()


def test_nothing_is_added_to_what_is_passed_on(wired):
    wired.upstream.script = [HEAD, START, TEXT, DELTA, STOP, "close"]
    wired.upstream.requests[:] = []
    body = {"messages": ASK, "max_tokens": 5, "stream": True, "metadata": {"user_id": "x"}}
    got = ask(wired, "messages", body, "anthropic-version: 2023-06-01\r\n")
    assert got.status == 200 and got.body == START + TEXT + DELTA + STOP
    head, sent = wired.upstream.requests[0]
    assert json.loads(sent) == {"model": "m", **body} and b"anthropic-version: 2023-06-01" in head and wired.secret.encode() not in head


def test_another_engine_takes_over_before_content(wired):
    wired.upstream.first.append([HEAD, START, "close"])
    wired.upstream.script = [HEAD, START, TEXT, DELTA, STOP, "close"]
    got = ask(wired, "messages", {"messages": ASK, "max_tokens": 5, "stream": True})
    assert got.body == START + TEXT + DELTA + STOP


def test_a_broken_stream_ends_in_an_error_event(wired):
    wired.upstream.script = [HEAD, START, TEXT, "close"]
    old = records(wired)
    got = ask(wired, "messages", {"messages": ASK, "max_tokens": 5, "stream": True})
    event = got.body.removeprefix(START + TEXT)
    assert event.startswith(b"event: error\ndata: ") and json.loads(event.split(b"data: ", 1)[1])["error"]["type"] == "api_error"
    assert last_record(wired, old)["outcome"] == "upstream_error"


def test_an_engine_s_error_is_put_into_shape(wired):
    wired.upstream.script = [answer(b'{"error":{"code":400,"message":"bad tools","type":"invalid_request_error"}}', 400)]
    got = ask(wired, "messages", {"messages": ASK, "max_tokens": 5})
    assert got.status == 400 and got.json()["type"] == "error" and got.json()["error"] == {"type": "invalid_request_error", "message": "bad tools"}


def test_what_is_missing_is_named(wired):
    assert "messages" in ask(wired, "messages", {"max_tokens": 5}).json()["error"]["message"]
    got = ask(wired, "responses", {})
    assert got.status == 400 and got.json()["error"]["param"] == "input"
