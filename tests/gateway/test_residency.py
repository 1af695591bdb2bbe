"""The border: requests go where their rules allow, and nowhere else, whatever fails; a refusal names the rule and is recorded."""
import http.client
import json
import socket
import threading

import pytest

from cloud import ApiError, Cloud, wait_for


class Place:
    """A server elsewhere that counts connections and can be told to fail."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        self.asked, self.fails, self.open = 0, False, True
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        f = peer.makefile("rb")
        with peer:
            while line := f.readline():
                length = 0
                while (header := f.readline()) not in (b"\r\n", b""):
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                f.read(length)
                chat = line.startswith(b"POST")
                self.asked += chat
                body = (b'{"choices":[{"message":{"role":"assistant","content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}' if chat
                        else b'{"object":"list","data":[{"id":"m","object":"model"}]}')
                status = b"500 Broken" if chat and self.fails else b"200 OK"
                peer.sendall(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def close(self):
        self.socket.close()


@pytest.fixture(scope="module")
def places():
    both = Place(), Place()
    yield both
    for p in both:
        p.close()


@pytest.fixture(scope="module")
def cloud(places):
    tokyo, paris = places
    with Cloud(options={"site": "tokyo"}) as c:
        c.project("clinic", tenant="health")
        c.project("other")
        for name, country, servers, cleared in (("tokyo", "JP", [tokyo.address], ["medical"]), ("paris", "FR", [paris.address], [])):
            c.create_site(name, jurisdiction=country, servers=servers, clearances=cleared)
        c.create("modelendpoints", "clinic", "far", {"replicas": 2, "engine": {"driver": "openai", "remoteModel": "m"}, "servers": [{"url": f"http://{p.address}/v1"} for p in places]})
        c.create("modelendpoints", "clinic", "foreign", {"engine": {"driver": "openai", "remoteModel": "m", "url": f"http://{paris.address}/v1"}})
        c.create("modelendpoints", "clinic", "here", {"engine": {"driver": "fake", "options": {}}})
        for name in ("far", "foreign", "here"):
            c.wait_condition("modelendpoints", "clinic", name)
        c.secret = c.key("clinic")
        c.other = c.key("clinic", "unbound")
        for name in ("far", "foreign", "here"):
            wait_for(lambda name=name: c.gateway_status(f"/models/{name}", c.other) == 200, what=name)
        yield c


def ask(c, model, key=None, path="/v1/chat/completions", **more):
    connection = http.client.HTTPConnection(*c.address("gateway").split(":"), timeout=30)
    body = {"model": model, "messages": [{"role": "user", "content": "where am I?"}], "max_tokens": 4, **more}
    connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {key or c.secret}", "Content-Type": "application/json", "x-seki-site": "paris"})
    r = connection.getresponse()
    r.text = r.read()
    connection.close()
    return r


POLICIES = "/apis/seki.cloud/v1alpha1/namespaces/clinic/residencypolicies"


@pytest.fixture
def policy(cloud):
    """policy(name, spec): made, in force, and gone afterwards."""
    made = []

    def make(name, spec, probe="foreign", status=403, key=None):
        cloud.create("residencypolicies", "clinic", name, spec)
        made.append(name)
        wait_for(lambda: ask(cloud, probe, key).status == status, what="the rule")
    yield make
    for name in made:
        cloud.api("DELETE", f"{POLICIES}/{name}")
    wait_for(lambda: ask(cloud, "foreign").status == 200, what="the end of the rule")


def refusals(c):
    lines = c.seki("audit", "export", str(c.data / "ledger"), "--format", "json").stdout.splitlines()
    return [r for r in map(json.loads, lines) if r.get("reason") == "residency_denied"]


def how_many(records):
    """The same within a second is one record with a count."""
    return sum(r.get("count", 1) for r in records)


def test_without_rules_everything_is_allowed_and_answers_say_where(cloud, places):
    assert ask(cloud, "foreign").getheader("x-seki-site") == "paris"
    here = ask(cloud, "here")
    assert here.status == 200 and here.getheader("x-seki-site") == "tokyo" and here.getheader("x-seki-route") in ("load", "prefix")


def test_a_foreign_site_gets_not_one_byte(cloud, places, policy):
    tokyo, paris = places
    policy("only-japan", {"jurisdictions": ["JP"]})
    before, recorded = paris.asked, how_many(refusals(cloud))
    for stream in (False, True):
        r = ask(cloud, "foreign", stream=stream)
        error = json.loads(r.text)["error"]
        assert r.status == 403 and error["code"] == "residency_denied" and error["type"] == "permission_error" and "ResidencyPolicy clinic/only-japan" in error["message"]
    r = ask(cloud, "foreign", path="/v1/messages")
    assert r.status == 403 and json.loads(r.text)["error"]["type"] == "permission_error" and b"clinic/only-japan" in r.text
    for _ in range(30):
        r = ask(cloud, "far")
        assert r.status == 200 and r.getheader("x-seki-site") == "tokyo" and 'rule="ResidencyPolicy clinic/only-japan"' in r.getheader("x-seki-route")
    assert ask(cloud, "here").status == 200
    assert paris.asked == before
    wait_for(lambda: how_many(refusals(cloud)) >= recorded + 3, what="the records")
    last = refusals(cloud)[-1]
    assert (last["rule"], last["tenant"], last["status"]) == ("ResidencyPolicy clinic/only-japan", "health", 403) and "where am I" not in json.dumps(last)


def test_a_failure_does_not_open_the_border(cloud, places, policy):
    tokyo, paris = places
    policy("only-japan", {"jurisdictions": ["JP"]})
    before = paris.asked
    tokyo.fails = True
    try:
        assert all(ask(cloud, "far").status in (500, 502, 503) for _ in range(10))
        assert paris.asked == before
    finally:
        tokyo.fails = False
    wait_for(lambda: ask(cloud, "far").status == 200, what="Tokyo to be trusted again")
    assert paris.asked == before


@pytest.mark.parametrize("spec, far, foreign, here", [
    ({"sites": ["paris"]}, 200, 200, 403), ({"clearances": ["medical"]}, 200, 403, 200), ({"jurisdictions": ["DE"]}, 403, 403, 403), ({"jurisdictions": ["JP"], "sites": ["paris"]}, 403, 403, 403),
    ({"jurisdictions": ["JP"], "models": ["here"]}, 200, 200, 200), ({"jurisdictions": ["JP"], "keys": ["key"]}, 200, 403, 200)], ids=str)
def test_what_rules_allow(cloud, policy, spec, far, foreign, here):
    policy("rule", spec, probe="foreign" if foreign == 403 else "here", status=403 if foreign == 403 or here == 403 else 200)
    assert [ask(cloud, m).status for m in ("far", "foreign", "here")] == [far, foreign, here]
    if "keys" in spec:
        assert ask(cloud, "foreign", cloud.other).status == 200


def test_rules_hold_together(cloud, policy):
    """A second one narrows, and what the operator said of the tenant cannot be widened."""
    policy("wide", {"jurisdictions": ["JP", "FR"]}, status=200)
    tenant, merge = "/apis/seki.cloud/v1alpha1/tenants/health", {"content_type": "application/merge-patch+json"}
    cloud.api("PATCH", tenant, {"spec": {"residency": {"jurisdictions": ["JP"]}}}, **merge)
    try:
        wait_for(lambda: ask(cloud, "foreign").status == 403, what="the tenant's rule")
        assert "Tenant health" in json.loads(ask(cloud, "foreign").text)["error"]["message"]
        assert ask(cloud, "far").getheader("x-seki-site") == "tokyo"
    finally:
        cloud.api("PATCH", tenant, {"spec": {"residency": None}}, **merge)
    wait_for(lambda: ask(cloud, "foreign").status == 200, what="the end of it")


def test_a_site_that_goes_takes_no_rule_along(cloud, places, policy):
    """What stands nowhere is allowed nowhere."""
    policy("any-site", {"jurisdictions": ["JP", "FR"]}, status=200)
    site = cloud.api("GET", "/apis/seki.cloud/v1alpha1/sites/paris")
    cloud.api("DELETE", "/apis/seki.cloud/v1alpha1/sites/paris")
    try:
        wait_for(lambda: ask(cloud, "foreign").status == 403, what="the refusal")
        assert ask(cloud, "far").getheader("x-seki-site") == "tokyo"
    finally:
        cloud.create_site("paris", **site["spec"])
    wait_for(lambda: ask(cloud, "foreign").status == 200, what="Paris again")


def test_allowed_and_down_is_a_matter_of_waiting(cloud, places, policy):
    """The replica that is allowed does not serve: 503, and never the foreign one."""
    tokyo, paris = places
    gone = Place()
    cloud.api("PATCH", "/apis/seki.cloud/v1alpha1/sites/tokyo", {"spec": {"servers": [tokyo.address, gone.address]}}, content_type="application/merge-patch+json")
    cloud.create("modelendpoints", "clinic", "half", {"replicas": 2, "engine": {"driver": "openai", "remoteModel": "m"}, "servers": [{"url": f"http://{a}/v1"} for a in (gone.address, paris.address)]})
    cloud.wait_condition("modelendpoints", "clinic", "half")
    gone.close()
    try:
        wait_for(lambda: cloud.get("modelendpoints", "clinic", "half")["status"].get("readyReplicas") == 1, 60, "one replica to be missed")
        policy("only-japan", {"jurisdictions": ["JP"]})
        before = paris.asked
        wait_for(lambda: ask(cloud, "half").status == 503, what="the gateway to know")
        assert {ask(cloud, "half").status for _ in range(5)} == {503} and paris.asked == before
    finally:
        cloud.api("DELETE", "/apis/seki.cloud/v1alpha1/namespaces/clinic/modelendpoints/half")


@pytest.mark.parametrize("plural, spec, field", [
    ("sites", {"jurisdiction": "japan"}, "spec.jurisdiction"), ("sites", {"jurisdiction": "jp"}, "spec.jurisdiction"), ("sites", {}, "spec.jurisdiction"),
    ("sites", {"jurisdiction": "JP", "servers": ["https://x/v1"]}, "spec.servers[0]"), ("residencypolicies", {}, "spec"), ("residencypolicies", {"jurisdictions": []}, "spec"),
    ("residencypolicies", {"jurisdictions": ["Japan"]}, "spec.jurisdictions[0]"), ("tenants", {"residency": {"jurisdictions": ["jp"]}}, "spec.residency.jurisdictions[0]"),
    ("tenants", {"residency": {}}, "spec.residency")], ids=str)
def test_bad_rules_are_refused(cloud, plural, spec, field):
    kind = {"sites": "Site", "residencypolicies": "ResidencyPolicy", "tenants": "Tenant"}[plural]
    path = POLICIES if kind == "ResidencyPolicy" else f"/apis/seki.cloud/v1alpha1/{plural}"
    with pytest.raises(ApiError) as e:
        cloud.api("POST", path, {"apiVersion": "seki.cloud/v1alpha1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec})
    assert e.value.status == 422 and field in [c["field"] for c in e.value.body["details"]["causes"]]


def check(c, model, key=None, *more):
    p = c.seki("residency", "check", model, "-o", "json", *more, check=False, env={"OPENAI_BASE_URL": c.base_url, "OPENAI_API_KEY": key or c.secret})
    return p.returncode, json.loads(p.stdout) if p.stdout else p.stderr


def test_what_would_happen_is_told_without_a_request(cloud, places, policy):
    tokyo, paris = places
    code, free = check(cloud, "far")
    assert code == 0 and free["result"] == "served" and all(p["allowed"] for p in free["places"])
    policy("only-japan", {"jurisdictions": ["JP"]})
    before = tokyo.asked, paris.asked
    code, far = check(cloud, "far")
    by_site = {p["site"]: p for p in far["places"]}
    assert code == 0 and far["result"] == "served" and "rule" not in far
    assert by_site == {"tokyo": {"endpoint": "clinic/far", "site": "tokyo", "jurisdiction": "JP", "replicas": 1, "serving": 1, "allowed": True},
                       "paris": {"endpoint": "clinic/far", "site": "paris", "jurisdiction": "FR", "replicas": 1, "serving": 1, "allowed": False, "rule": "ResidencyPolicy clinic/only-japan"}}
    code, foreign = check(cloud, "foreign")
    assert code == 1 and foreign["result"] == "refused" and foreign["rule"] == "ResidencyPolicy clinic/only-japan"
    assert check(cloud, "here")[1]["places"][0]["site"] == "tokyo"
    code, said = check(cloud, "unknown")
    assert code == 1 and "does not exist" in said
    assert (tokyo.asked, paris.asked) == before and not [r for r in refusals(cloud) if "/residency/" in json.dumps(r)]
    table = cloud.seki("residency", "check", "far", env={"OPENAI_BASE_URL": cloud.base_url, "OPENAI_API_KEY": cloud.secret}).stdout
    assert "ALLOWED" in table and "ResidencyPolicy clinic/only-japan" in table
    for model in ("far", "foreign", "here"):  # what was told is what happens
        assert ask(cloud, model).status == (403 if check(cloud, model)[1]["result"] == "refused" else 200)


def test_a_rule_for_one_key_is_told_to_that_key(cloud, policy):
    policy("ward", {"jurisdictions": ["JP"], "keys": ["unbound"]}, key=cloud.other)
    assert check(cloud, "foreign", cloud.other)[1]["result"] == "refused"
    assert check(cloud, "foreign")[1]["result"] == "served"


def warnings_of(c, name, spec, method="POST"):
    """Of a write of an endpoint: (status, Warning headers)."""
    import ssl
    context = ssl.create_default_context(cafile=str(c.data / "pki" / "ca.crt"))
    context.load_cert_chain(str(c.data / "pki" / "admin.crt"), str(c.data / "pki" / "admin.key"))
    host, port = c.address("api").rsplit(":", 1)
    connection = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
    path = "/apis/seki.cloud/v1alpha1/namespaces/clinic/modelendpoints"
    body = {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": name}, "spec": spec}
    connection.request(method, f"{path}?dryRun=All" if method == "POST" else f"{path}/{name}?dryRun=All", json.dumps(body), {"Content-Type": "application/json" if method == "POST" else "application/merge-patch+json"})
    r = connection.getresponse()
    r.read()
    connection.close()
    return r.status, r.headers.get_all("Warning") or []


def test_an_endpoint_that_no_rule_lets_be_reached_is_warned_of(cloud, places, policy):
    tokyo, paris = (f"http://{p.address}/v1" for p in places)
    away = {"engine": {"driver": "openai", "remoteModel": "m", "url": paris}}
    assert warnings_of(cloud, "new", away) == (201, []), "no rule, no warning"
    policy("only-japan", {"jurisdictions": ["JP"]})
    status, said = warnings_of(cloud, "new", away)
    assert status == 201 and len(said) == 1 and "ResidencyPolicy clinic/only-japan" in said[0] and said[0].startswith('299 - "')
    assert warnings_of(cloud, "foreign", {"servedName": "elsewhere"}, "PATCH")[1] != []
    for fine in ({"engine": {"driver": "fake"}}, {"engine": {"driver": "openai", "remoteModel": "m", "url": tokyo}},
                 {"engine": {"driver": "openai", "remoteModel": "m"}, "servers": [{"url": paris}, {"url": tokyo}]}):
        assert warnings_of(cloud, "new", fine) == (201, []), fine
    assert warnings_of(cloud, "new", {"engine": {"driver": "openai", "remoteModel": "m", "url": "http://127.0.0.1:9/v1"}})[1] != [], "a server that no Site lists"


def test_a_rule_for_some_warns_of_them(cloud, places, policy):
    """Of keys that no request could be made with, by name."""
    away = {"engine": {"driver": "openai", "remoteModel": "m", "url": f"http://{places[1].address}/v1"}}
    policy("ward", {"jurisdictions": ["JP"], "keys": ["unbound", "night"]}, key=cloud.other)
    here = {"engine": {"driver": "openai", "remoteModel": "m", "url": f"http://{places[0].address}/v1"}}
    assert warnings_of(cloud, "new", here) == (201, [])
    status, said = warnings_of(cloud, "new", away)
    assert status == 201 and len(said) == 1 and "with the API keys unbound, night can" in said[0] and "ResidencyPolicy clinic/ward " in said[0]


def test_a_rule_for_some_models_warns_of_those(cloud, places, policy):
    away = {"engine": {"driver": "openai", "remoteModel": "m", "url": f"http://{places[1].address}/v1"}}
    policy("writers", {"jurisdictions": ["JP"], "models": ["foreign"]})
    assert warnings_of(cloud, "new", away) == (201, [])
    assert warnings_of(cloud, "new", {**away, "servedName": "foreign"})[1] != []
