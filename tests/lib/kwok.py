"""Simulated nodes (kwok) in a cluster. It takes the program (make kubernetes-full) and, from its Go module, the stages that nodes and pods go through."""
import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess

import pytest

import kube
from cloud import ROOT, wait_for

STAGES = ["node/fast/node-initialize.yaml", "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml", "pod/fast/pod-ready.yaml", "pod/fast/pod-complete.yaml", "pod/fast/pod-delete.yaml"]
PROGRAM = kube.BUILT / kube.MINOR / "kwok"


def stages():
    p = subprocess.run(["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"], cwd=ROOT / "tools" / "kubernetes" / kube.MINOR / "kwok", capture_output=True, text=True)
    folder = pathlib.Path(p.stdout.strip()) / "kustomize" / "stage"
    if p.returncode or not folder.exists():
        pytest.skip("kwok's Go module is not there: make kubernetes-full")
    return "\n---\n".join((folder / s).read_text() for s in STAGES)


def node(i, cpus="32", memory="256Gi"):
    name, has = f"kwok-{i}", {"cpu": cpus, "memory": memory, "pods": "110", "ephemeral-storage": "100Gi"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"},
                                                             "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "type": "kwok"}},
            "status": {"allocatable": has, "capacity": has}}


class Kwok:
    """Runs beside a cluster, with its administrator's kubeconfig."""

    def __init__(self, cluster, directory):
        if not PROGRAM.exists():
            pytest.skip("kwok is not built: make kubernetes-full")
        self.cluster = cluster
        config = directory / "stages.yaml"
        config.write_text(stages())
        self.log = open(directory / "kwok.log", "wb")
        self.process = subprocess.Popen([PROGRAM, "--config", config, "--kubeconfig", cluster.kubeconfig, "--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                                         "--node-ip=127.0.0.1", "--server-address=127.0.0.1:0", "--node-lease-duration-seconds=40"], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)

    def add(self, count, piece=50):
        """kubectl makes one after the other: several at once, each of a few."""
        def some(first):
            self.cluster.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": [node(i) for i in range(first, min(first + piece, count))]}))
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(some, range(0, count, piece)))

    def ready(self):
        assert self.process.poll() is None, "kwok has ended"
        p = self.cluster.kubectl("get", "nodes", "-l", "type=kwok", "-o", 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}')
        return p.stdout.split().count("True")

    def wait(self, count, timeout=300):
        wait_for(lambda: self.ready() >= count, timeout, f"{count} simulated nodes")

    def stop(self):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.wait(30)
        self.log.close()
