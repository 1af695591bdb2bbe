"""Ten minutes of kills: three Clusters are at work, one is made and deleted in turns, one has a node with a pod and its volume, one is written to. Every ten seconds any process of theirs, or of sekid, is
killed, once the last one's successor runs. In the end all is as it was declared, all that was acknowledged is there, and after the deletion nothing is left.

SEKI_CHAOS_SECONDS and SEKI_CHAOS_SEED choose how long and which, SEKI_CHAOS_WARM how many control planes are made before they are asked for (none). Needs root and the programs (make kubernetes)."""
import base64
import collections
import http.client
import json
import os
import random
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest

import kube
from cloud import GROUP, SLOW, ApiError, until_answered, wait_for
from kube import Pool, inside, leftovers
from test_storage import attached, claim, run, volume_of

pytestmark = [pytest.mark.kube, pytest.mark.full]
SECONDS = int(os.environ.get("SEKI_CHAOS_SECONDS", "600"))
SEED = int(os.environ.get("SEKI_CHAOS_SEED", time.time_ns() % 1000000))
WARM = os.environ.get("SEKI_CHAOS_WARM", "0")
EVERY = 10  # seconds from kill to kill
NODE_PROGRAMS = ["kubelet", "containerd", "kube-proxy", "seki-agent"]
NS = "chaos"


def make(cloud, name, spec):
    """A Cluster, however often control is killed meanwhile."""
    path, got = f"{GROUP}/namespaces/{NS}/clusters", {}
    body = {"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec}
    assert until_answered(lambda: cloud.api("POST", path, body)) in (0, 409)
    assert until_answered(lambda: got.update(cloud.api("GET", f"{path}/{name}"))) == 0
    return kube.Cluster(cloud, NS, name, made=got)


def ready(obj):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in obj.get("status", {}).get("conditions", []))


class Worker(threading.Thread):
    """A thread that does one thing after the other until it is told to end; what it fails with is kept."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ends, self.failure = threading.Event(), None

    def run(self):
        try:
            while not self.ends.is_set():
                self.step()
        except BaseException as e:  # pylint: disable=broad-except
            self.failure = e

    def finish(self, timeout):
        self.ends.set()
        self.join(timeout * SLOW)
        assert not self.is_alive(), f"{type(self).__name__} does not end"
        if self.failure:
            raise self.failure


class Turns(Worker):
    """Makes a Cluster, waits until it is ready (or not that long), deletes it, waits until it is gone, and begins anew."""

    def __init__(self, cloud, chance):
        super().__init__()
        self.cloud, self.chance, self.current, self.done, self.readied, self.lock = cloud, chance, None, 0, 0, threading.Lock()

    def step(self):
        c = make(self.cloud, f"turn-{self.done}", {"backup": {"intervalSeconds": 0}})
        self.current = c
        if self.chance.random() < 0.3:  # in the middle of being made
            self.ends.wait(self.chance.random() * 5)
        else:
            wait_for(lambda: self.has(c, ready), 180, f"{c.name} to be ready: {self.cloud.tail(500)}")
            self.readied += 1
        assert until_answered(lambda: self.cloud.api("DELETE", c.path)) in (0, 404)
        wait_for(lambda: self.gone(c), 180, f"{c.name} to be gone")
        self.current = None
        wait_for(lambda: not traces(self.cloud, c), 30, f"the last traces of {c.name} to go: {traces(self.cloud, c)}")
        self.done += 1

    def has(self, c, what):
        got = {}
        return until_answered(lambda: got.update(c.get())) == 0 and what(got)

    def gone(self, c):
        return until_answered(c.get) == 404


class Writes(Worker):
    """ConfigMaps, one after the other, each until it is acknowledged."""

    def __init__(self, cluster):
        super().__init__()
        config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
        user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
        pem = cluster.cloud.dir / "writer.pem"
        pem.write_bytes(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
        self.context = ssl.create_default_context(cadata=base64.b64decode(server["certificate-authority-data"]).decode())
        self.context.load_cert_chain(pem)
        self.server, self.count, self.longest, self.acknowledged = urllib.parse.urlsplit(server["server"]), 0, 0.0, time.monotonic()

    def ask(self, method, path, body=None):
        connection = http.client.HTTPSConnection(self.server.hostname, self.server.port, timeout=10 * SLOW, context=self.context)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def step(self):
        try:
            status, _ = self.ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": f"w-{self.count}"}, "data": {"n": str(self.count)}})
        except (OSError, http.client.HTTPException, ValueError):
            status = 0
        if status in (201, 409):  # 409: an answer before was lost
            self.longest = max(self.longest, time.monotonic() - self.acknowledged)
            self.acknowledged = time.monotonic()
            self.count += 1
        assert time.monotonic() - self.acknowledged < 120 * SLOW, f"nothing was written for {time.monotonic() - self.acknowledged:.0f} s"
        self.ends.wait(0.2)

    def missing(self):
        status, listed = self.ask("GET", "/api/v1/namespaces/default/configmaps")
        assert status == 200, listed
        return sorted({f"w-{i}" for i in range(self.count)} - {c["metadata"]["name"] for c in listed["items"] if c["data"].get("n") == c["metadata"]["name"][2:]})


class Lines(Worker):
    """Lines into a file of a volume, by the pod that has it; synced, then acknowledged."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster, self.tried, self.acknowledged = cluster, 0, []

    def step(self):
        n, self.tried = self.tried, self.tried + 1
        try:
            p = self.cluster.kubectl("--request-timeout=20s", "exec", "holder", "--", "sh", "-c", f"echo line-{n}- >> /data/lines && sync && echo synced", check=False)
            if p.stdout == "synced\n":  # a connection that breaks before the command has ended is a success to kubectl
                self.acknowledged.append(n)
        except (OSError, subprocess.TimeoutExpired, ApiError):
            pass
        self.ends.wait(3)

    def missing(self):
        text = self.cluster.kubectl("exec", "holder", "--", "cat", "/data/lines").stdout
        return [n for n in self.acknowledged if f"line-{n}-" not in text]


def traces(cloud, c):
    """All that is left of a Cluster."""
    found = [f"process {name} {pids}" for name, pids in kube.marked(c.workload("")).items() if not all(kube.has_ended(p) for p in pids)]
    found += leftovers(c.uid)
    found += [str(p) for p in (c.directory, cloud.data / "cluster-backups" / c.uid, cloud.data / "run" / "gates" / f"{c.uid}.sock") if p.exists()]
    found += [str(p) for folder in ("run/workloads", "log") for p in (cloud.data / folder).glob(f"{c.workload('')}*")]
    return found


class Killer:
    def __init__(self, cloud, steady, turns, pool, chance):
        self.cloud, self.steady, self.turns, self.pool, self.chance = cloud, steady, turns, pool, chance
        self.kills, self.slowest = collections.Counter(), collections.Counter()

    def clusters(self):
        current = self.turns.current
        return [*self.steady, *([current] if current else [])]

    def kinds(self):
        return [*kube.COMPONENTS, "gate", "node", *NODE_PROGRAMS, "control", "gateway", "sekid"]

    def victim(self, kind):
        """(what, how to find its process, whether it is wanted still), of the kind."""
        if kind in ("control", "gateway"):
            return kind, lambda: self.cloud.role_pid(kind), lambda: True
        if kind == "sekid":
            return kind, lambda: self.cloud.process.pid, lambda: True
        if kind in NODE_PROGRAMS:
            def program():
                outer = self.pool.outer("workers-0")
                return next(iter(inside(outer, kind)), None) if outer else None
            return kind, program, lambda: True
        if kind == "node":
            return kind, lambda: self.pool.outer("workers-0"), lambda: True
        if kind == "gate":
            c = self.pool.cluster
            return kind, lambda: next(iter(kube.marked(c.workload("gate")).get(c.workload("gate"), [])), None), lambda: True
        c = self.chance.choice(self.clusters())
        return f"{kind} of {c.name}", lambda: c.pids().get(kind), lambda: c in self.clusters()

    def kill(self):
        kind = self.chance.choice(self.kinds())
        what, find, wanted = self.victim(kind)
        pid = find()
        if not pid:
            return
        began = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} kill {what} ({pid})", flush=True)
        try:
            if kind == "sekid":  # with all of its processes, as after a power cut of theirs alone
                for role in ("control", "gateway"):
                    if self.cloud.role_pid(role):
                        os.kill(self.cloud.role_pid(role), signal.SIGKILL)
                self.cloud.process.kill()
                self.cloud.process.wait()
                self.cloud.start()
            else:
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not wanted() or find() not in (None, pid), 120, f"another {what}: {self.cloud.tail(2000)}")
        except ProcessLookupError:  # it has just ended by itself
            return
        self.kills[kind] += 1
        self.slowest[kind] = max(self.slowest[kind], time.monotonic() - began)


@pytest.fixture
def served(tmp_path):
    with kube.cloud(kube.node_programs(tmp_path), [NS], kubernetes_node_storage="256M", kubernetes_warm_clusters=WARM, log_level="info") as c:
        yield c


@pytest.mark.timeout(SECONDS + 3600)
def test_whatever_is_killed_all_ends_as_it_was_declared(served):
    print(f"SEKI_CHAOS_SEED={SEED} SEKI_CHAOS_SECONDS={SECONDS}", flush=True)
    chance = random.Random(SEED)
    idle = make(served, "idle", {"backup": {"intervalSeconds": 60}})
    busy = make(served, "busy", {"backup": {"intervalSeconds": 0}})
    idle.wait(timeout=300)
    busy.wait(timeout=300)
    pool = Pool(busy, "workers", count=1, machine={"memoryMiB": 1024})
    pool.wait()
    claim(busy, "data")
    run(busy, "holder", "data", "sleep 100000", wait=None)
    busy.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "pod/holder")
    volume = volume_of(busy, "data")
    assert attached(volume)
    turns, writes, lines = Turns(served, random.Random(SEED + 1)), Writes(idle), Lines(busy)
    workers = [turns, writes, lines]
    for w in workers:
        w.start()
    killer, until = Killer(served, [idle, busy], turns, pool, chance), time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            due = time.monotonic() + EVERY
            killer.kill()
            wait_for(lambda: time.monotonic() >= due or any(w.failure for w in workers), EVERY + 5, "the next kill")
            for w in workers:
                if w.failure:
                    raise w.failure
    finally:
        print(f"kills {dict(killer.kills)}; slowest successor, s {({k: round(v, 1) for k, v in killer.slowest.items()})}; clusters made and deleted {turns.done}, of them ready {turns.readied}; "
              f"writes {writes.count}, longest without {writes.longest:.1f} s; lines {len(lines.acknowledged)} of {lines.tried}", flush=True)
    for w in workers:
        w.finish(300)
    # As declared …
    for c in (idle, busy):
        c.wait(timeout=300)
    pool.wait(timeout=300)
    busy.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "pod/holder")
    wait_for(lambda: busy.kubectl("exec", "holder", "--", "true", check=False).returncode == 0, 60, "the pod to answer")
    assert sorted(c["metadata"]["name"] for c in served.api("GET", f"{GROUP}/namespaces/{NS}/clusters")["items"]) == ["busy", "idle"]
    for c in (idle, busy):
        assert sorted(c.pids()) == sorted(kube.COMPONENTS), c.pids()
    # … with all that was acknowledged …
    assert not writes.missing() and not lines.missing()
    assert writes.count > SECONDS / 2 and lines.acknowledged and killer.kills.total() > SECONDS / EVERY / 4, "it did too little to prove anything"
    # … and then nothing.
    for c in (idle, busy):
        c.delete(wait=False)
    for c in (idle, busy):
        wait_for(lambda: not c.exists(), 180, f"{c.name} to be gone: {served.tail(1000)}")
        wait_for(lambda: not traces(served, c), 30, f"its last traces to go: {traces(served, c)}")
    wait_for(lambda: not served.api("GET", f"{GROUP}/namespaces/{NS}/nodepools")["items"], 60, "the pool to go")
    assert len(list((served.data / "clusters").iterdir())) <= int(WARM), "directories of clusters"
    assert not attached(volume)
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert not [c.name for c in (idle, busy) if c.uid[:8] in rules]
