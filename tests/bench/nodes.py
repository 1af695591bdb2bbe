#!/usr/bin/env python3
"""How long from nothing to an answer of a pod, beside a script that starts the same programs, in turns: a Cluster and a NodePool of one node applied together, a pod as soon as there is a kubeconfig.

usage: nodes.py [CREATIONS]      SEKI_BUILD=build/release   SEKI_KUBERNETES=DIR   (as root)
Prints medians and maxima in seconds since the beginning (the script's first line, the POST of the Cluster), and the Cluster's by the script's: certificates, etcd ready, /readyz, controllers work, the kubeconfig is in
its Secret, the node is Ready (ours with its serving certificate), the pod answers HTTP through the API server; memory of the node (PSS, MiB) with that pod; load of the machine.
"""
import base64
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import kube  # noqa: E402
from cloud import GROUP, Cloud, wait_for  # noqa: E402
from clusters import stages  # noqa: E402

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


def by_script(programs, n):
    """With a node. It says so when the pod has answered, or after five minutes is ended."""
    with tempfile.TemporaryDirectory(prefix="seki-script-") as d:
        pod, d = pathlib.Path(d, "pod.json"), pathlib.Path(d)
        pod.write_text(json.dumps(POD))
        p = subprocess.Popen([str(HERE / "cluster.sh"), str(programs / kube.MINOR), "10.201.0.1", str(d), str(pod)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        late = threading.Timer(300, p.terminate)
        late.start()
        try:
            line = p.stdout.readline()
            assert line, "\n".join(f.read_text()[-2000:] for f in [d / "script.err", d / "node.log"] if f.exists())
            return {**json.loads(line), "MiB": pss(min(of_node(d)))}
        finally:
            late.cancel()
            p.stdin.close()
            p.wait(60)


def of_node(directory):
    """Pids of the script's node: who was called with its directory, and is within."""
    return [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and (c := kube.command(p.name)).endswith(" within ") and f" {directory} " in c]


class Asker:
    """Asks a Cluster as the script asks its own: with curl, a new connection each time."""

    def __init__(self, cluster):
        self.dir = tempfile.TemporaryDirectory(prefix="seki-asker-")
        text, there = pathlib.Path(cluster.kubeconfig).read_text(), pathlib.Path(self.dir.name)
        for what, name in ("certificate-authority-data", "--cacert"), ("client-certificate-data", "--cert"), ("client-key-data", "--key"):
            (there / name).write_bytes(base64.b64decode(re.search(rf'{what}"?: *"?([A-Za-z0-9+/=]+)', text)[1]))
        self.server = re.search(r'server"?: *"?(https://[^"\s]+)', text)[1]
        self.curl = ["curl", "-sf", "--max-time", "30", *(w for name in ("--cacert", "--cert", "--key") for w in (name, str(there / name)))]

    def __call__(self, path, *more, **options):
        return subprocess.run([*self.curl, self.server + path, *more], text=True, capture_output=True, **options)


def by_cloud(cloud, n):
    began, found = time.time(), {}
    c = kube.Cluster(cloud, "demo", f"bench-{n}")
    cloud.api("POST", f"{GROUP}/namespaces/demo/nodepools", {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": f"pool-{n}"}, "spec": {"clusterName": c.name, "count": 1}})
    wait_for(lambda: cloud.condition("clusters", "demo", c.name).get("status") == "True", 300, "the cluster")
    ready = time.time() - began
    ask = Asker(c)
    wait_for(lambda: ask("/api/v1/namespaces/default/pods", "-H", "Content-Type: application/json", "--data-binary", "@-", input=json.dumps(POD)).returncode == 0, 60, "the pod to be taken")
    wait_for(lambda: cloud.condition("nodepools", "demo", f"pool-{n}").get("status") == "True", 300, "the node")
    node = time.time() - began
    wait_for(lambda: ask("/api/v1/namespaces/default/pods/web:8080/proxy/").stdout == "here", 120, "an answer")
    found = {**stages(c), "ready": ready, "node": node, "answer": time.time() - began}
    name = c.workload(f"node-pool-{n}-0")
    found["MiB"] = pss(min(kube.marked(name)[name]))
    began = time.time()
    c.delete()
    found["delete"] = time.time() - began
    return found


def show(rows):
    print(f"{'':13}{'script':>18}{'Cluster':>18}{'Cluster / script':>22}\n{'':13}" + f"{'median':>9}{'maximum':>9}" * 2 + f"{'medians':>11}{'maxima':>11}")
    for key in rows["Cluster"][0]:
        at = {who: (statistics.median(values), max(values)) for who, list_ in rows.items() if (values := [r[key] for r in list_ if key in r])}
        line = "".join(f"{v:9.2f}" for who in rows for v in at.get(who, ())).rjust(36)
        print(f"{key:13}{line}" + ("".join(f"{ours / theirs:11.2f}" for ours, theirs in zip(at["Cluster"], at["script"])) if "script" in at else ""))


def main():
    creations = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    rows = {"script": [], "Cluster": []}
    with tempfile.TemporaryDirectory(prefix="seki-programs-") as d:
        programs = kube.node_programs(pathlib.Path(d))
        with Cloud(options={"kubernetes-dir": str(programs)}) as cloud:
            cloud.project("demo")
            for n in range(creations):
                for who, turn in ("script", lambda n: by_script(programs, n)), ("Cluster", lambda n: by_cloud(cloud, n)):
                    rows[who].append(turn(n))
                    print(f"{n + 1}/{creations}: {who} { {k: round(v, 2) for k, v in rows[who][-1].items()} }, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    show(rows)


if __name__ == "__main__":
    main()
