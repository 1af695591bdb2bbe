"""docs/use/openapi.yaml against the program: requests that schemathesis makes up from it, good ones and bad ones, end as it says, and never in a 5xx."""
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import yaml

from cloud import ROOT, Cloud, wait_for
from test_openai_sdk import serve_gemma

PROGRAM = pathlib.Path(sys.executable).parent / "schemathesis"
DOCUMENT = ROOT / "docs" / "use" / "openapi.yaml"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,ignored_auth"
OURS = ",negative_data_rejection,positive_data_acceptance"  # of what the gateway itself judges
TASKS = {"ChatRequest": "text", "CompletionRequest": "text", "ResponseRequest": "text", "MessageRequest": "text", "EmbeddingRequest": "embeddings", "RerankRequest": "rerank"}


def document():
    return yaml.safe_load(DOCUMENT.read_text())


def narrowed(models):
    """With models that are there: else hardly a request would get past the first check."""
    doc = document()
    for name, task in TASKS.items():
        doc["components"]["schemas"][name]["properties"]["model"] = {"type": "string", "enum": [models[task]]}
    doc["components"]["parameters"]["model"]["schema"] = {"type": "string", "enum": [*models.values(), "none"]}
    for item in doc["paths"].values():
        events = item.get("post", {}).get("responses", {}).get("200", {}).get("content", {}).get("text/event-stream")
        if events:  # schemathesis looks at each
            events["schema"] = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "pattern": r"^(\[DONE\]|\{.*\})$"}}}
    return doc


ANYTHING = {"anyOf": [{"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": -2**63, "maximum": 2**63 - 1}, {"type": "array", "items": {"type": "string"}}]}


def ours(doc):
    """What an engine judges may be anything: the fake one takes it all."""
    def freed(part):
        if isinstance(part, list):
            return [freed(p) for p in part]
        if not isinstance(part, dict):
            return part
        return ANYTHING if part.get("x-judged-by") else {k: freed(v) for k, v in part.items()}
    doc = freed(doc)
    for name in TASKS:
        doc["components"]["schemas"][name]["additionalProperties"] = ANYTHING
    return doc


def run(c, directory, doc, *args, checks=CHECKS):
    (directory / "openapi.json").write_text(json.dumps(doc))
    command = [str(PROGRAM), "--no-color", "run", "openapi.json", "--url", f"http://{c.address('gateway')}", "-H", f"Authorization: Bearer {c.secret}", "--checks", checks, "--request-timeout", "60",
               "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-shrink", "--seed", "7", *args]
    p = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=1200, env={**os.environ, "HOME": str(directory)})
    assert p.returncode == 0, p.stdout[-12000:] + p.stderr[-3000:]
    assert "No issues found" in p.stdout


def answered(c):
    """Routes that answered something with 200."""
    return {m[1] for m in re.finditer(r'seki_gateway_requests_total{route="([^"]+)",status="200"', c.metrics("metrics-gateway"))}


@pytest.fixture(scope="module")
def fake():
    with Cloud() as c:
        c.project("demo")
        c.fake_endpoint("demo", "writer", tokens=3)
        for name, how in (("vectors", {"embeddings": True}), ("ranker", {"rerank": True})):
            c.create("modelendpoints", "demo", name, {"engine": {"driver": "fake", "options": {}, **how}})
            c.wait_condition("modelendpoints", "demo", name)
        c.secret = c.key("demo")
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", c.secret) == 200 for m in ("writer", "vectors", "ranker")), what="the models")
        c.models = {"text": "writer", "embeddings": "vectors", "rerank": "ranker"}
        yield c


def test_the_document_names_each_path_that_there_is(fake):
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(f"{fake.base_url}/nothing", timeout=30)
    told = set(re.findall(r"/v1/[\w/]+", json.load(e.value)["error"]["message"])) - {"/v1/nothing"}
    assert told == {p for p in document()["paths"] if p.startswith("/v1/") and "{" not in p}


def test_a_path_says_which_methods_it_takes(fake):
    for path, item in document()["paths"].items():
        request = urllib.request.Request(f"http://{fake.address('gateway')}{path.replace('{model}', 'writer')}", method="PATCH")
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(request, timeout=30)
        assert (e.value.code, e.value.headers["Allow"]) == (405, "POST" if "post" in item else "GET, HEAD"), path


def test_made_up_requests(fake, tmp_path):
    # The fake engine speaks neither of the other dialects: what it says of them is its own.
    run(fake, tmp_path, ours(narrowed(fake.models)), "--phases", "fuzzing", "--mode", "all", "--max-examples", "4", "--exclude-operation-id-regex", "Response|Message", checks=CHECKS + OURS)
    assert {"chat.completions", "completions", "embeddings", "rerank"} <= answered(fake)  # or only refusals would have been looked at


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_many_made_up_requests(fake, tmp_path):
    run(fake, tmp_path, narrowed(fake.models), "--phases", "coverage,fuzzing", "--mode", "all", "--max-examples", "100", "--max-time", "600", "--exclude-operation-id-regex", "Response|Message")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_made_up_requests_to_a_real_engine(tmp_path):
    with Cloud() as c:
        serve_gemma(c)
        doc = narrowed({"text": "gemma", "embeddings": "gemma-embed", "rerank": "none"})
        for name in ("ChatRequest", "CompletionRequest"):
            doc["components"]["schemas"][name]["required"].append("max_tokens")
            doc["components"]["schemas"][name]["properties"]["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 4}
        run(c, tmp_path, doc, "--phases", "coverage,fuzzing", "--mode", "all", "--max-examples", "30")
