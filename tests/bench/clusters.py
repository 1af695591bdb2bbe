#!/usr/bin/env python3
"""How long a Cluster takes, beside a script that starts the same programs: one after the other, in turns, on this machine.

usage: clusters.py [--warm] [--rest SECONDS] [CREATIONS]      SEKI_BUILD=build/release   SEKI_KUBERNETES=DIR
--warm: instead of a script, with a warm pool of one (kubernetes-warm-clusters), which is full again before each creation: how long a claim takes, how long the pool is not full, and what a control plane weighs
that stands there and waits.
--rest: for so long (5) nobody asks anything before memory is looked at.
Prints medians and maxima in seconds since the beginning (the script's first line, the POST of the Cluster), and memory of the processes (PSS, MiB) when they have rested: all of it, the part that is no file's, and each.
A file's part is shared: another control plane of the same programs on this machine, a test's too, makes it smaller.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import kube  # noqa: E402
from cloud import Cloud  # noqa: E402


def pss(pids):
    total = 0
    for pid in pids:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024


def weigh(pids):
    """Of processes by name."""
    rollups = {name: pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for name, pid in pids.items()}
    parts = {name: {line.split()[0]: int(line.split()[1]) / 1024 for line in text.splitlines()[1:]} for name, text in rollups.items()}
    return {"MiB": sum(p["Pss:"] for p in parts.values()), "MiB no file": sum(p["Pss:"] - p["Pss_File:"] for p in parts.values()),
            **{f"{name} MiB": p["Pss:"] for name, p in parts.items()}, **{f"{name} no f.": p["Pss:"] - p["Pss_File:"] for name, p in parts.items()}}


def by_script(programs, n, rest):
    with tempfile.TemporaryDirectory(prefix="seki-script-") as d:
        p = subprocess.Popen([str(HERE / "cluster.sh"), str(programs / kube.MINOR), f"127.95.0.{n + 1}", d], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            found = json.loads(p.stdout.readline())
            time.sleep(rest)
            found.update(weigh(dict(zip(kube.COMPONENTS, found.pop("pids")))))
            return found
        finally:
            p.stdin.close()
            p.wait(60)


def warm_place(cloud, rest):
    """Waits until there is one: how long that took, and its memory when it has rested."""
    began = time.time()
    while "\nseki_clusters_warm 1" not in cloud.metrics():
        assert time.time() < began + 600, cloud.tail()
        time.sleep(0.05)
    took = time.time() - began
    time.sleep(rest)
    claimed = {c["metadata"]["uid"][:8] for c in cloud.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/clusters")["items"]}
    return {"refill": took, "warm MiB": pss(p for name, pids in kube.warm_left(cloud).items() if name.removeprefix(kube.WARM)[:8] not in claimed for p in pids)}


def stages(cluster):
    """When each was over, by what the script calls it."""
    total, found = 0.0, {}
    for s in cluster.get()["status"]["stages"]:
        total += s["milliseconds"] / 1000
        found[{"CertificatesReady": "certificates", "StoreReady": "etcd", "APIServerReady": "readyz", "ControllersReady": "controllers"}.get(s["name"], "access")] = total
    return found


def by_cloud(cloud, n, rest):
    began = time.time()
    c = kube.Cluster(cloud, "demo", f"bench-{n}")
    deadline = began + 300
    while not cloud.condition("clusters", "demo", c.name).get("status") == "True":
        assert time.time() < deadline, c.get()
        time.sleep(0.02)
    ready = time.time() - began
    found = {**stages(c), "ready": ready}
    time.sleep(rest)
    found.update(weigh(c.pids()))
    began = time.time()
    c.delete()
    found["delete"] = time.time() - began
    return found


def rss(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def main_warm(creations, rest):
    rows = []
    with tempfile.TemporaryDirectory(prefix="seki-kube-") as d:
        programs = kube.programs(pathlib.Path(d))
        with Cloud(options={"kubernetes-dir": programs, "log-level": "info", "kubernetes-warm-clusters": 1}) as cloud:
            cloud.project("demo")
            for n in range(creations):
                before = warm_place(cloud, rest)
                rows.append({**before, **by_cloud(cloud, n, rest)})
                print(f"{n + 1}/{creations}: {rows[-1]}", file=sys.stderr)
            claimed = [line for line in cloud.metrics().splitlines() if line.startswith("seki_cluster_claim_seconds_count")]
            print(f"{claimed[0] if claimed else 'none was claimed'}; control after {creations} Clusters came and went: {rss(cloud.role_pid('control')):.0f} MiB")
    show("claim", rows)


def show(who, rows):
    for key in rows[0]:
        values = [r[key] for r in rows]
        print(f"{who:8} {key:13} median {statistics.median(values):7.2f}  max {max(values):7.2f}  min {min(values):7.2f}")


def main(creations, rest):
    with tempfile.TemporaryDirectory(prefix="seki-kube-") as d:
        programs = kube.programs(pathlib.Path(d))
        with Cloud(options={"kubernetes-dir": programs, "log-level": "info"}) as cloud:
            cloud.project("demo")
            rows = {"script": [], "Cluster": []}
            for n in range(creations):
                rows["script"].append(by_script(programs, n, rest))
                rows["Cluster"].append(by_cloud(cloud, n, rest))
                print(f"{n + 1}/{creations}: script {rows['script'][-1]}, Cluster {rows['Cluster'][-1]}", file=sys.stderr)
            print(f"control after {creations} Clusters came and went: {rss(cloud.role_pid('control')):.0f} MiB")
    for who, list_ in rows.items():
        show(who, list_)


if __name__ == "__main__":
    words = argparse.ArgumentParser(usage=__doc__)
    words.add_argument("--warm", action="store_true")
    words.add_argument("--rest", type=float, default=5)
    words.add_argument("creations", type=int, nargs="?", default=20)
    asked = words.parse_args()
    (main_warm if asked.warm else main)(asked.creations, asked.rest)
