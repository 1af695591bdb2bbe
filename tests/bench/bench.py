"""make bench: measures the release build and prints tables. Never a test: nothing here passes or fails.

The mark for the API is kube-apiserver 1.37 with etcd 3.7 on two cores with the same load (wrk, 32 TLS connections, ConfigMaps of about 700 bytes).
"""
import hashlib
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from cloud import FAKE_ENGINE, Cloud, wait_for  # noqa: E402

HERE = pathlib.Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
SECONDS = int(os.environ.get("BENCH_SECONDS", "8"))
TOKEN = "bench-token-of-no-value"


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mib(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def wrk(url, script, connections, threads=1, **env):
    p = subprocess.run(["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{SECONDS}s", "-s", str(HERE / script), url],
                       capture_output=True, text=True, env={**os.environ, "BENCH_TOKEN": TOKEN, **env}, timeout=SECONDS + 60)
    line = next((x for x in p.stdout.splitlines() if x.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"wrk failed: {p.stdout}{p.stderr}")
    n, us, errors, p99, p50 = map(int, line.split()[1:])
    if errors or not n:
        raise SystemExit(f"{errors} of {n} requests to {url} ({script}) failed: that is no measurement")
    return {"n": n, "per_s": n / (us / 1e6), "p50_ms": p50 / 1000, "p99_ms": p99 / 1000}


def measured(pid, *args, **env):
    """wrk's result, and the CPU that process pid spent on each request, ms."""
    before = cpu(pid)
    r = wrk(*args, **env)
    return {**r, "cpu_ms": (cpu(pid) - before) / r["n"] * 1000}


def syncs_per_s(directory, seconds=2):
    """What the disk allows: small writes, each made durable before the next, as a log is written."""
    path = pathlib.Path(directory) / "syncs"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        block, at, times = b"x" * 4096, 0, []
        os.pwrite(fd, b"\0" * (16 * 2**20), 0)
        os.fsync(fd)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            os.pwrite(fd, block, at % (16 * 2**20))
            os.fdatasync(fd)
            times.append(time.monotonic() - begun)
            at += len(block)
        times.sort()
        return len(times) / seconds, times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000
    finally:
        os.close(fd)
        path.unlink()


def table(title, heads, rows):
    print(f"\n{title}\n")
    widths = [max(len(str(r[i])) for r in [heads, *rows]) for i in range(len(heads))]
    for i, row in enumerate([heads, *rows]):
        print("| " + " | ".join(str(c).ljust(w) if j == 0 else str(c).rjust(w) for j, (c, w) in enumerate(zip(row, widths))) + " |")
        if i == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")


def load_rows(what, connections, r, mark=None):
    """Two rows of the API's table; mark: requests/s and CPU of what we are compared with."""
    return [[f"{what}/s, {connections} connection{'s' * (connections > 1)}", f"{r['per_s']:.0f}", f"{r['p50_ms']:.2f}", f"{r['p99_ms']:.2f}",
             str(mark[0]) if mark else "", f"{r['per_s'] / mark[0]:.1f} x" if mark else ""],
            ["  CPU each, ms", f"{r['cpu_ms']:.3f}", "", "", f"{mark[1]:.2f}" if mark else "", f"1/{mark[1] / r['cpu_ms']:.1f}" if mark else ""]]


def api_bench(cloud, start_s):
    pid = cloud.role_pid("control")
    cloud.project("bench")
    rows = [["start to ready, s", f"{start_s:.2f}", "", "", "4.6", f"{4.6 / start_s:.0f} x"],
            ["resident when idle, MiB (control)", f"{rss_mib(pid):.1f}", "", "", "419", f"{419 / rss_mib(pid):.0f} x"]]
    before = cpu(pid)
    time.sleep(5)
    idle = (cpu(pid) - before) / 5 * 100
    rows.append(["idle, % of a core", f"{idle:.2f}", "", "", "2.7", ""])
    syncs, p50, p99 = syncs_per_s(cloud.data)
    rows.append(["physical limit: syncs/s of this disk, one after another", f"{syncs:.0f}", f"{p50:.2f}", f"{p99:.2f}", "", ""])
    rows += load_rows("durable creates", 1, measured(pid, cloud.api_url, "create.lua", 1, BENCH_RUN="c1"))
    rows += load_rows("durable creates", 32, measured(pid, cloud.api_url, "create.lua", 32, BENCH_RUN="c32"), (778, 1.77))
    first = cloud.api("GET", "/api/v1/namespaces/bench/configmaps?limit=1")["items"][0]["metadata"]["name"]
    path = f"/api/v1/namespaces/bench/configmaps/{first}"
    rows += load_rows("gets", 1, measured(pid, cloud.api_url, "get.lua", 1, BENCH_PATH=path))
    rows += load_rows("gets", 32, measured(pid, cloud.api_url, "get.lua", 32, BENCH_PATH=path), (1975, 0.70))
    table("Resource API against kube-apiserver 1.37 + etcd 3.7 (mark measured on two cores)", ["", "Seki", "p50, ms", "p99, ms", "mark", "ratio"], rows)


def list_bench(cloud):
    cloud.project("many")
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "x" * 480}}
    for i in range(8000):
        cloud_post(cloud, "/api/v1/namespaces/many/configmaps", {**obj, "metadata": {"name": f"m{i}"}})
    times = []
    for _ in range(5):
        begun = time.monotonic()
        size = len(cloud.api("GET", "/api/v1/namespaces/many/configmaps", raw=True))
        times.append(time.monotonic() - begun)
    pid = cloud.role_pid("control")
    table("List", ["", "Seki", "mark"], [["8,000 objects, s (median of 5)", f"{sorted(times)[2]:.3f}", "0.25 (7,800)"], ["  slowest of 5", f"{max(times):.3f}", ""], ["size, MB", f"{size / 1e6:.1f}", "11.6"],
                                         ["resident then, MiB", f"{rss_mib(pid):.1f}", "419"]])


_conn = {}


def cloud_post(cloud, path, body):
    """A POST on one kept connection: 8,000 objects are made for a benchmark, not measured."""
    import http.client
    c = _conn.get("c")
    if c is None:
        context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        host, port = cloud.address("api").rsplit(":", 1)
        c = _conn["c"] = http.client.HTTPSConnection(host, int(port), context=context)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"})
    r = c.getresponse()
    r.read()
    if r.status != 201:
        raise SystemExit(f"create answered {r.status}")


def watch_bench(cloud, watchers=1000):
    """Time from a write's answer until all watchers have its event."""
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    host, port = cloud.address("api").rsplit(":", 1)
    socks = []
    import selectors
    sel = selectors.DefaultSelector()
    rv = cloud.api("GET", "/api/v1/namespaces/bench/configmaps?limit=1")["metadata"]["resourceVersion"]
    for _ in range(watchers):
        s = context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host)
        s.sendall(f"GET /api/v1/namespaces/bench/configmaps?watch=1&resourceVersion={rv} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        s.setblocking(False)
        sel.register(s, selectors.EVENT_READ)
        socks.append(s)
    pid = cloud.role_pid("control")
    seen, want, times = {s: b"" for s in socks}, 0, []
    before = cpu(pid)
    rounds = 10
    for i in range(rounds):
        name = f"fan-{i}"
        begun = time.monotonic()
        cloud_post(cloud, "/api/v1/namespaces/bench/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x" * 480}})
        left = set(socks)
        while left:
            for key, _ in sel.select(timeout=10) or [(None, None)]:
                if key is None:
                    raise SystemExit(f"{len(left)} watchers saw nothing for 10 s")
                s = key.fileobj
                try:
                    while True:
                        piece = s.recv(65536)
                        if not piece:
                            raise SystemExit("a watch ended")
                        seen[s] = (seen[s] + piece)[-4096:]
                except (ssl.SSLWantReadError, BlockingIOError):
                    pass
                if name.encode() in seen[s]:
                    left.discard(s)
        times.append(time.monotonic() - begun)
    used = (cpu(pid) - before) / rounds / watchers * 1e6
    table("Watch", ["", "Seki"], [[f"one write to {watchers} watchers (TLS), ms (median of {rounds})", f"{sorted(times)[rounds // 2] * 1000:.0f}"], ["  slowest", f"{max(times) * 1000:.0f}"],
                                  ["CPU per event and watcher, us", f"{used:.1f}"], ["resident then, MiB", f"{rss_mib(pid):.1f}"]])
    for s in socks:
        s.close()


def gateway_bench(cloud):
    """Added latency and CPU against the same engine called directly over TCP."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    engine = subprocess.Popen([str(FAKE_ENGINE), "--listen", f"127.0.0.1:{port}", "--tokens", "4", "--tokens-per-second", "0"], stdout=subprocess.DEVNULL)
    try:
        cloud.project("gw")
        cloud.create("modelendpoints", "gw", "fake", {"engine": {"driver": "openai", "url": f"http://127.0.0.1:{port}/v1"}})
        cloud.wait_condition("modelendpoints", "gw", "fake")
        key = cloud.key("gw")
        wait_for(lambda: cloud.gateway_status("/models/fake", key) == 200, what="the model")
        pid = cloud.role_pid("gateway")
        rows = []
        for connections in (1, 64):
            direct = wrk(f"http://127.0.0.1:{port}", "chat.lua", connections, BENCH_PATH="/v1/chat/completions")
            ours = measured(pid, f"http://{cloud.address('gateway')}", "chat.lua", connections, BENCH_PATH="/v1/chat/completions", BENCH_TOKEN=key)
            rows.append([f"{connections} connections", f"{direct['per_s']:.0f}", f"{ours['per_s']:.0f}", f"{ours['p50_ms'] - direct['p50_ms']:.3f}", f"{ours['p99_ms'] - direct['p99_ms']:.3f}", f"{ours['cpu_ms'] * 1000:.1f}"])
        table("Gateway, non-streaming, against the same engine called directly", ["", "direct req/s", "through us req/s", "added p50, ms", "added p99, ms", "CPU ms per 1,000"], rows)
        print(f"\ngateway resident: {rss_mib(pid):.1f} MiB")
    finally:
        engine.kill()
        engine.wait()


def main():
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed: apt-get install wrk")
    directory = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    tokens = directory / "tokens"
    tokens.write_text(f"{hashlib.sha256(TOKEN.encode()).hexdigest()} bench system:masters\n")
    cloud = Cloud(directory=directory, options={"api-token-file": tokens, "log-level": "warn", "gateway-threads": 1})
    begun = time.monotonic()
    try:
        cloud.start()
        start_s = time.monotonic() - begun
        print(f"{os.cpu_count()} CPUs, kernel {os.uname().release.split('-')[0]}, {SECONDS} s a measurement; load and server share the machine")
        parts = sys.argv[1:] or ["api", "list", "watch", "gateway"]
        if "api" in parts or "watch" in parts:
            api_bench(cloud, start_s)
        if "list" in parts:
            list_bench(cloud)
        if "watch" in parts:
            watch_bench(cloud)
        if "gateway" in parts:
            gateway_bench(cloud)
    finally:
        cloud.stop()
        shutil.rmtree(directory, ignore_errors=True)


main()
