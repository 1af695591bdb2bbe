"""A key of one project against what is another's, by every route: always as if it did not exist."""
import http.client
import json
import statistics
import time

import pytest

from cloud import Cloud, wait_for

ROUTES = [("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
          ("POST", "/v1/completions", {"prompt": "a"}),
          ("POST", "/v1/embeddings", {"input": "a"}),
          ("GET", "/v1/models/{}", None)]
THEIRS = ["secret", "vectors", "down", "friends"]  # an endpoint, one for embeddings, one that does not serve, one shared with others
NAMES = THEIRS + ["b/secret", "b%2Fsecret", "secret-0", "../b/secret", "SECRET"]


@pytest.fixture(scope="module")
def two():
    with Cloud() as c:
        for name in ("a", "b", "c"):
            c.project(name, tenant=f"tenant-{name}")
        fake = {"driver": "fake", "options": {}}
        c.create("modelendpoints", "b", "secret", {"engine": fake})
        c.create("modelendpoints", "b", "vectors", {"engine": {**fake, "embeddings": True}})
        c.create("modelendpoints", "b", "down", {"replicas": 0, "engine": fake})
        c.create("modelendpoints", "b", "friends", {"engine": fake, "visibility": "Tenants", "tenants": ["tenant-c"]})
        c.create("modelendpoints", "a", "mine", {"engine": fake})
        for ns, name in (("b", "secret"), ("b", "vectors"), ("b", "friends"), ("a", "mine")):
            c.wait_condition("modelendpoints", ns, name)
        c.keys = {"a": c.key("a"), "b": c.key("b"), "c": c.key("c"), "narrow": c.key("b", "narrow", endpoints=["vectors"])}
        wait_for(lambda: c.gateway_status("/models/mine", c.keys["a"]) == 200 and c.gateway_status("/models/friends", c.keys["c"]) == 200, what="the models")
        yield c


def ask(cloud, key, method, path, body, model, connection=None, repeat=False):
    """Status, headers and body, with what may differ (the name asked for, the request's id, the time) put in words."""
    c = connection or http.client.HTTPConnection(*cloud.address("gateway").split(":"), timeout=60)
    c.request(method, path.format(model), json.dumps({**body, "model": model}) if body else None, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read().decode()
    if repeat:
        return r.status
    headers = sorted((k.lower(), v) for k, v in r.getheaders() if k.lower() != "date")
    request_id = r.getheader("X-Request-Id") or "no id"
    headers = [(k, "LENGTH" if k == "content-length" else v.replace(request_id, "ID")) for k, v in headers]
    return r.status, headers, text.replace(request_id, "ID").replace(model, "NAME")


def test_control_the_owner_sees_them(two):
    """Else the rest would show nothing."""
    assert ask(two, two.keys["b"], "GET", "/v1/models/{}", None, "secret")[0] == 200
    assert ask(two, two.keys["b"], *ROUTES[1], "secret")[0] == 200
    assert ask(two, two.keys["b"], *ROUTES[2], "vectors")[0] == 200
    assert ask(two, two.keys["b"], *ROUTES[1], "down")[0] == 503
    assert ask(two, two.keys["c"], *ROUTES[1], "friends")[0] == 200


@pytest.mark.parametrize("route", ROUTES, ids=[r[1] for r in ROUTES])
@pytest.mark.parametrize("name", NAMES)
def test_not_yours_is_not_there(two, route, name):
    missing = ask(two, two.keys["a"], *route, "n" * len(name))
    assert missing[0] == 404 and "model_not_found" in missing[2]
    assert ask(two, two.keys["a"], *route, name) == missing


def test_a_key_for_one_endpoint_sees_no_other_of_its_project(two):
    for route in ROUTES:
        assert ask(two, two.keys["narrow"], *route, "secret") == ask(two, two.keys["narrow"], *route, "nosuch")
    assert ask(two, two.keys["narrow"], "GET", "/v1/models/{}", None, "vectors")[0] == 200


def test_lists_and_other_paths(two):
    listed = {k: {m["id"] for m in json.loads(ask(two, two.keys[k], "GET", "/v1/models", None, "-")[2])["data"]} for k in two.keys}
    assert listed == {"a": {"mine"}, "b": set(THEIRS), "c": {"friends"}, "narrow": {"vectors"}}
    for path in ("/v1/files", "/v1/files/file-1", "/v1/usage", "/v1/batches", "/v1/organization/usage/completions"):
        assert ask(two, two.keys["a"], "GET", path, None, "-")[0] == 404
        assert ask(two, two.keys["a"], "GET", path, None, "-") == ask(two, two.keys["b"], "GET", path, None, "-")
    said = ask(two, two.keys["a"], "GET", "/v1/files", None, "-")[2]
    assert all(route[1].split("/{}")[0] in said for route in ROUTES), said  # what there is instead


def test_refused_requests_are_in_nobody_elses_usage(two):
    def reported(ns):
        return json.dumps([r.get("status", {}).get("items", []) for r in two.api("GET", f"/apis/seki.cloud/v1alpha1/namespaces/{ns}/usagereports")["items"]])
    assert ask(two, two.keys["a"], *ROUTES[1], "secret")[0] == 404
    assert ask(two, two.keys["a"], *ROUTES[1], "mine")[0] == 200
    wait_for(lambda: '"mine"' in reported("a"), what="the report of a")
    assert "secret" not in reported("a") and '"mine"' not in reported("b")


def test_it_takes_the_same_time(two):
    """The medians of many, taken in turns, so that what else the machine does falls on both."""
    c = http.client.HTTPConnection(*two.address("gateway").split(":"), timeout=60)
    times = {"secret": [], "nosuch": []}
    for i in range(1200):
        name = ("secret", "nosuch")[i % 2]
        begun = time.perf_counter_ns()
        assert ask(two, two.keys["a"], *ROUTES[1], name, connection=c, repeat=True) == 404
        times[name].append(time.perf_counter_ns() - begun)
    theirs, none = (statistics.median(t) for t in times.values())
    assert abs(theirs - none) < 0.25 * max(theirs, none), (theirs, none)
