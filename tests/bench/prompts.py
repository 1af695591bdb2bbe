"""What long and many prompts take of the gateway. Prints tables; nothing passes or fails.

    SEKI_BUILD=$PWD/build/bench python3 tests/bench/prompts.py many [COUNT]       resident memory while a million distinct prompts pass
    SEKI_BUILD=$PWD/build/bench python3 tests/bench/prompts.py long [TURNS]       what the gateway adds to a prompt of 1 MiB

many: each prompt of 2 KiB goes to one of four fake engines, whose indexes of prefixes have a budget each; all else that is kept of a prompt would show as growth.

long: the same bytes to the same engine, directly and through the gateway, in turns, over one connection each; time from the first byte sent to the last one read. The engine, a process of its
own, reads all and answers some bytes: what others spend on the machine meets both alike. One at a time, so the processor time of the gateway is that of such a request.
"""
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from cloud import Cloud, wait_for  # noqa: E402
from prompts import SIZE, Distinct  # noqa: E402
from servers import rss_mib  # noqa: E402
from wire import RawClient, answer, post, usage_answer  # noqa: E402

REPLICAS, INDEX_MIB = 4, 0.5  # TARGET_INDEX_BYTES
MIB = 1 << 20


def table(heads, rows):
    for row in (heads, ["---", *["--:"] * (len(heads) - 1)], *rows):
        print("| " + " | ".join(str(c) for c in row) + " |", flush=True)


def cpu(pid):
    """Seconds of all threads, by the kernel's own clock of the process: /proc/PID/stat counts in hundredths."""
    return time.clock_gettime(~pid << 3 | 2)


def machine():
    print(f"{os.cpu_count()} CPUs, kernel {os.uname().release.split('-')[0]}, load {os.getloadavg()[0]:.0f} at the beginning; clients, engines and gateway share the machine\n", flush=True)


def many(count):
    with Cloud(options={"gateway-threads": 1, "log-level": "warn"}) as c:
        c.project("demo")
        c.fake_endpoint("demo", "m", replicas=REPLICAS, tokens=1, tokens_per_second=0)
        wait_for(lambda: c.get("modelendpoints", "demo", "m")["status"].get("readyReplicas") == REPLICAS, what="all replicas")
        key = c.key("demo")
        wait_for(lambda: c.gateway_status("/models/m", key) == 200, what="the model")
        pid, rows = c.role_pid("gateway"), []
        rows.append(["before", f"{rss_mib(pid):.1f}", "", ""])
        with Distinct(c.address("gateway"), key, "m") as prompts:
            for part in (0.01, 0.1, 0.5, 1):
                begun, used, sent = time.monotonic(), cpu(pid), prompts.sent
                prompts.up_to(int(count * part))
                n = prompts.sent - sent
                rows.append([f"after {prompts.sent:,}", f"{rss_mib(pid):.1f}", f"{n / (time.monotonic() - begun):,.0f}", f"{(cpu(pid) - used) / n * 1e6:.1f}"])
                print(f"{prompts.sent:,} prompts: {rows[-1][1]} MiB", file=sys.stderr, flush=True)
        print(f"{count:,} distinct prompts of {SIZE} bytes to {REPLICAS} replicas (indexes of prefixes: {REPLICAS * INDEX_MIB:.0f} MiB when full)\n")
        table(["", "resident, MiB", "requests/s", "processor time each, us"], rows)


# ---- long ----

PROMPTS = {
    "English, one message": lambda: [{"role": "user", "content": "the quick brown fox jumps over the lazy dog. " * (MIB // 45)}],
    "source code, escapes": lambda: [{"role": "user", "content": 'if (a[i] != "x") {\n\treturn "\\n";\n}\n' * (MIB // 46)}],
    "Japanese, UTF-8": lambda: [{"role": "user", "content": "吾輩は猫である。名前はまだ無い。" * (MIB // 48)}],
    "Russian, UTF-8": lambda: [{"role": "user", "content": "Все счастливые семьи похожи друг на друга. " * (MIB // 79)}],
    "Japanese, all escaped": lambda: [{"role": "user", "content": "吾輩は猫である。名前はまだ無い。" * (MIB // 96)}],
    "2,000 messages": lambda: [{"role": ("user", "assistant")[i % 2], "content": "And then she said: \"no\". " * 19} for i in range(2000)],
}


def engine(listener, reply):
    """Answers each request when its body is there. One connection at a time has something to do; probes come on others."""
    import threading

    def serve(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        room = memoryview(bytearray(2 * MIB))
        while True:
            got = 0
            while (at := bytes(room[:min(got, 4096)]).find(b"\r\n\r\n")) < 0:
                n = sock.recv_into(room[got:])
                if not n:
                    return
                got += n
            head = bytes(room[:at]).lower()
            if head.startswith(b"get"):
                sock.sendall(answer(b'{"object":"list","data":[{"id":"m"}]}'))
                continue
            whole = at + 4 + int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            while got < whole:
                n = sock.recv_into(room[got:whole])
                if not n:
                    return
                got += n
            sock.sendall(reply)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))]


def turn(client, request):
    begun = time.perf_counter()
    client.send(request)
    got = client.response()
    took = (time.perf_counter() - begun) * 1000
    if got.status != 200:
        raise SystemExit(f"that is no measurement: {got}")
    return took


def long(turns):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    child = subprocess.Popen([sys.executable, __file__, "engine", str(listener.fileno())], pass_fds=[listener.fileno()])
    listener.close()
    rows, prompts = [], {n: make for n, make in PROMPTS.items() if os.environ.get("BENCH_PROMPT", "") in n}
    try:
        with Cloud(options={"gateway-threads": 1, "log-level": "warn"}) as c:
            key = c.serve(f"http://127.0.0.1:{port}/v1")
            pid = c.role_pid("gateway")
            with RawClient(f"127.0.0.1:{port}") as direct, RawClient(c.address("gateway")) as through:
                for name, make in prompts.items():
                    request = post(key, json.dumps({"model": "m", "messages": make()}, ensure_ascii="escaped" in name).encode())
                    took = {direct: [], through: []}
                    for client in (direct, through) * 5:
                        turn(client, request)
                    spent = 0.0
                    for i in range(turns):
                        for client in ((direct, through), (through, direct))[i % 2]:
                            used = cpu(pid)
                            took[client].append(turn(client, request))
                            spent += cpu(pid) - used if client is through else 0
                    d, t = took[direct], took[through]
                    added = [b - a for a, b in zip(d, t)]
                    rows.append([f"{name} ({len(request) / MIB:.2f} MiB)", *(f"{percentile(x, p):.2f}" for p in (50, 99) for x in (d, t)),
                                 f"**{percentile(t, 50) - percentile(d, 50):.2f}**", f"{percentile(t, 99) - percentile(d, 99):.2f}", f"{percentile(added, 50):.2f}", f"{spent / turns * 1000:.2f}"])
    finally:
        child.kill()
        child.wait()
    print(f"{turns} turns\n")
    table(["prompt", "direct, p50, ms", "through, p50", "direct, p99", "through, p99", "added, p50", "added, p99", "median of differences in a turn", "gateway's processor time"], rows)


def main():
    what, number = (sys.argv[1:] + ["", ""])[:2]
    if what == "engine":
        engine(socket.socket(fileno=int(number)), usage_answer(5, 7))
    elif what in ("many", "long"):
        machine()
        many(int(number or 1_000_000)) if what == "many" else long(int(number or 300))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
