#!/usr/bin/env python3
"""Upstream's conformance suite against a Cluster, in slices: what was answered stays, and another run goes on with the rest.

usage: conformance.py kwok|nodes [--minutes N] [--match REGEX] [--procs N] [--slice N]
       conformance.py table            prints the table of docs/operate/conformance-results.md
kwok: simulated nodes, on which pods say that they run, so a test that looks into one cannot pass: what fails there is left to real nodes. nodes: two real ones.
Results: build/conformance/results.jsonl, one line a test and run. Programs: make kubernetes-full. As root.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import conformance_images  # noqa: E402
import kube  # noqa: E402
from cloud import KUBECTL, ROOT  # noqa: E402
from kwok import Kwok  # noqa: E402

OUT = ROOT / "build" / "conformance"
RESULTS = OUT / "results.jsonl"
BUILT = kube.BUILT / kube.MINOR
SLICE = 40
SLICE_S = 900  # one test waits for the store's compaction, five minutes and more
# Never run, and why. The first that fits.
NOT_RUNNABLE = [
    (r"ImageVolume should succeed with pod and pull policy of Always|Projected PodCertificate .* should allow server and client pods", "pulls from a registry, always"),
    (r"Kubelet when scheduling a read only busybox container", "compares the words of busybox' shell; that of the images made here is bash"),
]
# Tests that need no running pod, or one that only says it runs.
SIMULATED = re.compile(r"\[sig-(api-machinery|auth|apps|architecture|instrumentation|scheduling|cli)\]|EndpointSlice|Endpoint should|Service API|IngressClass|Ingress API|should find a service|test the lifecycle of an Endpoint"
                       r"|ServiceCIDR|Services should (complete a service status|delete a collection|be able to switch session|test the)|ConfigMap should (run through|be immutable|fail to create)|Secrets should (patch|fail to create)"
                       r"|RuntimeClass|PodTemplates|Lease should|NodeLease|CSIDriver|CSINode|CSIStorageCapacity|StorageClasses|PersistentVolumes should|VolumeAttachment|CSIInlineVolumes|PersistentVolumes CSI|PodDisruption|LimitRange")
RUNNING = re.compile(r"Webhook|CustomResourceConversion|Aggregator|\bexec\b|logs|proxy|port-?forward|attach|Kubectl (run|replace|expose|label|logs|cluster-info dump|guestbook|describe)|hostPort|NoExecute|Daemon set .*rollback|StatefulSet|"
                     r"mount an API token|projected|OIDC discovery|\[Slow\].*Job|Job should (run a job to completion|allow to delete)|should delete pods when suspended|ReplicaSet should serve|ReplicationController should serve")


def names():
    report = OUT / "all.json"
    if not report.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        subprocess.run([BUILT / "e2e.test", "--kubeconfig=/dev/null", "--ginkgo.dry-run", r"--ginkgo.focus=\[Conformance\]", f"--ginkgo.json-report={report}"], check=True, stdout=subprocess.DEVNULL)
    return sorted(name for name, s in specs(report) if s["State"] != "skipped")


def specs(report):
    for suite in json.loads(report.read_text()):
        for s in suite["SpecReports"] or []:
            if s["LeafNodeType"] == "It":
                yield " ".join([*(s["ContainerHierarchyTexts"] or []), s["LeafNodeText"]]), s


def past(results=RESULTS):
    """Name → the results of its runs, in order."""
    found = collections.defaultdict(list)
    if results.exists():
        for line in results.read_text().splitlines():
            r = json.loads(line)
            found[r["test"]].append(r)
    return found


def why_not(name):
    return next((why for pattern, why in NOT_RUNNABLE if re.search(pattern, name)), None)


def wanted(mode, match):
    done = past()
    for name in names():
        runs = done.get(name, [])
        if why_not(name) or any(r["result"] == "passed" for r in runs) or any(r["on"] == mode for r in runs) or not re.search(match, name):
            continue
        simulated = SIMULATED.search(name) and not RUNNING.search(name)
        if mode == "nodes" or simulated:
            yield name


def run_slice(mode, kubeconfig, some, procs, seconds):
    report = OUT / "slice.json"
    report.unlink(missing_ok=True)
    focus = "|".join(re.escape(n) for n in some)
    command = [BUILT / "ginkgo", f"--procs={procs}", f"--timeout={seconds}s", f"--focus={focus}", f"--json-report={report.name}", f"--output-dir={OUT}", "--no-color", "--succinct", BUILT / "e2e.test", "--",
               f"--kubeconfig={kubeconfig}", "--provider=skeleton", f"--kubectl-path={KUBECTL}", "--dump-logs-on-failure=false", "--e2e-verify-service-account=false", "--minStartupPods=0",
               "--allowed-not-ready-nodes=-1", "--system-pods-startup-timeout=30s"]
    env = {**os.environ, "HOME": str(OUT), "KUBECONFIG": str(kubeconfig)}
    with open(OUT / f"{mode}.log", "ab") as log:
        subprocess.run(["nice", *map(str, command)], stdout=log, stderr=log, env=env, timeout=seconds + 300)
    n = 0
    with open(RESULTS, "a") as out:
        for name, s in specs(report) if report.exists() else ():
            if name not in some or s["State"] in ("skipped", "pending") and not s.get("Failure"):
                continue
            said = (s.get("Failure") or {}).get("Message", "").strip()
            skipped = s["State"] == "skipped"
            if "suite timeout" in said or "interrupted" in said.lower():
                if s["RunTime"] < SLICE_S * 0.95e9:
                    continue  # the slice's time was over, not its own
                said = f"not done within {SLICE_S} s"
            out.write(json.dumps({"test": name, "on": mode, "result": "not runnable" if skipped else "passed" if s["State"] == "passed" else "failed", "seconds": round(s["RunTime"] / 1e9, 1), "said": said[:600]}) + "\n")
            n += 1
    return n


def run(mode, minutes, match, procs, slice_size):
    OUT.mkdir(parents=True, exist_ok=True)
    until = time.time() + minutes * 60
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        work = pathlib.Path(work)
        folder = kube.node_programs(work) if mode == "nodes" else kube.programs(work)
        if mode == "nodes":
            conformance_images.make_all(folder)
        with kube.cloud(folder, kubernetes_drill_interval="0") as cloud:
            c = kube.Cluster(cloud, "demo", "conformance", {"controlPlane": {"size": "Medium"}, "backup": {"intervalSeconds": 0}})
            kwok = None
            try:
                c.wait(timeout=300)
                if mode == "kwok":
                    kwok = Kwok(c, work)
                    kwok.add(3)
                    kwok.wait(3)
                else:
                    kube.Pool(c, "workers", count=2, machine={"cpus": 4, "memoryMiB": 3072}).wait(timeout=400)
                print(f"{mode}: ready; {len(list(wanted(mode, match)))} tests to run", flush=True)
                while time.time() < until:
                    some = list(wanted(mode, match))[:slice_size]
                    if not some:
                        break
                    left = int(max(60, min(until - time.time(), SLICE_S)))
                    n = run_slice(mode, c.kubeconfig, some, procs, left)
                    print(f"{time.strftime('%H:%M:%S')} {n} of {len(some)} answered; {dict(collections.Counter(r[-1]['result'] for r in past().values()))}", flush=True)
                    if not n:
                        break
            finally:
                if kwok:
                    kwok.stop()
                c.delete()


def table():
    done, rows = past(), collections.defaultdict(collections.Counter)
    failed, never = [], collections.Counter()
    for name in names():
        sig = name.split("]")[0].lstrip("[")
        runs = done.get(name, [])
        good = next((r for r in runs if r["result"] == "passed"), None)
        last = next((r for r in reversed(runs) if r["on"] == "nodes"), None)
        reason = why_not(name) or (last and last["result"] == "not runnable" and last["said"].splitlines()[0])
        if good:
            rows[sig]["passed, " + good["on"]] += 1
        elif reason:
            rows[sig]["not runnable"] += 1
            never[reason] += 1
        elif last:
            rows[sig]["failed"] += 1
            failed.append((name, last["said"].splitlines()[0] if last["said"] else ""))
        else:
            rows[sig]["not run"] += 1
    heads = ["passed, kwok", "passed, nodes", "failed", "not runnable", "not run"]
    print("| group | tests | passed on simulated nodes | passed on real nodes | failed | not runnable | not run |\n|---|---|---|---|---|---|---|")
    for sig in sorted(rows):
        print(f"| {sig} | {sum(rows[sig].values())} | " + " | ".join(str(rows[sig][h]) for h in heads) + " |")
    print(f"| **all** | {sum(sum(r.values()) for r in rows.values())} | " + " | ".join(str(sum(r[h] for r in rows.values())) for h in heads) + " |")
    print("\nNot runnable:\n" + "\n".join(f"- {n}: {why}" for why, n in never.most_common()))
    print("\nFailed:\n" + "\n".join(f"- {n}: {said}" for n, said in failed))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["kwok", "nodes", "table"])
    p.add_argument("--minutes", type=float, default=25)
    p.add_argument("--match", default="")
    p.add_argument("--procs", type=int, default=3)
    p.add_argument("--slice", type=int, default=SLICE)
    o = p.parse_args()
    table() if o.what == "table" else run(o.what, o.minutes, o.match, o.procs, o.slice)
