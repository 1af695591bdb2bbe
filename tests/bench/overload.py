"""Overload of the resource API: latency of a well-behaved client alone, and beside 10,000 watchers, 200 hostile clients and slow readers. Prints a table; nothing passes or fails.

The well-behaved client is a process of its own with one connection: 50 requests a second, four gets and one create. The hostile ones are 200 users of wrk without pause: every
second request lists 1,000 objects. Slow readers ask for that list and never read it. All share the machine with the server; wrk is niced, or the table would show how the
kernel shares two cores between it and the well-behaved client.
"""
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

SECONDS = int(os.environ.get("BENCH_SECONDS", "8"))
HOSTILE, SLOW_READERS, WATCHERS = 200, 50, int(os.environ.get("BENCH_WATCHERS", "10000"))
HEADS = ("", "get p50, ms", "get p99, ms", "create p50, ms", "create p99, ms", "get p99 / alone", "create p99 / alone", "failed")
HOSTILE_LUA = """
local n = 0
function request()
  n = n + 1
  local path = n % 2 == 0 and "/api/v1/namespaces/load/configmaps" or "/api/v1/namespaces/load/configmaps/c1"
  return wrk.format("GET", path, {["Authorization"] = "Bearer hostile-" .. (n % %d), ["Accept"] = "application/json"})
end
local refused, bad = 0, 0
function response(status) if status == 429 then refused = refused + 1 elseif status ~= 200 then bad = bad + 1 end end
"""


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))]


def good_client(host, port, ca, seconds, run):
    """50 requests a second for some seconds; prints latencies in ms as JSON."""
    c = http.client.HTTPSConnection(host, port, context=ssl.create_default_context(cafile=ca), timeout=60)
    headers = {"Authorization": "Bearer good", "Content-Type": "application/json"}
    took, bad, begun = {"get": [], "create": []}, 0, time.monotonic()
    n = 0
    while time.monotonic() - begun < seconds:
        n += 1
        due = begun + n * 0.02
        time.sleep(max(0, due - time.monotonic()))  # the pace of the load, not a wait for a result
        start = time.monotonic()
        if n % 5:
            c.request("GET", "/api/v1/namespaces/load/configmaps/c1", headers=headers)
        else:
            c.request("POST", "/api/v1/namespaces/good/configmaps", json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{run}-{n}"}, "data": {"k": "v"}}), headers)
        r = c.getresponse()
        r.read()
        took["get" if n % 5 else "create"].append((time.monotonic() - start) * 1000)
        bad += r.status not in (200, 201)
    print(json.dumps({"took": took, "bad": bad}))


def measure(cloud, run):
    host, port = cloud.address("api").rsplit(":", 1)
    out = subprocess.run([sys.executable, __file__, "--good", host, port, str(cloud.data / "pki" / "ca.crt"), str(SECONDS), run], capture_output=True, text=True, timeout=SECONDS + 120, check=True)
    r = json.loads(out.stdout)
    return {"bad": r["bad"], **{f"{verb} {p}": percentile(took, p) for verb, took in r["took"].items() for p in (50, 99)}}


class Watchers:
    """Idle watches, each on a connection of its own."""

    def __init__(self, cloud, count):
        context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        host, port = cloud.address("api").rsplit(":", 1)
        self.socks = []
        for _ in range(count):
            s = context.wrap_socket(socket.create_connection((host, int(port)), timeout=60), server_hostname=host)
            s.sendall(b"GET /api/v1/namespaces/watched/configmaps?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer watcher\r\n\r\n")
            head = s.recv(4096)
            assert head.startswith(b"HTTP/1.1 200"), head
            self.socks.append(s)

    def close(self):
        for s in self.socks:
            s.close()


def hostile_load(cloud, directory):
    script = directory / "hostile.lua"
    script.write_text(HOSTILE_LUA.replace("%d", str(HOSTILE)))
    return subprocess.Popen(["nice", "-n", "19", "wrk", "-t", "1", "-c", str(HOSTILE), "-d", f"{SECONDS + 4}s", "--timeout", "30s", "-s", str(script), cloud.api_url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def slow_readers(cloud):
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    host, port = cloud.address("api").rsplit(":", 1)
    socks = []
    for i in range(SLOW_READERS):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(60)
        raw.connect((host, int(port)))
        s = context.wrap_socket(raw, server_hostname=host)
        s.sendall(f"GET /api/v1/namespaces/load/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hostile-{i}\r\n\r\n".encode())
        socks.append(s)
    return socks


def requests_by_code(cloud):
    codes = {}
    for line in cloud.metrics().splitlines():
        if line.startswith("seki_apiserver_requests_total{"):
            code = line.split('code="')[1].split('"')[0]
            codes[code] = codes.get(code, 0) + float(line.rsplit(" ", 1)[1])
    return codes


def main():
    from cloud import Cloud
    directory = pathlib.Path(tempfile.mkdtemp())
    users = ["good", "watcher", *[f"hostile-{i}" for i in range(HOSTILE)]]
    tokens = directory / "tokens"
    tokens.write_text("".join(f"{hashlib.sha256(u.encode()).hexdigest()} {u} bench\n" for u in users))
    cloud = Cloud(directory=directory, options={"api-token-file": tokens, "log-level": "warn", "gateway-threads": 1, "limits-objects-per-project": 0})
    rows = []
    try:
        cloud.start()
        cloud.api("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "bench"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                  "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "bench"}]})
        for ns in ("load", "good", "watched"):
            cloud.project(ns)
        for i in range(1000):
            cloud.api("POST", "/api/v1/namespaces/load/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i}"}, "data": {"k": "x" * 400}})
        measure(cloud, "warm")
        alone = measure(cloud, "alone")

        def row(name, r):
            rows.append((name, *(f"{r[k]:.2f}" for k in ("get 50", "get 99", "create 50", "create 99")), f"{r['get 99'] / alone['get 99']:.1f} x", f"{r['create 99'] / alone['create 99']:.1f} x", str(r["bad"])))
        row("alone", alone)
        watchers = Watchers(cloud, WATCHERS)
        row(f"with {WATCHERS:,} idle watchers", measure(cloud, "watched"))
        slow = slow_readers(cloud)
        row(f"and {SLOW_READERS} slow readers", measure(cloud, "slow"))
        before = requests_by_code(cloud)
        hostile = hostile_load(cloud, directory)
        time.sleep(1)  # let the load begin
        row(f"and {HOSTILE} hostile clients", measure(cloud, "hostile"))
        hostile.wait(SECONDS + 60)
        after = requests_by_code(cloud)
        watchers.close()
        for s in slow:
            s.close()
        widths = [max(len(r[i]) for r in [HEADS, *rows]) for i in range(len(HEADS))]
        print("\nA well-behaved client of the API: 40 gets/s and 10 creates/s\n")
        for i, r in enumerate([HEADS, *rows]):
            print("| " + " | ".join(c.ljust(w) if j == 0 else c.rjust(w) for j, (c, w) in enumerate(zip(r, widths))) + " |")
            if i == 0:
                print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
        print("\nmeanwhile, answers by status: " + ", ".join(f"{k}: {after[k] - before.get(k, 0):,.0f}" for k in sorted(after)))
        pid = cloud.role_pid("control")
        print(f"resident: {int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f} MiB")
    finally:
        cloud.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--good"]:
        good_client(sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5]), sys.argv[6])
    else:
        main()
