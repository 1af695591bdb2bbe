"""The count through kills: gateway, control and engines are killed at random under load, and of each request the ledger tells what the engines made, as they themselves wrote it down."""
import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from cloud import SEKI, ApiError, wait_for
from test_metering import totals
from wire import RawClient, journal, post

PROMPT = "a b c d e f g h i j"  # ten tokens of the fake; the gateway's estimate is below that
WORDS, TOKENS = 10, 40
TERMS = ("prompt_tokens", "completion_tokens", "hedge_loser_tokens", "replayed_tokens", "unseen_tokens")


class Seen:
    """What a client got of one request."""

    def __init__(self):
        self.text, self.whole = b"", False


def client_loop(cloud, secret, stop, seen, lock):
    while not stop.is_set():
        mine, request_id = Seen(), None
        try:
            with RawClient(cloud.address("gateway")) as client:
                client.send(post(secret, {"model": "fake", "prompt": PROMPT, "stream": True}, "completions"))
                status, headers = client.read_head()
                request_id = headers["x-request-id"]
                if status != 200:
                    client.read_body(status, headers)
                    continue
                while chunk := client.read_chunk():
                    mine.text += chunk
                mine.whole = b"data: [DONE]" in mine.text
        except (OSError, EOFError, FileNotFoundError, ValueError):
            time.sleep(0.01)  # nobody listens: it is being started
        finally:
            if request_id:
                with lock:
                    seen[request_id] = mine


def engine_pids(cloud):
    try:
        replicas = cloud.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/modelreplicas")["items"]
    except (OSError, ApiError, FileNotFoundError):
        return []
    return [pid for r in replicas if (pid := r.get("status", {}).get("pid")) and b"fake_engine" in cmdline(pid)]


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def kill_one(cloud, rng, what):
    if what != "engine":
        cloud.kill_role(what)
    else:
        os.kill(rng.choice(wait_for(lambda: engine_pids(cloud), 60, "an engine that runs")), signal.SIGKILL)


def made_by_engines(log):
    """{request: [read, written]} as the engines wrote it down."""
    made = collections.defaultdict(lambda: [0, 0])
    for line in log.read_text().splitlines():
        request_id, kind, count = line.split(" ")
        made[request_id][kind == "written"] += int(count)
    return made


def check(records, made, seen):
    by_id = collections.Counter(r["id"] for r in records)
    assert max(by_id.values()) == 1, [i for i, n in by_id.items() if n > 1]
    of = {r["id"]: r for r in records}
    lost = [i for i in made if i.startswith("req-") and i not in of]
    assert not lost, f"{len(lost)} requests that reached an engine have no record: {lost[:3]}"
    for r in records:
        assert sum(e["read"] + e["written"] for e in r["engines"]) == sum(r[k] for k in TERMS), r
        read, written = made.get(r["id"], [0, 0])
        billed = r["completion_tokens"] + r["hedge_loser_tokens"] + r["unseen_tokens"]
        assert billed <= written and r["prompt_tokens"] <= read or not r["prompt_tokens"], (r, read, written)
        if all(e["exact"] for e in r["engines"]):
            assert (sum(e["read"] for e in r["engines"]), sum(e["written"] for e in r["engines"])) == (read, written), r
    for request_id, s in seen.items():
        r, got = of.get(request_id), s.text.count(b'"text": "') + s.text.count(b'"text":"tok') + s.text.count(b'"text":" tok')
        if s.whole:
            assert r["exact"] and (r["prompt_tokens"], r["completion_tokens"], got) == (WORDS, TOKENS, TOKENS), (r, got)
        elif got:
            assert got <= r["completion_tokens"], (r, got)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [pytest.param(6, id="six"), pytest.param(100, id="hundred", marks=pytest.mark.full)])
def test_the_equation_holds_through_kills(own_cloud, kills):
    cloud = own_cloud(options={"gateway-threads": 1, "log-level": "info"})
    rng = random.Random(kills)
    cloud.project("demo")
    log = cloud.dir / "tokens"
    cloud.fake_endpoint("demo", "fake", replicas=2, tokens=TOKENS, tokens_per_second=400, token_log=str(log))
    secret = cloud.key("demo")
    stop, lock, seen = threading.Event(), threading.Lock(), {}
    clients = [threading.Thread(target=client_loop, args=(cloud, secret, stop, seen, lock)) for _ in range(6)]
    for c in clients:
        c.start()
    killed = collections.Counter()

    def answered():
        with lock:
            return sum(bool(s.text) for s in seen.values())
    try:
        for what in rng.sample(["gateway"] * (kills // 2) + ["engine"] * (kills // 4) + ["control"] * (kills - kills // 2 - kills // 4), kills):
            target = answered() + rng.randint(1, 6)
            wait_for(lambda: answered() >= target, 60, "answers")
            kill_one(cloud, rng, what)
            killed[what] += 1
    finally:
        stop.set()
        for c in clients:
            c.join()
    cloud.wait_ready(60)
    ledger = cloud.data / "ledger"
    made = made_by_engines(log)
    records = journal(ledger)
    assert kills < 50 or any(r["outcome"] == "killed" and r["completion_tokens"] for r in records)
    check(records, made, seen)
    wait_for(lambda: totals(cloud)["requests"] == len(records), 30, f"{len(records)} requests in the reports")
    assert totals(cloud)["completionTokens"] == sum(r["completion_tokens"] for r in records)
    reports = cloud.dir / "reports.json"
    reports.write_text(cloud.seki("usage", "-A", "-o", "json").stdout)
    copy = shutil.copytree(ledger, cloud.dir / "copy")
    p = subprocess.run([str(SEKI), "usage", "verify", str(copy), "--reports", str(reports)], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    engines = sum(map(sum, made.values()))
    counted = sum(e["read"] + e["written"] for r in records for e in r["engines"])
    print(f"{kills} kills {dict(killed)}: {len(records)} requests, {sum(s.whole for s in seen.values())} whole, {sum(r['outcome'] == 'killed' for r in records)} killed; "
          f"engines made {engines} tokens, {counted} are in records, {engines - counted} of attempts that were cut")
