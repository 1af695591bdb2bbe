"""A canary sent down every route, on good days and bad ones: afterwards it is in no file, log, metric, object, ledger, support bundle or core."""
import base64
import os
import pathlib
import re
import signal
import tarfile
import time
import urllib.parse

import pytest

from cloud import Cloud, wait_for
from target import Target
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, post

CANARY = "canary" + os.urandom(12).hex()
TEXT = STREAM_TEXT.replace(b"good", f"good {CANARY}".encode())
SSE = "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/event-stream", f"X-Engine: {CANARY}", "Connection: close", "", ""]).encode()
ROUTES = {
    "chat/completions": {"messages": [{"role": "user", "content": CANARY}], "user": CANARY, "metadata": {CANARY: CANARY}},
    "completions": {"prompt": CANARY, "stop": [CANARY], "suffix": CANARY},
    "embeddings": {"input": [CANARY]},
    "responses": {"input": CANARY, "instructions": CANARY},
    "messages": {"messages": [{"role": "user", "content": CANARY}], "system": CANARY, "max_tokens": 5},
    "messages/count_tokens": {"messages": [{"role": "user", "content": CANARY}], "system": CANARY},
    "rerank": {"query": CANARY, "documents": [CANARY, CANARY]},
}
HEADERS = f"X-Note: {CANARY}\r\nCookie: {CANARY}\r\ntracestate: c={CANARY}\r\n"


def whole(status=200):
    return answer(f'{{"id":"{CANARY}","choices":[{{"message":{{"content":"{CANARY}"}}}}],"usage":{{"prompt_tokens":5,"completion_tokens":1}},"error":{{"message":"{CANARY}","type":"{CANARY}"}}}}'
                  .encode(), status, headers=f"X-Engine: {CANARY}\r\n")


# What engines do with it.
ENGINES = {
    "whole": [whole()], "stream": [SSE, STREAM_ROLE, TEXT, STREAM_USAGE, STREAM_DONE, "close"], "400": [whole(400)], "429": [whole(429)], "500": [whole(500)], "503": [whole(503)],
    "no json": [answer(CANARY.encode())], "bad head": [f"HTTP/1.1 200 {CANARY}\r\n{CANARY}\r\n\r\n".encode(), "close"], "bad chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CANARY.encode() + b"\r\n", "close"],
    "cut": [SSE, STREAM_ROLE, TEXT, "close"], "half": [SSE, STREAM_ROLE, TEXT, TEXT[:60], "close"], "reset": [SSE, STREAM_ROLE, TEXT, "reset"],
}


def metric_is(c, name, value):
    return re.search(rf"^{name} {value}$", c.metrics("metrics-gateway"), re.M)


@pytest.fixture(scope="module")
def sung():
    """The cloud after all that; stopped, its files and what was read of it while it ran."""
    with Cloud(options={"log-level": "debug", "gateway-threads": 1, "gateway-first-byte-timeout": "2s", "gateway-idle-timeout": "2s", "gateway-decision-log-per-million": 1000000}) as c:
        c.upstream = e = Upstream()
        e.tokenizes = True
        c.project("demo")
        for name, more in (("m", {}), ("e", {"embeddings": True})):
            c.create("modelendpoints", "demo", name, {"replicas": 2, "engine": {"driver": "openai", "url": e.url, **more}})
        c.create("modelendpoints", "demo", "v", {"replicas": 1, "engine": {"driver": "vllm", "url": e.url, "remoteModel": "m"}})
        c.fake_endpoint("demo", "one", tokens=100000, tokens_per_second=20)
        for name in ("m", "e", "v"):
            c.wait_condition("modelendpoints", "demo", name)
        key = c.key("demo", limits={"requestsPerMinute": 100000})
        few = c.key("demo", "few", limits={"requestsPerMinute": 1})
        free = c.key("demo", "free")  # of no limit: a new gateway has no share of one until a lease is over
        wait_for(lambda: all(c.gateway_status(f"/models/{m}", k) == 200 for m in ("m", "e", "v", "one") for k in (key, free)), what="the models")
        t = Target(c.address("gateway"), key, "m", e, c)

        def send(path, body, secret=key, sent=None):
            with RawClient(t.address) as client:
                data = post(secret, body, path, HEADERS)
                client.send(data if sent is None else data[:sent])
                if sent is not None:
                    return
                try:
                    client.response()
                except EOFError:
                    pass
        seen = 0
        for path, body in ROUTES.items():
            model = "e" if path == "embeddings" else "m"
            for script in ENGINES.values():
                for stream in (False, True):
                    e.script = script
                    send(path, {"model": model, **body, "stream": stream})
                    seen = max(seen, sum(CANARY.encode() in b for _, b in e.requests))
            # Another replica takes over; a limit refuses; the model is unknown, or the canary itself; the body is cut, and is no JSON; the path and the query have it.
            e.script, e.first[:] = ENGINES["whole"], [["reset"]]
            send(path, {"model": model, **body})
            send(path, {"model": model, **body}, few)
            send(path, {"model": model, **body}, few)
            send(path, {"model": model, **body}, f"sk-seki-{CANARY}")
            send(path, {"model": CANARY, **body})
            send(path, {"model": model, **body}, sent=-10)
            send(path, f'{{"model":"{model}","x":"{CANARY}"'.encode())
            send(path, f'{{"model":"{model}","{CANARY}":'.encode())
            send(f"{path}?x={CANARY}", {"model": model, **body})
            send(f"{path}/{CANARY}", {"model": model, **body})
        e.first[:] = []
        # A stream ends without its usage, and the engine's tokenizer is asked for its text: it tells, it sings, it hangs.
        for tokenizer in ([answer(b'{"count":3}')], [whole()], [answer(CANARY.encode())], ["hold"]):
            e.script = lambda head, _, t=tokenizer: t if b"/tokenize" in head else [SSE, STREAM_ROLE, TEXT, STREAM_DONE, "close"]
            send("chat/completions", {"model": "v", **ROUTES["chat/completions"], "stream": True})
            e.wait(lambda: b"/tokenize" in e.requests[-1][0] and CANARY.encode() in e.requests[-1][1], "the question")
            wait_for(lambda: metric_is(c, "seki_gateway_requests_active", 0), what="the count")
        assert seen > 10, "the canary did sing"
        # It waits for its turn; a client leaves; the gateway is replaced and then killed while streams run.
        chat = {**ROUTES["chat/completions"], "stream": True}
        clients = [RawClient(t.address) for _ in range(6)]
        for client in clients:
            client.send(post(key, {"model": "one", **chat}, headers=HEADERS))
        clients[0].read_until(b"tok1")
        clients[0].close()
        for how in (signal.SIGUSR2, signal.SIGABRT, signal.SIGKILL):
            with RawClient(t.address) as client:
                e.script = [SSE, STREAM_ROLE, TEXT, "hold"]
                client.send(post(free, {"model": "m", **chat}, headers=HEADERS))
                client.read_until(CANARY.encode())
                if how == signal.SIGUSR2:
                    c.process.send_signal(how)
                    wait_for(lambda: "another gateway has taken over" in c.log.read_text(), what="another gateway")
                else:
                    c.kill_role("gateway", how)
                    wait_for(lambda: c.is_ready("metrics-gateway"), what="the gateway to be back")
        for client in clients:
            client.close()
        wait_for(lambda: c.gateway_status("/models/m", key) == 200, what="the gateway to serve")
        texts = {"objects": c.kubectl("get", "seki,events", "-A", "-o", "yaml").stdout, "metrics": c.metrics("metrics-gateway") + c.metrics(),
                 "audit": c.seki("audit", "list", str(c.data / "ledger"), check=False).stdout, "usage": c.seki("-n", "demo", "usage", check=False).stdout}
        bundle = c.dir / "bundle.tar.gz"
        c.seki("support-bundle", f"--data={c.data}", f"--log={c.log}", "--texts", str(bundle))
        c.texts = texts
        c.process.send_signal(signal.SIGINT)
        c.process.wait(120)
        yield c
        e.stop()


def forms(text):
    raw = text.encode()
    return [raw, base64.b64encode(raw)[:-4], urllib.parse.quote(text).encode(), raw.hex().encode(), raw[::-1]]


def test_what_was_read_of_it(sung):
    for what, text in sung.texts.items():
        assert text and CANARY not in text, what


def test_its_files(sung):
    files = [p for p in pathlib.Path(sung.dir).rglob("*") if p.is_file()]
    assert any("usage-gateway" in p.name for p in files) and any(p.name == "sekid.log" for p in files)
    assert any(p.name == "decisions-gateway.jsonl" and p.stat().st_size > 10000 for p in files)
    found = [(str(p), form[:20], [line[:300] for line in data.split(b"\n") if form in line][:2]) for p in files for data in [p.read_bytes()] for form in forms(CANARY) if form in data]
    assert not found, found


def test_no_core_is_left(sung):
    places = [pathlib.Path.cwd(), sung.dir, sung.data, pathlib.Path("/var/crash"), pathlib.Path("/var/lib/systemd/coredump")]
    assert not [p for place in places if place.exists() for p in place.glob("core*") if p.stat().st_mtime > time.time() - 600 and p.is_file()]


def test_the_support_bundle(sung):
    with tarfile.open(sung.dir / "bundle.tar.gz") as tar:
        parts = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    assert len(parts) > 10 and not [name for name, text in parts.items() if CANARY.encode() in text]
