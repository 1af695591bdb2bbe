#!/usr/bin/env python3
"""How long from nothing to an answer of a pod: a Cluster and a NodePool of one node applied together, a pod as soon as there is a kubeconfig.

usage: nodes.py [CREATIONS]      SEKI_BUILD=build/release   SEKI_KUBERNETES=DIR   (as root)
Prints medians and maxima in seconds since the POST of the Cluster: it is Ready, its node is, the pod answers HTTP through the API server; memory of the node (PSS, MiB) with that pod; load of the machine.
"""
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import kube  # noqa: E402
from cloud import GROUP, Cloud, wait_for  # noqa: E402

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
       "spec": {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "web", "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": ["web", "serve", "8080", "here"]}]}}


def pss(pid):
    """Of a process and all below it."""
    total, todo, children = 0, [pid], {}
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                children.setdefault(int((p / "stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(p.name))
            except OSError:
                pass
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        try:
            text = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024


def one(cloud, n):
    began, found = time.time(), {}
    c = kube.Cluster(cloud, "demo", f"bench-{n}")
    cloud.api("POST", f"{GROUP}/namespaces/demo/nodepools", {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": f"pool-{n}"}, "spec": {"clusterName": c.name, "count": 1}})
    wait_for(lambda: cloud.condition("clusters", "demo", c.name).get("status") == "True", 300, "the cluster")
    found["cluster"] = time.time() - began
    wait_for(lambda: c.kubectl("create", "-f", "-", input=json.dumps(POD), check=False).returncode == 0, 60, "the pod to be taken")
    wait_for(lambda: cloud.condition("nodepools", "demo", f"pool-{n}").get("status") == "True", 300, "the node")
    found["node"] = time.time() - began
    wait_for(lambda: c.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/web:8080/proxy/", check=False).stdout == "here", 120, "an answer")
    found["answer"] = time.time() - began
    name = c.workload(f"node-pool-{n}-0")
    pids = kube.marked(name)[name]
    found["MiB"] = pss(min(pids))
    began = time.time()
    c.delete()
    found["delete"] = time.time() - began
    return found


def main():
    creations = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rows = []
    with tempfile.TemporaryDirectory(prefix="seki-programs-") as d, Cloud(options={"kubernetes-dir": str(kube.node_programs(pathlib.Path(d)))}) as cloud:
        cloud.project("demo")
        for n in range(creations):
            rows.append(one(cloud, n))
            print(f"{n + 1}/{creations}: { {k: round(v, 2) for k, v in rows[-1].items()} }, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    for key in rows[0]:
        values = [r[key] for r in rows]
        print(f"{key}: median {statistics.median(values):.2f}, maximum {max(values):.2f}")


if __name__ == "__main__":
    main()
