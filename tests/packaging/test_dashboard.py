"""The dashboard: its queries are PromQL, about metrics and labels that there are, and its panels fit beside each other."""
import json
import os
import re
import subprocess

import pytest

from cloud import ROOT, Cloud, wait_for
from exposition import parse
from test_alerts import PROMTOOL
from wire import RawClient, post

DASHBOARD = json.loads((ROOT / "packaging" / "grafana" / "seki.json").read_text())
PANELS = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
VARIABLES = {v["name"] for v in DASHBOARD["templating"]["list"]}
QUERIES = [(p["title"], t["expr"]) for p in PANELS for t in p["targets"]]
METRIC = r"\b((?:seki|gen_ai|process)_[a-z_]+)\b"


def metrics_of(query):
    return set(re.findall(METRIC, query))


def base(metric):
    return re.sub(r"_(bucket|sum|count)$", "", metric)


def test_queries_are_about_metrics_that_there_are():
    """observe.md has all metrics: another test compares it with the program."""
    there = set(re.findall(r"`((?:seki|gen_ai|process)_\w+)`", (ROOT / "docs" / "operate" / "observe.md").read_text()))
    variables = [(v["name"], v["definition"]) for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    assert len(QUERIES) > 25 and len(variables) == 3
    for title, query in QUERIES + variables:
        assert metrics_of(query), (title, query)
        for metric in metrics_of(query):
            assert metric in there or base(metric) in there, (title, metric)


def test_queries_are_promql(tmp_path):
    if not os.path.exists(PROMTOOL):
        subprocess.run([str(ROOT / "scripts" / "promtool")], check=True, capture_output=True, timeout=300)
    rules = [{"record": f"q:{i}", "expr": re.sub(r"\$\w+", ".*", query)} for i, (_, query) in enumerate(QUERIES)]
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    p = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stdout + p.stderr
    for title, query in QUERIES:
        assert set(re.findall(r"\$(\w+)", query)) <= VARIABLES, title


def test_labels_are_those_of_the_metrics():
    """What a query groups or selects by, its metrics have."""
    with Cloud(options={"gateway-threads": 1}) as c:
        c.project("demo")
        c.create("modelendpoints", "demo", "m", {"engine": {"driver": "fake", "options": {"tokens": "3"}}, "slo": {"availability": "99"}})
        c.wait_condition("modelendpoints", "demo", "m")
        key = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", key) == 200, what="the model")
        with RawClient(c.address("gateway")) as client:
            client.send(post(key, {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}))
            client.read_until(b"[DONE]")
        found = {}
        for name, labels in wait_for(lambda: (lambda got: any("slo" in n for n, _ in got) and got)(parse(c.metrics("metrics-gateway"))), what="it to be counted"):
            found.setdefault(name, set()).update(dict(labels))
        for name, labels in parse(c.metrics()):
            found.setdefault(name, set()).update(dict(labels))
    asked = 0
    for title, query in QUERIES:
        by = {l.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for l in group.split(",")}
        chosen = {l for group in re.findall(r"\{([^}]*)\}", query) for l in re.findall(r"(\w+)(?:=~|=)", group)}
        for metric in metrics_of(query) & set(found):
            if "budget" not in metric and found[metric]:
                missing = (by | chosen) - found[metric] - {"instance", "job"}
                asked += 1
                assert not missing, (title, metric, missing)
    assert asked > 8


def test_panels_fit():
    ids, taken = set(), set()
    for p in DASHBOARD["panels"]:
        g = p["gridPos"]
        assert p["id"] not in ids and g["x"] + g["w"] <= 24
        ids.add(p["id"])
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert not cells & taken, p["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_each_panel_has_its_source_and_unit(panel):
    assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"] and panel["datasource"]["uid"] == "${datasource}" and {t["datasource"]["uid"] for t in panel["targets"]} == {"${datasource}"}
