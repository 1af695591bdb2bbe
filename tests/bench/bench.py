"""make bench: measures the release build and prints tables. Never a test: nothing here passes or fails.

With KUBE_BIN=DIR, a directory with kube-apiserver and etcd, the same work is done on them in the same run, item by item. Without, the table has the marks: the same load
(wrk, 32 TLS connections, ConfigMaps of about 700 bytes) on kube-apiserver 1.37 with etcd 3.7 and two cores, measured at another time.
"""
import os
import pathlib
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

from servers import TOKEN, Kubernetes, Seki, cpu, free_port, rss_mib
from cloud import FAKE_ENGINE, wait_for

HERE = pathlib.Path(__file__).parent
SECONDS = int(os.environ.get("BENCH_SECONDS", "8"))
OBJECTS = 1000      # that gets, updates and applies go over
LISTED = 8000
WATCHERS = 1000
MAPS = "/api/v1/namespaces/bench/configmaps"
MARKS = {"start": 4.6, "idle RSS": 419, "idle CPU": 2.7, "create 32": (778, 1.77), "get 32": (1975, 0.70), "list": 0.25}


def wrk(url, script, connections, **env):
    p = subprocess.run(["wrk", "-t", "1", "-c", str(connections), "-d", f"{SECONDS}s", "-s", str(HERE / script), url],
                       capture_output=True, text=True, env={**os.environ, "BENCH_TOKEN": TOKEN, **env}, timeout=SECONDS + 60)
    line = next((x for x in p.stdout.splitlines() if x.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"wrk failed: {p.stdout}{p.stderr}")
    n, us, errors, p99, p50 = map(int, line.split()[1:])
    if errors or not n:
        raise SystemExit(f"{errors} of {n} requests to {url} ({script}) failed: that is no measurement")
    return {"n": n, "per_s": n / (us / 1e6), "p50_ms": p50 / 1000, "p99_ms": p99 / 1000}


def measured(spent, *args, **env):
    """wrk's result, and what spent() says of CPU seconds, in ms a request."""
    before = spent()
    r = wrk(*args, **env)
    return {**r, "cpu_ms": (spent() - before) / r["n"] * 1000}


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
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|", flush=True)


def against(servers):
    """The heads of a table that compares."""
    return ["", *(s.name for s in servers), *(["mark"] if len(servers) == 1 else []), "ratio"]


def row(what, values, mark=None, form="{:.2f}", more=False):
    """Cells of a comparing table; more: a larger figure is the better one."""
    other = values[1] if len(values) > 1 else mark
    ours = values[0]
    ratio = "" if not other or not ours else f"{ours / other:.1f} x" if more else f"1/{other / ours:.1f}"
    return [what, *(form.format(v) for v in values), *([""] if len(values) == 1 and mark is None else [form.format(mark)] if len(values) == 1 else []), ratio]


def prepare(server):
    server.ask("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}})
    for i in range(OBJECTS):
        server.ask("POST", MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"o{i}"}, "data": {"k": "x" * 480, "v": "0"}})


def api_bench(servers, directory):
    rows = [row("start to ready, s", [s.start_s for s in servers], MARKS["start"]),
            row("resident when idle, MiB", [s.rss_mib() for s in servers], MARKS["idle RSS"], "{:.1f}")]
    before = [s.cpu() for s in servers]
    time.sleep(5)
    rows.append(row("idle, % of a core", [(s.cpu() - b) / 5 * 100 for s, b in zip(servers, before)], MARKS["idle CPU"]))
    for s in servers:
        prepare(s)
    for work in ("create", "update", "get", "apply"):
        for connections in (1, 32):
            r = [measured(s.cpu, s.url, "objects.lua", connections, BENCH_WORK=work, BENCH_RUN=f"{work}{connections}", BENCH_OBJECTS=str(OBJECTS)) for s in servers]
            mark = MARKS.get(f"{work} {connections}", (None, None))
            what = f"{'' if work == 'get' else 'durable '}{work}, {connections} connection{'s' * (connections > 1)}"
            rows += [row(f"{what}: requests/s", [x["per_s"] for x in r], mark[0], "{:,.0f}", more=True), row("  CPU each, ms", [x["cpu_ms"] for x in r], mark[1], "{:.3f}"),
                     row("  p50, ms", [x["p50_ms"] for x in r]), row("  p99, ms", [x["p99_ms"] for x in r])]
    table("Resource API, ConfigMaps of about 700 bytes over TLS", against(servers), rows)
    syncs, p50, p99 = syncs_per_s(directory)
    print(f"\nthe disk's own limit: {syncs:,.0f} syncs/s, one after another (p50 {p50:.2f} ms, p99 {p99:.2f} ms)")


def list_bench(servers):
    times, size = [], []
    for s in servers:
        s.ask("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}})
        for i in range(LISTED):
            s.ask("POST", "/api/v1/namespaces/many/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"m{i}"}, "data": {"k": "x" * 480}})
        own = []
        before = s.cpu()
        for _ in range(9):
            begun = time.monotonic()
            length = len(s.ask("GET", "/api/v1/namespaces/many/configmaps"))
            own.append(time.monotonic() - begun)
        times.append((sorted(own)[4], max(own), (s.cpu() - before) / 9 * 1000))
        size.append(length / 1e6)
    table(f"List of {LISTED:,} objects", against(servers), [row("median of 9, s", [t[0] for t in times], MARKS["list"], "{:.3f}"), row("slowest, s", [t[1] for t in times], None, "{:.3f}"),
          row("CPU each, ms", [t[2] for t in times], None, "{:.0f}"), row("size, MB", size, None, "{:.1f}"), row("resident then, MiB", [s.rss_mib() for s in servers], None, "{:.1f}")])


def fan_out(server, rounds=10):
    """Time from a write's beginning until all watchers have its event: median, slowest; CPU us an event and watcher; resident MiB."""
    sel, socks = selectors.DefaultSelector(), []
    context = server.context()
    for _ in range(WATCHERS):
        s = context.wrap_socket(socket.create_connection((server.host, server.port)), server_hostname=server.host)
        s.sendall(f"GET {MAPS}?watch=1&fieldSelector=metadata.name%3Dfan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        s.setblocking(False)
        sel.register(s, selectors.EVENT_READ)
        socks.append(s)
    seen, times = {s: b"" for s in socks}, []

    def until_all_saw(text):
        left = set(socks)
        while left:
            for key, _ in sel.select(timeout=10) or [(None, None)]:
                if key is None:
                    raise SystemExit(f"{server.name}: {len(left)} watchers saw nothing for 10 s")
                s = key.fileobj
                try:
                    while True:
                        piece = s.recv(65536)
                        if not piece:
                            raise SystemExit(f"{server.name}: a watch ended: {seen[s][-300:]!r}")
                        seen[s] = (seen[s] + piece)[-4096:]
                except (ssl.SSLWantReadError, BlockingIOError):
                    pass
                if text in seen[s]:
                    left.discard(s)

    server.ask("POST", MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fan"}, "data": {"k": "first"}})
    until_all_saw(b"first")
    before = server.cpu()
    for i in range(rounds):
        begun = time.monotonic()
        server.ask("PUT", f"{MAPS}/fan", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fan"}, "data": {"k": "x" * 480, "round": f"round-{i};"}})
        until_all_saw(f"round-{i};".encode())
        times.append(time.monotonic() - begun)
    used = (server.cpu() - before) / rounds / WATCHERS * 1e6
    memory = server.rss_mib()
    for s in socks:
        s.close()
    return sorted(times)[rounds // 2] * 1000, max(times) * 1000, used, memory


def watch_bench(servers):
    r = [fan_out(s) for s in servers]
    table(f"Watch: one write to {WATCHERS:,} watchers over TLS", against(servers), [row("until the last has it, ms (median of 10)", [x[0] for x in r], None, "{:.0f}"), row("slowest, ms", [x[1] for x in r], None, "{:.0f}"),
          row("CPU an event and watcher, us", [x[2] for x in r], None, "{:.1f}"), row("resident then, MiB", [x[3] for x in r], None, "{:.1f}")])


def gateway_bench(cloud):
    """Added latency and CPU against the same engine called directly over TCP."""
    port = free_port()
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
            ours = measured(lambda: cpu(pid), f"http://{cloud.address('gateway')}", "chat.lua", connections, BENCH_PATH="/v1/chat/completions", BENCH_TOKEN=key)
            rows.append([f"{connections} connections", f"{direct['per_s']:.0f}", f"{ours['per_s']:.0f}", f"{ours['p50_ms'] - direct['p50_ms']:.3f}", f"{ours['p99_ms'] - direct['p99_ms']:.3f}", f"{ours['cpu_ms'] * 1000:.1f}"])
        table("Gateway, non-streaming, against the same engine called directly", ["", "direct req/s", "through us req/s", "added p50, ms", "added p99, ms", "CPU ms per 1,000"], rows)
        print(f"\ngateway resident: {rss_mib(pid):.1f} MiB")
    finally:
        engine.kill()
        engine.wait()


def main():
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed: apt-get install wrk")
    parts = sys.argv[1:] or ["api", "list", "watch", "gateway"]
    directory = pathlib.Path(tempfile.mkdtemp(prefix="seki-bench-"))
    servers, failed = [], True
    try:
        servers.append(Seki(directory))
        if os.environ.get("KUBE_BIN"):
            servers.append(Kubernetes(directory / "kubernetes", os.environ["KUBE_BIN"]))
        print(f"{os.cpu_count()} CPUs, kernel {os.uname().release.split('-')[0]}, {SECONDS} s a measurement; load and servers share the machine", flush=True)
        if "api" in parts or "watch" in parts:
            api_bench(servers, directory)
        if "list" in parts:
            list_bench(servers)
        if "watch" in parts:
            watch_bench(servers)
        if "gateway" in parts:
            gateway_bench(servers[0].cloud)
        failed = False
    finally:
        for s in servers:
            s.stop()
        if failed:
            print(f"what was written is kept in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


main()
