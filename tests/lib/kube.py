"""Kubernetes for tests: where its programs are, and Clusters that are waited for."""
import base64
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from cloud import CACHE, GROUP, KUBECTL, ROOT, ApiError, Cloud, wait_for

MINOR = "1.37"
PROGRAMS = ["etcd", "etcdctl", "etcdutl", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]  # CONTROL_PLANE in scripts/lib.sh, too
BUILT = pathlib.Path(os.environ.get("SEKI_KUBERNETES", CACHE / "kubernetes"))
COMPONENTS = ["etcd", "apiserver", "controllers", "scheduler", "kms"]
WARM = "kc-warm--"  # what workloads begin with whose control plane was made before it was asked for
PORTS = [2379, 2380, 2381, 6443, 10257, 10259]


def need(missing, how):
    """What is not there is no reason to say that all is well."""
    if missing:
        pytest.fail(f"{', '.join(missing)} not in {BUILT}: {how}")


def not_built(*programs, minor=MINOR):
    return [f"{p} of Kubernetes {minor}" for p in programs if not (BUILT / minor / p).exists()]


def programs(directory):
    """A folder for --kubernetes-dir."""
    need(not_built(*PROGRAMS), "make kubernetes")
    there = directory / "kubernetes" / MINOR
    there.mkdir(parents=True)
    for p in PROGRAMS:
        (there / p).symlink_to((BUILT / MINOR / p).resolve())
    return there.parent


def module():
    """The sources of Kubernetes that its programs are built from, in the cache of Go modules."""
    p = subprocess.run(["go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"], cwd=ROOT / "tools" / "kubernetes" / MINOR / "kubernetes", capture_output=True, text=True)
    folder = pathlib.Path(p.stdout.strip() or "/nonexistent")
    need([] if (folder / "test" / "cmd").exists() else ["the Go module of Kubernetes"], "make kubernetes-full")
    return folder


OLDER = "1.36"


def two_minors(directory, nodes=False, standin_store=False):
    """A folder with the previous minor, too. What of it has not been built is replaced by the newest's (etcd and its tools only with standin_store): order and refusals are the same, versions are not.
    Returns the folder, and whether the older one is real."""
    folder = node_programs(directory) if nodes else programs(directory)
    if not standin_store:
        need(not_built("etcd", "etcdctl", "etcdutl", minor=OLDER), "make kubernetes-full")
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
    missing = [p for p in HOST_PROGRAMS if not shutil.which(p)]
    if not pathlib.Path("/usr/lib/cni/bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        pytest.fail(f"nodes take {', '.join(missing)}: apt-get install runc containernetworking-plugins iproute2 iptables nftables")
    need(not_built(*NODE_PROGRAMS), "make kubernetes")
    folder = programs(directory)
    for p in NODE_PROGRAMS:
        (folder / MINOR / p).symlink_to((BUILT / MINOR / p).resolve())
    return folder


@contextlib.contextmanager
def cloud(folder, projects=("demo",), kind=Cloud, **options):
    """A Cloud with the programs of a folder that looks at its clusters twice a second; options of sekid with _ for -. At its end nothing of a cluster runs, whatever a test left.
    projects: names; with a tenant of another name: NAME, TENANT."""
    settings = {"kubernetes-dir": folder, "kubernetes-probe-interval": "500ms", **{k.replace("_", "-"): v for k, v in options.items()}}
    c = kind(options=settings)
    try:
        with c:
            for p in projects:
                c.project(p) if isinstance(p, str) else c.project(p[0], tenant=p[1])
            yield c
    finally:
        end_left(c)


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


def end_left(cloud):
    """What a test has left that failed while no sekid looked after its clusters."""
    for c in [c for c in Cluster.all if c.cloud is cloud]:
        Cluster.all.remove(c)
        for name, pids in marked(c.workload("")).items():
            os.kill(min(pids) if name.startswith(c.workload("node-")) else pids[-1], signal.SIGKILL)
        for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
            if f"/clusters/{c.uid}/net/hub" in line:
                subprocess.run(["umount", line.split()[4]], check=False)
    for pids in warm_left(cloud).values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def warm_left(cloud):
    """Processes of control planes of this cloud that were made before they were asked for, claimed or not, by their workloads."""
    found = {}
    for name, pids in marked(WARM).items():
        ours = [p for p in pids if str(cloud.data) in command(p)]
        if ours:
            found[name] = ours
    return found


def command(pid):
    try:
        return (pathlib.Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Cluster:
    """A Cluster of a cloud."""
    all = []

    def __init__(self, cloud, ns, name, spec=None, made=None):
        """made: the object, when it is there already."""
        self.cloud, self.ns, self.name = cloud, ns, name
        self.path = f"{GROUP}/namespaces/{ns}/clusters/{name}"
        made = made or cloud.api("POST", self.path.rsplit("/", 1)[0], {"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec or {}})
        self.uid = made["metadata"]["uid"]
        self.claimed = made.get("status", {}).get("claimed", False)
        Cluster.all.append(self)

    @classmethod
    def ready(cls, *args, **kwargs):
        made = cls(*args, **kwargs)
        made.wait()
        return made

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

    def apply(self, *objects, check=True):
        return self.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}), check=check)

    def wait_pods(self, *names, ns="default"):
        for n in names:
            self.kubectl("-n", ns, "wait", "--for=condition=Ready", "--timeout=90s", f"pod/{n}")

    def pod_address(self, name, ns="default", check=True):
        return self.kubectl("-n", ns, "get", "pod", name, "-o", "jsonpath={.status.podIP}", check=check).stdout

    def web_get(self, pod, address, port=8080, check=True):
        """From a pod, with the client of our image."""
        return self.kubectl("exec", pod, "--", "web", "get", address, str(port), check=check)

    def workload(self, component):
        if self.claimed and component in COMPONENTS:
            return f"{WARM}{self.uid[:8]}-{component}"
        return f"kc-{self.ns}-{self.name}-{self.uid[:8]}-{component}"

    def pids(self):
        """Processes by component, found by what the runtime marked them with."""
        found = marked(self.workload("etcd").removesuffix("etcd"))
        return {c: found[self.workload(c)][-1] for c in COMPONENTS if self.workload(c) in found}

    def delete(self, wait=True):
        self.cloud.api("DELETE", self.path)
        if wait:
            wait_for(lambda: not self.exists(), 60, f"cluster {self.name} to be gone")

    def exists(self):
        try:
            self.get()
            return True
        except ApiError as e:
            assert e.status == 404
            return False


class Pool:
    """A NodePool of a Cluster."""

    def __init__(self, cluster, name, **spec):
        self.cluster, self.name = cluster, name
        self.path = f"{GROUP}/namespaces/{cluster.ns}/nodepools/{name}"
        self.cloud = cluster.cloud
        self.cloud.api("POST", self.path.rsplit("/", 1)[0],
                       {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": name}, "spec": {"clusterName": cluster.name, **spec}})

    @classmethod
    def ready(cls, *args, **kwargs):
        made = cls(*args, **kwargs)
        made.wait()
        return made

    def get(self):
        return self.cloud.api("GET", self.path)

    def wait(self, status="True", reason=None, timeout=180):
        def settled():
            o = self.get()
            c = {c["type"]: c for c in o.get("status", {}).get("conditions", [])}.get("Ready", {})
            return o.get("status", {}).get("observedGeneration") == o["metadata"]["generation"] and c.get("status") == status and (not reason or c["reason"] == reason) and o
        return wait_for(settled, timeout, f"pool {self.name}: {self.get().get('status')}")

    def nodes(self):
        return {n["name"]: n for n in self.get()["status"]["nodes"]}

    def scale(self, count):
        self.cloud.api("PATCH", self.path, {"spec": {"count": count}}, "application/merge-patch+json")
        return self.wait()

    def outer(self, node):
        """The process that holds a node; None while there is none."""
        name = self.cluster.workload(f"node-{node}")
        return holder(marked(name).get(name, []))


def holder(pids):
    """Of those that carry a workload's mark the one whose parent does not."""
    for p in pids:
        try:
            if int((pathlib.Path("/proc") / str(p) / "stat").read_text().rsplit(")", 1)[1].split()[1]) not in pids:
                return p
        except OSError:
            pass
    return None


def inside(pid, name):
    """Pids of programs of that name among the descendants of a node's outer process."""
    children = {}
    for p in pathlib.Path("/proc").iterdir():
        if p.name.isdigit():
            try:
                stat = (p / "stat").read_text()
            except OSError:
                continue
            head, rest = stat.rsplit(")", 1)
            children.setdefault(int(rest.split()[1]), []).append((int(p.name), head.split("(", 1)[1]))
    found, todo = [], [pid]
    while todo:
        for child, comm in children.get(todo.pop(), []):
            todo.append(child)
            if comm == name:
                found.append(child)
    return found


def leftovers(uid, node=""):
    found = [str(p) for p in pathlib.Path("/sys/fs/cgroup").glob(f"*/seki-node-{uid[:8]}-{node}*")]
    found += [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if uid in line and (not node or node in line)]
    return found


def has_ended(pid):
    """It is gone, or waits for process 1 to take notice, whose child it became when its sekid was killed."""
    try:
        return (pathlib.Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# ---- what runs in clusters ----

def container(name, *command, **more):
    """Of the image that every node has."""
    return {"name": name, "image": "localhost/busybox:1", "imagePullPolicy": "Never", "command": [*command], **more}


def web(text, port=8080, name="web", **more):
    """A container that answers HTTP, and is ready once it does."""
    return container(name, "web", "serve", str(port), text, readinessProbe={"httpGet": {"port": port}, "periodSeconds": 1}, **more)


def pod(name, *containers, ns="default", node=None, labels=None, grace=1, **spec):
    selector = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": ns, "labels": labels or {}},
            "spec": {"terminationGracePeriodSeconds": grace, "containers": [*containers], **selector, **spec}}


def service(name, selector, ns="default", **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns}, "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}], **spec}}
