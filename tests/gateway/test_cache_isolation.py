"""What one tenant's prompt left in an engine must not be seen by another: on the real engine, by its own count of cached tokens, which is exact where time is not."""
import concurrent.futures
import json
import random
import urllib.error
import urllib.request

import pytest

from cloud import CACHE, SLOW, Cloud, wait_for
from wire import Upstream, answer

FEW = 8  # tokens that all prompts share: the beginning of the text, and the template's first words
ROUTES = {
    "completions": (lambda t: {"prompt": t, "max_tokens": 1}, lambda u: u["prompt_tokens_details"]["cached_tokens"]),
    "chat/completions": (lambda t: {"messages": [{"role": "user", "content": t}], "max_tokens": 1}, lambda u: u["prompt_tokens_details"]["cached_tokens"]),
    "responses": (lambda t: {"input": t, "max_output_tokens": 1}, lambda u: u["input_tokens_details"]["cached_tokens"]),
    "messages": (lambda t: {"messages": [{"role": "user", "content": t}], "max_tokens": 1}, lambda u: u["cache_read_input_tokens"]),
}


@pytest.fixture(scope="module")
def shared():
    """One engine with two slots, and two tenants who may both use it."""
    with Cloud() as c:
        facts = json.loads((CACHE / "models/gemma3-270m/manifest.json").read_text())
        for name in ("a", "b"):
            c.project(name, tenant=f"tenant-{name}")
        c.create("models", "a", "gemma", {"source": f"file://{CACHE}/models/gemma3-270m", "format": "GGUF", "files": facts["files"], "license": facts["license"],
                                          "capabilities": ["Completion"]})
        for name, visibility in (("shared", "Everyone"), ("mixed", "Everyone"), ("own", "Project")):
            c.create("modelendpoints", "a", name, {"model": "gemma", "visibility": visibility, "engine": {"contextLength": 512, "parallel": 2, "threads": 1}})
        for name in ("shared", "mixed", "own"):
            c.wait_condition("modelendpoints", "a", name, timeout=120)
        c.keys = {"a": c.key("a"), "b": c.key("b")}
        wait_for(lambda: all(c.gateway_status("/models/mixed", k) == 200 for k in c.keys.values()), what="the models")
        yield c


def cached(c, who, route, text, model="shared", **more):
    make, read = ROUTES[route]
    body = json.dumps({"model": model, **make(text), **more}).encode()
    request = urllib.request.Request(f"{c.base_url}/{route}", body, {"Authorization": f"Bearer {c.keys[who]}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60 * SLOW) as r:
        if more.get("stream"):
            return max(read(json.loads(line[6:])["usage"]) for line in r.read().decode().splitlines() if '"usage":{' in line)
        return read(json.load(r)["usage"])


def prompt(name):
    """Some 70 tokens, a little more than a block of the gateway's index."""
    return f"{name}: " + "the quick brown fox jumps over the lazy dog. " * 6


@pytest.mark.parametrize("route", [r for r in ROUTES if r != "messages"])
def test_warm_for_oneself_and_cold_for_others(shared, route):
    text = prompt(f"one {route}")
    assert cached(shared, "a", route, text) <= FEW
    assert cached(shared, "a", route, text) > 40
    assert cached(shared, "b", route, text) == 0
    assert cached(shared, "b", route, text) > 40  # what is left there now is his own
    assert cached(shared, "a", route, text) > 40  # and the other's is where it was


def test_warm_by_another_route(shared):
    """The slot is the tenant's, whatever he calls it by."""
    text = prompt("across")
    assert cached(shared, "a", "chat/completions", text) <= FEW
    assert cached(shared, "b", "responses", text) <= FEW
    assert cached(shared, "a", "responses", text) > 40


WISHES = [("completions", {"id_slot": 0, "cache_prompt": True}), ("completions", {"id_slot": 1, "cache_prompt": True}), ("chat/completions", {"id_slot": "0", "cache_prompt": 1, "n_cache_reuse": 1}),
          ("chat/completions", {"id_slot": 1.0, "cache_prompt": True}), ("responses", {"id_slot": 0, "cache_prompt": True}), ("responses", {"id_slot": 1, "cache_prompt": True})]


@pytest.mark.parametrize("route, wish", WISHES, ids=str)
def test_nobody_can_ask_for_it(shared, route, wish):
    text = prompt(f"wish {route} {wish}")
    for _ in range(2):
        cached(shared, "a", route, text)
    assert cached(shared, "b", route, text, **wish) <= FEW


@pytest.mark.parametrize("refused", [{"prompt": "long " * 600}, {"prompt": ""}, {"prompt": "x", "max_tokens": 0}, {"prompt": "x", "grammar": "root ::= ("}], ids=str)
def test_a_slot_is_not_somebody_s_who_left_nothing_in_it(shared, refused):
    """What the engine refuses, or has nothing to do for, leaves in the slot what another left there."""
    texts = [prompt(f"{n} {refused}"[:40]) for n in ("first", "second")]
    for text in texts:
        cached(shared, "a", "completions", text)
    for _ in texts:
        try:
            cached(shared, "b", "completions", "", **{"max_tokens": 1, **refused})
        except urllib.error.HTTPError as e:
            assert e.code in (400, 500), e.code
    for text in texts:
        assert cached(shared, "b", "completions", text) <= FEW


def test_messages_are_cold_and_spoil_nothing(shared):
    """llama.cpp lets nobody choose the slot of a Message."""
    text = prompt("message")
    for _ in range(2):
        assert cached(shared, "a", "messages", text, "mixed") == 0
    for who, route in (("b", "chat/completions"), ("a", "chat/completions"), ("b", "messages")):
        assert cached(shared, who, route, text, "mixed") == 0


def test_several_answers_are_cold_for_others(shared):
    """n answers take n slots, which nobody chooses either."""
    text = prompt("several")
    for _ in range(2):
        cached(shared, "a", "completions", text, "mixed", n=2, stream=True, stream_options={"include_usage": True})
    for _ in range(3):
        assert cached(shared, "b", "completions", text, "mixed") == 0


def test_one_tenant_alone_loses_nothing(shared):
    text = prompt("alone")
    assert cached(shared, "a", "messages", prompt("a message"), "own") == 0
    assert cached(shared, "a", "completions", text, "own") <= FEW
    cached(shared, "a", "messages", prompt("another message"), "own")
    assert cached(shared, "a", "completions", text, "own") > 40


def test_many_at_once(shared):
    """Each tenant's prompts are begun by the other's; what is his own has another beginning."""
    rng, seen = random.Random(1), []

    def one(i):
        who, route = "ab"[i % 2], rng.choice([r for r in ROUTES if r != "messages"])
        seen.append((who, route, cached(shared, who, route, prompt(f"{i // 2} crowd"))))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(8)))
    assert len(seen) == 8 and all(n <= FEW for *_, n in seen), seen


# ---- engines that know a salt, on the wire ----

@pytest.fixture(scope="module")
def salted():
    with Cloud() as c:
        c.upstream = Upstream()
        for name in ("a", "b"):
            c.project(name, tenant=f"tenant-{name}")
        for name, driver, more in (("vllm", "vllm", {}), ("sglang", "sglang", {}), ("vectors", "vllm", {"embeddings": True}), ("elsewhere", "openai", {})):
            c.create("modelendpoints", "a", name, {"visibility": "Everyone", "engine": {"driver": driver, "url": c.upstream.url, **more}})
        c.create("modelendpoints", "a", "own", {"engine": {"driver": "vllm", "url": c.upstream.url}})
        c.create("modelendpoints", "a", "asleep", {"model": "none", "scaling": {"minReplicas": 0, "maxReplicas": 1}, "adapters": [{"name": "tuned", "model": "none"}]})
        for name in ("vllm", "sglang", "vectors", "elsewhere", "own"):
            c.wait_condition("modelendpoints", "a", name)
        c.keys = {"a": c.key("a"), "b": c.key("b")}
        wait_for(lambda: all(c.gateway_status("/models/elsewhere", k) == 200 for k in c.keys.values()) and c.gateway_status("/models/own", c.keys["a"]) == 200, what="the models")
        yield c
        c.upstream.stop()


def sent(c, who, path, body):
    """What the engine got, or the status that it was refused with."""
    c.upstream.script, c.upstream.requests[:] = [answer()], []
    request = urllib.request.Request(f"{c.base_url}/{path}", json.dumps(body).encode(), {"Authorization": f"Bearer {c.keys[who]}", "Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60 * SLOW).read()
    except urllib.error.HTTPError as e:
        return e.code
    return next(json.loads(b) for _, b in c.upstream.requests if b)


@pytest.mark.parametrize("model", ["vllm", "sglang"])
def test_each_tenant_has_its_salt(salted, model):
    body = {"model": model, "messages": [{"role": "user", "content": "a"}]}
    got = {who: sent(salted, who, "chat/completions", {**body, "cache_salt": "mine", "extra_key": "x", "kv_transfer_params": {"do_remote_prefill": True}, "rid": "1"}) for who in "ab"}
    salts = {who: doc.pop("cache_salt") for who, doc in got.items()}
    assert got["a"] == got["b"] == body
    assert salts["a"] != salts["b"] and all(len(s) == 64 for s in salts.values()) and "tenant" not in salts["a"]
    assert sent(salted, "a", "completions", {"model": model, "prompt": "x"})["cache_salt"] == salts["a"]


def test_no_salt_where_none_is_known(salted):
    assert sent(salted, "a", "chat/completions", {"model": "elsewhere", "messages": [], "cache_salt": "x"}) == {"model": "elsewhere", "messages": []}
    assert sent(salted, "a", "embeddings", {"model": "vectors", "input": "x"}) == {"model": "vectors", "input": "x"}


def test_messages_of_several_tenants_are_refused(salted):
    """vLLM takes no salt in a Message."""
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert sent(salted, "a", "messages", {"model": "vllm", **body}) == 400
    assert sent(salted, "a", "messages", {"model": "own", **body})["messages"] == body["messages"]


def test_messages_to_an_adapter_are_refused_before_there_is_an_engine(salted):
    """It would have to be started first, and who waits for it is not asked again: the base model would answer."""
    wait_for(lambda: salted.gateway_status("/models/tuned", salted.keys["a"]) == 200, what="the one at zero")
    assert sent(salted, "a", "messages", {"model": "tuned", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}) == 400
