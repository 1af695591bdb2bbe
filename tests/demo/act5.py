"""Act 5: two tenants have a Kubernetes each. In one an inference pod answers, while its control plane is brought to the next minor version, and it comes back from a backup."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import kube
from cloud import CACHE, GROUP, ROOT, wait_for

ENGINE = """
apiVersion: v1
kind: Pod
metadata: {name: engine, labels: {app: engine}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: engine
    image: localhost/engine:1
    imagePullPolicy: Never
    args: [--alias, gemma, --threads, "1"]
    readinessProbe: {httpGet: {path: /health, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: engine}
spec: {selector: {app: engine}, ports: [{port: 80, targetPort: 8080}]}
"""
ASK = {"model": "gemma", "prompt": "one, two, three, four,", "max_tokens": 8, "temperature": 0}
OLD, NEW = "1.36", "1.37"


def say(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(text):
    print("    " + text.strip().replace("\n", "\n    "), flush=True)


def programs(directory):
    """Both minors as they were built, and beside the images of nodes one of the engine with its model."""
    model, engine = next((CACHE / "models" / "gemma3-270m").glob("*.gguf")), CACHE / "kubernetes" / "engine.tar"
    subprocess.run([ROOT / "scripts" / "engine-image", model, engine], check=True, stdout=subprocess.DEVNULL)
    for minor in (OLD, NEW):
        there = directory / minor
        there.mkdir(parents=True)
        for built in (kube.BUILT / minor).iterdir():
            if built.name != "images":
                (there / built.name).symlink_to(built.resolve())
        (there / "images").mkdir()
        # No symbolic links: a node sees the folder, not where these would lead.
        for image in [*(kube.BUILT / NEW / "images").glob("*.tar"), engine]:
            shutil.copy(image, there / "images" / image.name)
    return directory


def ask(cluster):
    p = cluster.kubectl("create", "--raw", "/api/v1/namespaces/default/services/engine:80/proxy/v1/completions", "-f", "-", input=json.dumps(ASK), check=False)
    return json.loads(p.stdout)["choices"][0]["text"] if p.returncode == 0 else None


class Writer(threading.Thread):
    """Writes to a cluster all the time, again when it fails, and knows the longest time without a write that succeeded."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.longest, self.written, self.ends = cluster, 0.0, 0, threading.Event()
        self.start()

    def run(self):
        last = time.monotonic()
        while not self.ends.is_set():
            if self.cluster.kubectl("-n", "default", "patch", "configmap", "written", "--type", "merge", "-p", json.dumps({"data": {"n": str(self.written)}}), "--request-timeout=5s",
                                    check=False).returncode == 0:
                self.longest, last, self.written = max(self.longest, time.monotonic() - last), time.monotonic(), self.written + 1
            self.ends.wait(0.1)

    def stop(self):
        self.ends.set()
        self.join(60)


def main():
    begun = time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="seki-act5-"))
    try:
        with kube.cloud(programs(folder / "kubernetes"), (), log_level="info") as cloud:
            story(cloud, begun)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"Act 5 held, in {time.monotonic() - begun:.0f} s.")


def story(cloud, begun):
    say("Act 5. Two tenants, a bank and a clinic, ask for a Kubernetes each.")
    cloud.project("bank", tenant="bank")
    cloud.project("clinic", tenant="clinic")
    at = time.monotonic()
    bank = kube.Cluster(cloud, "bank", "ledger", {"version": OLD})
    clinic = kube.Cluster(cloud, "clinic", "wards", {"version": NEW})
    for c in (bank, clinic):
        c.wait(timeout=180)
        version = json.loads(c.kubectl("version", "-o", "json").stdout)["serverVersion"]["gitVersion"]
        show(f"{c.ns}: cluster {c.name} is Ready, Kubernetes {version}: {time.monotonic() - at:.1f} s")

    say("Neither lets the other in: the clinic's credentials at the bank's cluster")
    config = json.loads(clinic.kubectl("config", "view", "--raw", "-o", "json").stdout)
    server = json.loads(bank.kubectl("config", "view", "--raw", "-o", "json").stdout)["clusters"][0]["cluster"]["server"]
    config["clusters"][0]["cluster"] = {"server": server, "insecure-skip-tls-verify": True}
    foreign = cloud.dir / "foreign.kubeconfig"
    foreign.write_text(json.dumps(config))
    p = subprocess.run([kube.KUBECTL, "--kubeconfig", foreign, "get", "pods"], capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "must be logged in" in p.stderr, (p.stdout, p.stderr)
    show(p.stderr.strip().splitlines()[-1])

    say("The bank takes a node, and runs an engine with a model in a pod:")
    at = time.monotonic()
    cloud.api("POST", f"{GROUP}/namespaces/bank/nodepools",
              {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": "workers"}, "spec": {"clusterName": "ledger", "count": 1, "machine": {"memoryMiB": 2048}}})
    cloud.wait_condition("nodepools", "bank", "workers", "Ready", timeout=240)
    wait_for(lambda: bank.kubectl("get", "serviceaccount", "default", check=False).returncode == 0, 60, "the ServiceAccount of the namespace")
    bank.kubectl("apply", "-f", "-", input=ENGINE)
    bank.kubectl("create", "configmap", "written")
    answer = wait_for(lambda: ask(bank), 180, "the engine's answer")
    show(bank.kubectl("get", "nodes,pods").stdout)
    show(f"{ASK['prompt']}\033[1m{answer}\033[0m" if sys.stdout.isatty() else ASK["prompt"] + answer)
    show(f"from nothing to an answer: {time.monotonic() - at:.1f} s")

    say("A backup is taken; then somebody deletes what he should not have; the cluster goes back.")
    taken = json.loads(cloud.seki("-n", "bank", "cluster", "backup", "ledger", "-o", "json").stdout)
    bank.kubectl("delete", "service", "engine")
    assert ask(bank) is None, "the Service is still there"
    show("the Service is gone, nobody is answered")
    at = time.monotonic()
    cloud.seki("-n", "bank", "cluster", "restore", "ledger", "--from", taken["id"])
    show(f"restored from {taken['id']}: {time.monotonic() - at:.1f} s")
    assert wait_for(lambda: ask(bank), 120, "the engine's answer") == answer, "another answer"
    show("the same question has the same answer")

    say(f"The bank's cluster goes from {OLD} to {NEW}, while something writes to it all the time:")
    writer = Writer(bank)
    try:
        at = time.monotonic()
        show(cloud.seki("-n", "bank", "cluster", "upgrade", "ledger", "--version", NEW).stdout or "done")
        took = time.monotonic() - at
    finally:
        writer.stop()
    version = json.loads(bank.kubectl("version", "-o", "json").stdout)["serverVersion"]["gitVersion"]
    assert version.startswith(f"v{NEW}."), version
    assert wait_for(lambda: ask(bank), 120, "the engine's answer") == answer, "another answer"
    show(f"it says {version}; {took:.1f} s; longest time without a write that succeeded {writer.longest:.1f} s, of {writer.written} writes; the engine answers as before")

    say("Both are deleted, and nothing is left:")
    at = time.monotonic()
    for c in (bank, clinic):
        c.delete(wait=False)
    for c in (bank, clinic):
        wait_for(lambda c=c: not c.exists(), 120, f"cluster {c.name} to be gone")
        assert not kube.marked(c.workload("")) and not c.directory.exists()
    show(f"no process, no file: {time.monotonic() - at:.1f} s")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.SubprocessError) as e:
        sys.exit(f"Act 5 did not hold: {e}")
