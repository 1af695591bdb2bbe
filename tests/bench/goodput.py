"""What users feel: requests that meet their targets per engine-second, behind several gateways, on the same simulated engines (engines.py).

  make bench-goodput ARGS="--seconds 20 --rounds 3 --systems seki,seki-load,seki-turns,vllm-router --loads shared,turns"

A request counts when it ends well, its first token came within TTFT_S, and its tokens on average every ITL_S. Arrivals come at random times that are the same for every system (the seed is
the round's number), at a rate that a good choice of replicas can serve and a bad one can not. Loads:

  shared    a long beginning that many share (one of PREFIXES, some more popular than others), a short question
  turns     conversations: each turn is all that was said before and something new
  uniform   prompts that have nothing in common
  greedy    two tenants; one sends ten times as much as the other. Only the modest one's requests count
  slow      as shared, and one of the engines takes three times as long
  dying     as shared, and one of the engines dies after a third of the time

Systems besides Seki are routers whose virtual environments GWBENCH_HOME has (venv/sglang, venv/smg, venv/vllm); what is not there is left out. Seki runs with everything on: keys of two
tenants, limits, durable journal. It is told that an engine works on 8 at a time (maxConcurrentRequests), as an operator would.
On a machine that is busy with other work, --stretch 2 makes everything last twice as long, the targets too, so that half as much is asked of it; goodput is per engine-second of the model.
"""
import argparse
import asyncio
import itertools
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

TTFT_S, ITL_S, ENGINES, ANSWER, PREFIXES = 1.0, 0.05, 4, 48, 24
STRETCH = 1.0
WORDS = "network mast antenna ticket order invoice router cable tariff roaming switch packet budget report".split()
RATES = {"shared": 16.0, "turns": 5.5, "uniform": 22.0, "greedy": 40.0, "slow": 12.0, "dying": 12.0}  # a second; of conversations for turns
PEERS = {
    "sglang-router": ("sglang", ["bin/python", "-m", "sglang_router.launch_router", "--policy", "cache_aware"]),
    "smg": ("smg", ["bin/smg", "launch", "--policy", "cache_aware"]),
    "vllm-router": ("vllm", ["bin/vllm-router", "--policy", "cache_aware"]),
}


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def text_of(r, tokens):
    """Words of eight bytes, the space included: two tokens each."""
    return " ".join(f"{r.choice(WORDS)[:4]}{r.randrange(1000):03d}" for _ in range(tokens // 2))


def plan(load, seconds, seed):
    """[(when, tenant, [messages of each turn])]"""
    r = random.Random(f"{load} {seed}")
    prefixes = [text_of(r, 2400) for _ in range(PREFIXES)]
    weights = [1 / (i + 4) for i in range(PREFIXES)]
    out, now = [], 0.0  # in seconds of the model
    while True:
        now += r.expovariate(RATES[load])
        if now > seconds:
            return out
        if load in ("shared", "slow", "dying"):
            out.append((now, 0, [[("system", r.choices(prefixes, weights)[0]), ("user", text_of(r, 80))]]))
        elif load == "turns":
            turns = [("user", text_of(r, 700))]
            whole = []
            for _ in range(5):
                whole.append(list(turns))
                turns += [("assistant", text_of(r, ANSWER)), ("user", text_of(r, 250))]
            out.append((now, 0, whole))
        elif load == "uniform":
            out.append((now, 0, [[("user", text_of(r, 500))]]))
        else:
            out.append((now, int(r.random() < 1 / 11), [[("user", text_of(r, 500))]]))


class Result:
    def __init__(self):
        self.sent = self.good = self.failed = 0
        self.ttft, self.itl = [], []


async def ask(url, headers, messages, result):
    host, port = url
    body = json.dumps({"model": "m", "max_tokens": ANSWER, "stream": True, "messages": [{"role": a, "content": b} for a, b in messages]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    result.sent += 1
    begun, first, last, count, done = time.monotonic(), None, None, 0, False
    writer = None
    try:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
            writer.write(head.encode() + body)
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            while status == b"200" and (line := await reader.readline()):
                if line.startswith(b"data:"):
                    if b'"content":"' in line.replace(b'": "', b'":"') and b'"content":""' not in line:
                        last = time.monotonic()
                        first = first or last
                        count += 1
                    done |= b"[DONE]" in line
                    if done:
                        break
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError):
        pass
    finally:
        if writer:
            writer.close()
    if not done or count < ANSWER:
        result.failed += 1
        return False
    ttft, itl = first - begun, (last - first) / max(count - 1, 1)
    result.ttft.append(ttft)
    result.itl.append(itl)
    result.good += ttft <= TTFT_S * STRETCH and itl <= ITL_S * STRETCH
    return True


async def drive(load, seconds, seed, url, headers):
    """Results by tenant."""
    results = [Result(), Result()]
    begun = time.monotonic()

    async def one(when, tenant, turns):
        await asyncio.sleep(max(0, begun + when * STRETCH - time.monotonic()))
        for messages in turns:
            if time.monotonic() - begun > seconds * STRETCH or not await ask(url, headers[tenant], messages, results[tenant]):
                return
            if len(turns) > 1:
                await asyncio.sleep(0.5 * STRETCH)
    await asyncio.gather(*(one(*p) for p in plan(load, seconds, seed)))
    return results


class Engines:
    def __init__(self, load, seconds, log):
        self.ports = free_ports(ENGINES)
        command = [sys.executable, str(ROOT / "tests" / "bench" / "engines.py"), "--ports", ",".join(map(str, self.ports)), "--stretch", str(STRETCH)]
        if load == "slow":
            command += ["--slow", f"{self.ports[0]}:3"]
        if load == "dying":
            command += ["--die", f"{self.ports[0]}:{seconds / 3 * STRETCH}"]
        if log:
            command += ["--log", str(log)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def cached(self):
        import urllib.request
        total = hit = 0
        for p in self.ports:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{p}/stats", timeout=5) as r:
                    s = json.load(r)
                    total, hit = total + s["prompt"], hit + s["cached"]
            except OSError:
                pass
        return hit / total if total else 0

    def stop(self):
        self.process.kill()
        self.process.wait()


class Seki:
    def __init__(self, ports, routing, directory, hedging=True):
        from cloud import Cloud, wait_for
        self.cloud = c = Cloud(options={"gateway-threads": 1, "log-level": "warn", "gateway-routing": routing, "gateway-hedging": str(hedging).lower()}, directory=directory)
        try:
            c.start()
            for t in ("one", "two"):
                c.project(t)
            c.create("modelendpoints", "one", "m", {"replicas": len(ports), "visibility": "Everyone", "engine": {"driver": "openai", "maxConcurrentRequests": 8},
                                                    "servers": [{"url": f"http://127.0.0.1:{p}/v1"} for p in ports]})
            c.wait_condition("modelendpoints", "one", "m")
            keys = [c.key(t, limits={"requestsPerMinute": 10**9, "tokensPerMinute": 10**10, "concurrentRequests": 10**6}) for t in ("one", "two")]
            for k in keys:
                wait_for(lambda k=k: c.gateway_status("/models/m", k) == 200, what="the snapshot")
        except BaseException:
            c.stop()
            raise
        host, port = c.address("gateway").rsplit(":", 1)
        self.url, self.headers = (host, int(port)), [f"Authorization: Bearer {k}\r\n" for k in keys]

    def stop(self):
        self.cloud.stop()


class Router:
    def __init__(self, name, ports, directory):
        venv, command = PEERS[name]
        port, metrics = free_ports(2)
        home = pathlib.Path(os.environ["GWBENCH_HOME"]) / "venv" / venv
        self.log = open(pathlib.Path(directory) / f"{name}.log", "wb")
        self.process = subprocess.Popen([str(home / command[0]), *command[1:], "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *(f"http://127.0.0.1:{p}" for p in ports),
                                         "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics), "--log-level", "warn" if venv != "vllm" else "warning"],
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        self.url, self.headers = ("127.0.0.1", port), ["", ""]
        until = time.monotonic() + 30
        while not asyncio.run(ask(self.url, "", [("user", "hello")], Result())):
            if time.monotonic() > until or self.process.poll() is not None:
                self.stop()
                raise RuntimeError(f"{name} does not answer")
            time.sleep(0.3)

    def stop(self):
        import signal
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


def run(system, load, seconds, seed, log=None):
    directory = tempfile.mkdtemp(prefix="seki-goodput-")
    engines = Engines(load, seconds, log)
    try:
        s = Seki(engines.ports, {"seki-load": "load", "seki-turns": "turns"}.get(system, "prefix"), directory, system != "seki-unhedged") if system.startswith("seki") else Router(system, engines.ports, directory)
        try:
            results = asyncio.run(drive(load, seconds, seed, s.url, s.headers))
        finally:
            s.stop()
        r = results[1] if load == "greedy" else results[0]
        p50 = statistics.median(r.ttft) if r.ttft else float("nan")
        return {"goodput": r.good / seconds / ENGINES, "good": r.good / max(r.sent, 1), "failed": r.failed, "ttft": p50, "itl": statistics.median(r.itl) if r.itl else float("nan"), "cached": engines.cached()}
    finally:
        engines.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    global STRETCH
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--systems", default="seki,seki-load,seki-turns,sglang-router,smg,vllm-router")
    p.add_argument("--loads", default=",".join(RATES))
    p.add_argument("--log", type=pathlib.Path, help="a directory: what each engine was sent, a file LOAD-ROUND-SYSTEM.jsonl each (engines.py)")
    p.add_argument("--stretch", type=float, default=1)
    a = p.parse_args()
    STRETCH = a.stretch
    home = os.environ.get("GWBENCH_HOME")
    systems = [s for s in a.systems.split(",") if s.startswith("seki") or home and (pathlib.Path(home) / "venv" / PEERS[s][0]).exists()]
    got = {}
    for load, seed, system in itertools.product(a.loads.split(","), range(a.rounds), systems):
        try:
            r = run(system, load, a.seconds, seed, a.log and a.log / f"{load}-{seed}-{system}.jsonl")
        except RuntimeError as e:
            print(f"{load} #{seed}: {e}: left out", file=sys.stderr, flush=True)
            continue
        got.setdefault((load, system), []).append(r)
        print(f"{load} #{seed} {system}: " + " ".join(f"{k} {v:.2f}" for k, v in r.items()), file=sys.stderr, flush=True)
    print(f"{ENGINES} engines, {a.seconds:.0f} s, medians of {a.rounds} rounds\n\n| load | system | goodput, requests per engine-second | in time | failed | TTFT p50, s | between tokens p50, ms | prompt tokens cached |\n|---|---|--:|--:|--:|--:|--:|--:|")
    for (load, system), rs in got.items():
        m = {k: statistics.median(r[k] for r in rs) for k in rs[0]}
        print(f"| {load} | {system} | {m['goodput']:.2f} | {100 * m['good']:.0f} % | {m['failed']:.0f} | {m['ttft']:.2f} | {1000 * m['itl']:.0f} | {100 * m['cached']:.0f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
