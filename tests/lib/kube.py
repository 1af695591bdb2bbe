"""Kubernetes for tests: where its programs are, and Clusters that are waited for."""
import base64
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from cloud import CACHE, GROUP, KUBECTL, ROOT, wait_for

MINOR = "1.37"
PROGRAMS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
BUILT = pathlib.Path(os.environ.get("SEKI_KUBERNETES", CACHE / "kubernetes"))
COMPONENTS = ["etcd", "apiserver", "controllers", "scheduler", "kms"]
TOOLS = ["etcdctl", "etcdutl"]  # for backups; without them a cluster has none
PORTS = [2379, 2380, 2381, 6443, 10257, 10259]


def programs(directory):
    """A folder for --kubernetes-dir. Without etcd, API server and controller manager the test is skipped; a scheduler that is not there is replaced, for nothing here schedules."""
    missing = [p for p in PROGRAMS[:3] if not (BUILT / MINOR / p).exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} of Kubernetes {MINOR} not in {BUILT}: make kubernetes")
    there = directory / "kubernetes" / MINOR
    there.mkdir(parents=True)
    for p in PROGRAMS:
        source = BUILT / MINOR / p
        if not source.exists():
            print(f"NOTE: {p} has not been built: a stand-in takes its place")
            source = ROOT / "tests" / "kaas" / "standin_scheduler.py"
        (there / p).symlink_to(source.resolve())
    for p in TOOLS:
        if (BUILT / MINOR / p).exists():
            (there / p).symlink_to((BUILT / MINOR / p).resolve())
    return there.parent


OLDER = "1.36"


def two_minors(directory, nodes=False, standin_store=False):
    """A folder with the previous minor, too. What of it has not been built is replaced by the newest's (etcd and its tools only with standin_store): order and refusals are the same, versions are not.
    Returns the folder, and whether the older one is real."""
    folder = node_programs(directory) if nodes else programs(directory)
    missing = [p for p in [*TOOLS, "etcd"] if not (standin_store or (BUILT / OLDER / p).exists()) or not (BUILT / MINOR / p).exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} of Kubernetes {OLDER} and {MINOR} not in {BUILT}: make kubernetes-full")
    (folder / OLDER).mkdir()
    real = True
    for there in (folder / MINOR).iterdir():
        built = BUILT / OLDER / there.name
        if not built.exists():
            real = real and there.name in ("images", "containerd", "containerd-shim-runc-v2", "ctr")
            print(f"NOTE: {there.name} {OLDER} has not been built: that of {MINOR} takes its place")
            built = there
        (folder / OLDER / there.name).symlink_to(built.resolve())
    return folder, real


NODE_PROGRAMS = ["containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy", "images"]
HOST_PROGRAMS = ["runc", "ip", "nft", "iptables"]


def node_programs(directory):
    """Likewise, with what nodes take. They take root, and programs of Debian's, too."""
    if os.geteuid() != 0:
        pytest.skip("nodes take root")
    missing = [p for p in NODE_PROGRAMS if not (BUILT / MINOR / p).exists()] + [p for p in HOST_PROGRAMS if not shutil.which(p)]
    if not pathlib.Path("/usr/lib/cni/bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        pytest.skip(f"nodes take {', '.join(missing)}: make kubernetes, apt-get install runc containernetworking-plugins iproute2 iptables nftables")
    folder = programs(directory)
    for p in NODE_PROGRAMS:
        (folder / MINOR / p).symlink_to((BUILT / MINOR / p).resolve())
    return folder


def marked(prefix):
    """Pids of this process namespace and those below by the workload that they carry in their environment."""
    found = {}
    for p in pathlib.Path("/proc").iterdir():
        if not p.name.isdigit():
            continue
        try:
            env = (p / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for e in env:
            if e.startswith(f"SEKI_WORKLOAD={prefix}".encode()):
                found.setdefault(e.decode().split("=", 1)[1].split("/")[0], []).append(int(p.name))
    return found


def end_left():
    """For the end of a module: what a test has left that failed while no sekid looked after its clusters."""
    for c in Cluster.all:
        for name, pids in marked(c.workload("")).items():
            os.kill(min(pids) if name.startswith(c.workload("node-")) else pids[-1], signal.SIGKILL)
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if f"/clusters/{c.uid}/net/hub" in line:
                subprocess.run(["umount", line.split()[4]], check=False)
    Cluster.all.clear()


class Cluster:
    """A Cluster of a cloud."""
    all = []

    def __init__(self, cloud, ns, name, spec=None):
        self.cloud, self.ns, self.name = cloud, ns, name
        self.path = f"{GROUP}/namespaces/{ns}/clusters/{name}"
        made = cloud.api("POST", self.path.rsplit("/", 1)[0], {"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec or {}})
        self.uid = made["metadata"]["uid"]
        Cluster.all.append(self)

    def get(self):
        return self.cloud.api("GET", self.path)

    def wait(self, status="True", reason=None, kind="Ready", timeout=120):
        return self.cloud.wait_condition("clusters", self.ns, self.name, kind, status, reason, timeout)

    @property
    def directory(self):
        return self.cloud.data / "clusters" / self.uid

    @property
    def kubeconfig(self):
        path = self.cloud.dir / f"{self.name}.kubeconfig"
        try:
            secret = self.cloud.api("GET", f"/api/v1/namespaces/{self.ns}/secrets/{self.name}-kubeconfig")
        except OSError:  # the cloud is down; its clusters are not
            return str(path)
        path.write_bytes(base64.b64decode(secret["data"]["kubeconfig"]))
        path.chmod(0o600)
        return str(path)

    def kubectl(self, *args, input=None, check=True):
        p = subprocess.run([KUBECTL, "--kubeconfig", self.kubeconfig, *args], input=input, text=True, capture_output=True, timeout=120,
                           env={**os.environ, "HOME": str(self.cloud.dir), "KUBECACHEDIR": str(self.cloud.dir / f"kubecache-{self.name}")})
        if check:
            assert p.returncode == 0, f"kubectl {' '.join(args)}: {p.stdout}{p.stderr}"
        return p

    def workload(self, component):
        return f"kc-{self.ns}-{self.name}-{self.uid[:8]}-{component}"

    def pids(self):
        """Processes by component, found by what the runtime marked them with."""
        found = marked(self.workload(""))
        return {c: found[self.workload(c)][-1] for c in COMPONENTS if self.workload(c) in found}

    def delete(self, wait=True):
        self.cloud.api("DELETE", self.path)
        if wait:
            wait_for(lambda: not self.exists(), 60, f"cluster {self.name} to be gone")

    def exists(self):
        from cloud import ApiError
        try:
            self.get()
            return True
        except ApiError as e:
            assert e.status == 404
            return False


def has_ended(pid):
    """It is gone, or waits for process 1 to take notice, whose child it became when its sekid was killed."""
    try:
        return (pathlib.Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
