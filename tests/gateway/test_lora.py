"""LoRA adapters as models, on the real engine: each answers in its own way, and nothing of one is used for another."""
import hashlib
import json
import urllib.error
import urllib.request

import pytest

from cloud import CACHE, GROUP, SLOW, Cloud, wait_for
from lora import write_adapter
from wire import journal

GEMMA = CACHE / "models/gemma3-270m"


@pytest.fixture(scope="module")
def tuned():
    with Cloud() as c:
        c.project("demo")
        facts = json.loads((GEMMA / "manifest.json").read_text())
        c.create("models", "demo", "gemma", {"source": f"file://{GEMMA}", "format": "GGUF", "files": facts["files"], "license": facts["license"], "capabilities": ["Completion"]})
        directory = c.data / "models" / "demo"
        directory.mkdir(parents=True, mode=0o700)
        for name, tensor in (("north", "blk.0.attn_q.weight"), ("south", "blk.0.attn_output.weight")):
            path = directory / f"{name}.gguf"
            write_adapter(GEMMA / facts["files"][0]["name"], path, scale=0.5, tensor=tensor)
            content = path.read_bytes()
            c.create("models", "demo", name, {"source": f"file://{directory}", "format": "GGUF", "license": facts["license"], "capabilities": ["Completion"],
                                              "files": [{"name": path.name, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "sizeBytes": len(content)}]})
        c.create("modelendpoints", "demo", "base", {"model": "gemma", "engine": {"contextLength": 512, "parallel": 2, "threads": 1},
                                                    "adapters": [{"name": "north", "model": "north"}, {"name": "org/south", "model": "south"}]})
        c.wait_condition("modelendpoints", "demo", "base", timeout=120)
        c.secret = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/north", c.secret) == 200, what="the adapter")
        yield c


def ask(c, path, body):
    request = urllib.request.Request(f"{c.base_url}/{path}", json.dumps(body).encode(), {"Authorization": f"Bearer {c.secret}", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60 * SLOW) as r:
            return json.load(r)
    except urllib.error.HTTPError as e:
        return e.code


def complete(c, model, prompt="hello there ", **more):
    """The probability of the first token, which tells models apart where texts do not; and how much was cached."""
    got = ask(c, "completions", {"model": model, "prompt": prompt * 30, "max_tokens": 1, "temperature": 0, "logprobs": 1, **more})
    return got["choices"][0]["logprobs"]["content"][0]["logprob"], got["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_they_are_listed(tuned):
    request = urllib.request.Request(f"{tuned.base_url}/models", headers={"Authorization": f"Bearer {tuned.secret}"})
    with urllib.request.urlopen(request) as r:
        assert {m["id"] for m in json.load(r)["data"]} == {"base", "north", "org/south"}


def test_each_answers_in_its_own_way(tuned):
    first = {m: complete(tuned, m)[0] for m in ("base", "north", "org/south")}
    assert min(abs(first[a] - first[b]) for a in first for b in first if a < b) > 0.02, first
    for model in ("north", "base", "org/south", "base"):  # whatever was in the slot before
        assert complete(tuned, model)[0] == pytest.approx(first[model], abs=0.01)
    assert complete(tuned, "base", lora=[{"id": 0, "scale": 1.0}])[0] == pytest.approx(first["base"], abs=0.01)  # nor does a client choose
    record = next(r for r in reversed(journal(tuned.data / "ledger")) if r["model"] == "north")
    assert record["endpoint"] == "base" and record["exact"]


def test_what_one_has_made_of_a_prompt_is_used_for_it_alone(tuned):
    for model in ("north", "org/south"):
        assert complete(tuned, model, "good morning ")[1] == 0
        assert complete(tuned, model, "good morning ")[1] > 40
    assert complete(tuned, "base", "good morning ")[1] == 0


def test_where_the_engine_takes_no_adapter(tuned):
    """llama.cpp takes none in a Message."""
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert ask(tuned, "messages", {"model": "north", **body}) == 400
    assert ask(tuned, "messages", {"model": "base", **body})["usage"]["output_tokens"] == 1


@pytest.mark.parametrize("engine, says", [({"driver": "openai", "url": "http://127.0.0.1:1/v1"}, "remoteModel"), ({"embeddings": True}, "text")])
def test_where_there_can_be_none(tuned, engine, says):
    with pytest.raises(Exception, match=says):
        tuned.create("modelendpoints", "demo", "no", {"model": "gemma", "engine": engine, "adapters": [{"name": "x", "model": "north"}]})


def test_a_name_that_is_taken(tuned):
    with pytest.raises(Exception, match="adapters"):
        tuned.create("modelendpoints", "demo", "same", {"model": "gemma", "adapters": [{"name": "same", "model": "north"}]})


def test_a_shorter_list_changes_nothing_of_those_that_stay(tuned):
    """Engines number adapters by the list that they were started with, and serve on while others take their place: the second one stays what it was, though it is the first of the new list."""
    def replicas():
        return {r["metadata"]["uid"] for r in tuned.api("GET", f"{GROUP}/namespaces/demo/modelreplicas")["items"] if r["spec"]["endpoint"] == "base"}

    def replaced():
        assert complete(tuned, "org/south")[0] == pytest.approx(south, abs=0.01)
        return not replicas() & old
    old, south = replicas(), complete(tuned, "org/south")[0]
    tuned.api("PATCH", f"{GROUP}/namespaces/demo/modelendpoints/base", {"spec": {"adapters": [{"name": "org/south", "model": "south"}]}}, content_type="application/merge-patch+json")
    wait_for(lambda: tuned.gateway_status("/models/north", tuned.secret) == 404, what="the shorter list")
    wait_for(replaced, timeout=120, what="engines with the shorter list")
    assert complete(tuned, "org/south")[0] == pytest.approx(south, abs=0.01)
