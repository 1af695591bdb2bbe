#!/usr/bin/env python3
"""How many Clusters one machine carries: so many control planes at once, what they weigh, and what of it is sekid's own.

usage: many_clusters.py [CLUSTERS]      SEKI_BUILD=build/release   SEKI_KUBERNETES=DIR
Ends early, with those that there are, when less than 2 GiB of the machine's memory is left. Prints memory (PSS, MiB) when all have rested, and what is left after the deletion.
"""
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "lib"), str(HERE)]

import kube  # noqa: E402
from cloud import Cloud, wait_for  # noqa: E402
from clusters import pss  # noqa: E402

KEPT_MIB = 2048
REST = 30  # seconds until memory is looked at


def available():
    return int(next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable:")).split()[1]) / 1024


def is_ready(cloud, c):
    return cloud.condition("clusters", c.ns, c.name).get("status") == "True"


def main(count):
    with tempfile.TemporaryDirectory(prefix="seki-kube-") as d, Cloud(options={"kubernetes-dir": kube.programs(pathlib.Path(d)), "log-level": "info"}) as cloud:
        for i in range((count + 9) // 10):  # ten are what a project may have
            cloud.project(f"demo-{i}")
        before, free, began, made = pss([cloud.role_pid("control")]), available(), time.time(), []
        for n in range(count):
            if available() < KEPT_MIB + 600:
                print(f"memory ends at {n} clusters", file=sys.stderr)
                break
            made.append(kube.Cluster(cloud, f"demo-{n // 10}", f"many-{n}", {"backup": {"intervalSeconds": 0}}))
            if n % 4 == 3:  # a few at a time, so that what is left is seen in time
                wait_for(lambda: all(is_ready(cloud, c) for c in made), 600, "clusters")
                print(f"{len(made)} ready after {time.time() - began:.0f} s, {available():.0f} MiB left", file=sys.stderr)
        wait_for(lambda: all(is_ready(cloud, c) for c in made), 600, "clusters")
        ready = time.time() - began
        time.sleep(REST)
        assert all(is_ready(cloud, c) for c in made), "not all stay ready"
        each = [{name: pss([pid]) for name, pid in c.pids().items()} for c in made]
        own = pss([cloud.role_pid("control")])
        print(f"{len(made)} clusters ready after {ready:.0f} s; of the machine's memory {free - available():.0f} MiB are gone, {(free - available()) / len(made):.0f} a cluster")
        for name in kube.COMPONENTS:
            print(f"{name:12} median {statistics.median(e[name] for e in each):7.1f} MiB")
        print(f"a cluster    median {statistics.median(sum(e.values()) for e in each):7.1f} MiB, max {max(sum(e.values()) for e in each):.1f}")
        print(f"control {before:.1f} MiB before, {own:.1f} with all: {(own - before) / len(made):.2f} MiB a cluster")
        began, workloads = time.time(), [c.workload("") for c in made]
        for c in made:
            c.delete(wait=False)
        wait_for(lambda: not any(c.exists() for c in made), 600, "all to be gone")
        left = [p for w in workloads for p in kube.marked(w)] + list((cloud.data / "clusters").iterdir()) + list((cloud.data / "run" / "workloads").glob("kc-*"))
        print(f"deleted in {time.time() - began:.0f} s; left: {left or 'nothing'}; control {pss([cloud.role_pid('control')]):.1f} MiB")
        assert not left


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
