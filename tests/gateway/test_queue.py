"""Requests that wait for a replica: fair between tenants, bounded, and free for who leaves; prompts go where their beginning is cached."""
import collections
import concurrent.futures
import json
import threading

import pytest

from cloud import Cloud, wait_for
from exposition import parse
from wire import RawClient, Upstream, answer, journal


pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def cloud():
    with Cloud(options={"gateway-queue-max": 40, "gateway-queue-timeout": "20s", "gateway-keepalive": "100ms"}) as c:
        c.keys = {}
        for tenant in ("shop", "a", "b"):
            c.project(tenant)
        yield c


def endpoint(c, name, replicas=1, parallel=2, **options):
    c.create("modelendpoints", "shop", name, {"replicas": replicas, "visibility": "Everyone", "engine": {"driver": "fake", "parallel": parallel, "options": options}})
    c.wait_condition("modelendpoints", "shop", name)
    for tenant in ("a", "b"):
        if tenant not in c.keys:
            c.keys[tenant] = c.key(tenant)
        wait_for(lambda: c.gateway_status(f"/models/{name}", c.keys[tenant]) == 200, what=f"{tenant} to see {name}")
    return name


@pytest.fixture
def model(cloud, request):
    """A ModelEndpoint of two slots whose requests take as long as the parameter says, milliseconds."""
    name = f"m{len(cloud.keys)}-{abs(hash(request.node.name)) % 10**8}"
    endpoint(cloud, name, tokens="4", firstTokenDelayMs=str(getattr(request, "param", 50)))
    yield name
    cloud.api("DELETE", f"/apis/seki.cloud/v1alpha1/namespaces/shop/modelendpoints/{name}")


def body_of(model, text="hi", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}


def send(c, tenant, body):
    data = json.dumps(body).encode()
    return (f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.keys[tenant]}\r\nContent-Length: {len(data)}\r\n\r\n").encode() + data


def ask(c, tenant, model, **more):
    with RawClient(c.address("gateway")) as client:
        client.send(send(c, tenant, body_of(model, **more)))
        return client.response()


def waiting(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_requests_waiting", ()]


class Load:
    """So many requests at a time of a tenant, each after the one before, until it is stopped. done: (tenant) of each that ended well, in order."""

    def __init__(self, cloud, model):
        self.cloud, self.model, self.done, self.failed, self.stopped, self.threads = cloud, model, [], [], collections.Counter(), []

    def start(self, tenant, count, **more):
        for _ in range(count):
            t = threading.Thread(target=self.run, args=(tenant, more), daemon=True)
            t.start()
            self.threads.append(t)

    def run(self, tenant, more):
        while not self.stopped[tenant]:
            got = ask(self.cloud, tenant, self.model, **more)
            (self.done if got.status == 200 else self.failed).append(tenant)

    def stop(self, *tenants):
        for t in tenants:
            self.stopped[t] = 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop("a", "b")
        for t in self.threads:
            t.join(30)


@pytest.mark.parametrize("model", [20], indirect=True)
def test_two_tenants_get_the_same_whatever_they_ask_for(cloud, model):
    with Load(cloud, model) as load:
        load.start("a", 30)
        load.start("b", 8)  # enough that one always waits, also where clients are slow
        wait_for(lambda: waiting(cloud) > 20, what="both to wait")
        first = len(load.done)
        wait_for(lambda: len(load.done) >= first + 200, what="200 answers", timeout=120)
        share = collections.Counter(load.done[first:first + 200])
        assert abs(share["a"] - share["b"]) <= 10, share  # within 5 %
        load.stop("b")
        wait_for(lambda: len(load.done) >= first + 220, what="the rest of b")
        alone = len(load.done)
        wait_for(lambda: len(load.done) >= alone + 60, what="60 more")
        assert collections.Counter(load.done[alone + 10:alone + 60])["a"] == 50  # who is alone gets all
    assert not load.failed


def hold(cloud, model, count=2, tenant="b"):
    """Streams that keep the slots; close them to give them back."""
    held = []
    for _ in range(count):
        client = RawClient(cloud.address("gateway"))
        client.send(send(cloud, tenant, body_of(model, stream=True)))
        held.append(client)
    return held


@pytest.mark.parametrize("model", [2000], indirect=True)
def test_who_leaves_while_waiting_costs_nothing(cloud, model):
    cloud.keys["limited"] = cloud.key("a", "limited", limits={"tokensPerMinute": 4000})
    held = hold(cloud, model)
    wait_for(lambda: in_flight(cloud) == 2, what="the slots to be taken")
    old = len(journal(cloud.data / "ledger"))
    gone = [RawClient(cloud.address("gateway")) for _ in range(5)]
    for client in gone:
        client.send(send(cloud, "limited", body_of(model, "words " * 300)))  # some 450 tokens
    wait_for(lambda: waiting(cloud) == 5, what="them to wait")
    for client in gone:
        client.sock.close()
    wait_for(lambda: waiting(cloud) == 0, what="them to be gone")
    wait_for(lambda: len(journal(cloud.data / "ledger")) >= old + 5, what="their records")
    for record in journal(cloud.data / "ledger")[old:old + 5]:
        assert record["outcome"] == "client_gone" and record["replica"] == "" and record["prompt_tokens"] == record["completion_tokens"] == 0
    for client in held:
        client.sock.close()
    assert int(ask(cloud, "limited", model).headers["x-ratelimit-remaining-tokens"]) > 3900


def test_who_leaves_an_engine_at_work_gets_nothing_of_his_turn_back(cloud):
    """Both tenants wait with the same; one of them leaves as soon as an engine works for him, and comes no oftener for it."""
    engine = Upstream()
    cloud.create("modelendpoints", "shop", "one", {"visibility": "Everyone", "engine": {"driver": "openai", "url": engine.url, "maxConcurrentRequests": 1, "remoteModel": "m"}})
    cloud.wait_condition("modelendpoints", "shop", "one")
    for tenant in ("a", "b"):
        if tenant not in cloud.keys:
            cloud.keys[tenant] = cloud.key(tenant)
        wait_for(lambda: cloud.gateway_status("/models/one", cloud.keys[tenant]) == 200, what=f"{tenant} to see it")
    spent = answer(b'{"choices":[{"index":0,"message":{"role":"assistant","content":"ok"}}],"usage":{"prompt_tokens":20,"completion_tokens":100,"total_tokens":120}}')
    asked = []

    def script(_, body):
        who = json.loads(body)["messages"][0]["content"]
        asked.append(who)
        return ["wait", spent] if who == "held" else ["hold"] if who[0] == "a" else [spent]
    engine.script = script
    clients = {who: RawClient(cloud.address("gateway")) for who in ["held", *(f"{t}{i}" for i in range(6) for t in "ab")]}

    def put(who):
        clients[who].send(send(cloud, "a" if who[0] == "a" else "b", {**body_of("one", who), "max_tokens": 100}))
    put("held")
    engine.wait(lambda: asked, "the slot to be taken")
    for n, who in enumerate(list(clients)[1:]):
        put(who)
        wait_for(lambda: waiting(cloud) == n + 1, what="it to wait")
    engine.go.set()
    for n in range(1, 13):
        engine.wait(lambda: len(engine.requests) > n, "the next one")
        clients[asked[n]].sock.close() if asked[n][0] == "a" else clients[asked[n]].response()
    order = "".join(who[0] for who in asked[1:])
    assert "aaa" not in order and abs(order[:6].count("a") - 3) <= 1, order
    engine.stop()
    cloud.api("DELETE", "/apis/seki.cloud/v1alpha1/namespaces/shop/modelendpoints/one")


def in_flight(c):
    return parse(c.metrics("metrics-gateway"))["seki_gateway_requests_active", ()]


@pytest.mark.parametrize("model", [1000], indirect=True)
def test_a_tenant_has_so_many_places(cloud, model):
    held = hold(cloud, model)
    wait_for(lambda: in_flight(cloud) == 2, what="the slots to be taken")
    many = hold(cloud, model, 40, "a")
    wait_for(lambda: waiting(cloud) == 40, what="them to wait")
    got = ask(cloud, "a", model)
    assert got.status == 429 and int(got.headers["retry-after"]) >= 1 and got.json()["error"]["code"] == "rate_limit_exceeded"
    # The other tenant waits, and before most of them.
    assert ask(cloud, "b", model).status == 200
    assert waiting(cloud) > 20
    for client in held + many:
        client.sock.close()
    wait_for(lambda: in_flight(cloud) == 0, what="all to be gone")


@pytest.mark.parametrize("model", [300], indirect=True)
def test_a_stream_is_kept_alive_while_it_waits(cloud, model):
    held = hold(cloud, model, 4)
    wait_for(lambda: waiting(cloud) == 2, what="two to wait")
    with RawClient(cloud.address("gateway")) as client:
        client.send(send(cloud, "a", body_of(model, stream=True)))
        assert client.read_head()[0] == 200 and client.read_chunk() == b": keep-alive\n\n"
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
    assert rest.endswith(b"data: [DONE]\n\n") and b"tok0" in rest
    for client in held:
        client.sock.close()


@pytest.mark.parametrize("model", [30], indirect=True)
def test_batch_waits_behind_all_others(cloud, model):
    with Load(cloud, model) as load:
        load.start("b", 6, service_tier="flex")
        wait_for(lambda: waiting(cloud) >= 3, what="the batch to wait")
        load.start("a", 6)
        wait_for(lambda: "a" in load.done, what="the first interactive answer")
        first = len(load.done)
        wait_for(lambda: len(load.done) >= first + 60, what="60 answers")
        # While an interactive one waits, and with six of two slots one always does, no batch request is begun: those that end had been.
        assert collections.Counter(load.done[first:first + 60])["b"] <= 2
        load.stop("a")
        wait_for(lambda: load.done[-20:].count("b") == 20, what="the batch to go on")


@pytest.mark.parametrize("model", [1500], indirect=True)
def test_a_new_replica_serves_who_waits(cloud, model):
    with Load(cloud, model) as load:
        load.start("a", 12)
        wait_for(lambda: waiting(cloud) >= 10, what="them to wait")
        cloud.kubectl("-n", "shop", "scale", "modelendpoint", model, "--replicas=4")
        wait_for(lambda: waiting(cloud) <= 4, what="the new replicas to take them", timeout=60)
        load.stop("a")
    assert not load.failed


def test_the_wait_has_an_end():
    with Cloud(options={"gateway-queue-timeout": "1s"}) as c:
        c.keys = {}
        for tenant in ("shop", "a", "b"):
            c.project(tenant)
        model = endpoint(c, "slow", parallel=1, tokens="1", firstTokenDelayMs="20000")
        held = hold(c, model, 1)
        wait_for(lambda: in_flight(c) == 1, what="the slot to be taken")
        got = ask(c, "a", model)
        assert got.status == 503 and got.json()["error"]["code"] == "engine_overloaded" and got.headers["retry-after"]
        held[0].sock.close()


# ---- where prompts go ----

def test_prompts_go_where_their_beginning_is_cached(cloud):
    model = endpoint(cloud, "wide", replicas=4, parallel=8, tokens="1")
    wait_for(lambda: cloud.get("modelendpoints", "shop", "wide")["status"].get("readyReplicas") == 4, what="four replicas")
    ledger = cloud.data / "ledger"

    def replicas_of(tenant, texts):
        old = len(journal(ledger))
        for text in texts:
            assert ask(cloud, tenant, model, text=text).status == 200
        wait_for(lambda: len(journal(ledger)) >= old + len(texts), what="the records")
        return [r["replica"] for r in journal(ledger)[old:] if r["model"] == model]

    wait_for(lambda: len(set(replicas_of("a", ["x"] * 12))) == 4, what="short prompts on all replicas")
    shared = "You are a helpful assistant of the city of Hiroshima. " * 40
    for prefix in ("one " + shared, "two " + shared, "three " + shared):
        assert len(set(replicas_of("a", [prefix + str(i) for i in range(10)]))) == 1
    # Another tenant's equal prompts know nothing of it: all replicas are as good.
    firsts = {replicas_of("b", [f"{i} four {shared}"])[0] for i in range(40)}
    assert len(firsts) == 4


def test_a_beginning_that_all_ask_for_does_not_herd_them(cloud):
    """One system prompt, 32 clients at once, eight replicas: where it is cached first may get twice its share at most."""
    model = endpoint(cloud, "hot", replicas=8, parallel=8, tokens="4", firstTokenDelayMs="100")
    wait_for(lambda: cloud.get("modelendpoints", "shop", "hot")["status"].get("readyReplicas") == 8, what="eight replicas")
    text = "You are a helpful assistant of the city of Nagasaki. " * 40
    assert ask(cloud, "a", model, text=text).status == 200

    def client():
        for i in range(6):
            assert ask(cloud, "a", model, text=text + str(i)).status == 200
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for f in [pool.submit(client) for _ in range(32)]:
            f.result()
    of_model = lambda: [r["replica"] for r in journal(cloud.data / "ledger") if r["model"] == model]
    wait_for(lambda: len(of_model()) == 193, what="the records")
    counts = collections.Counter(of_model())
    assert max(counts.values()) <= 2 * 193 / 8, counts
