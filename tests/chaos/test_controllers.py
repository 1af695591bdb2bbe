"""Control is killed at any instant while endpoints come, grow, shrink and go: in the end there is what the specs want, and nothing else."""
import http.client
import json
import os
import pathlib
import random
import signal
import ssl
import threading
import time

import pytest

from cloud import ApiError, GROUP, SLOW, until_answered, wait_for

SEED = 20260301
KILLS = 20
NAMES = [f"e{i}" for i in range(6)]
MAX_REPLICAS = 3


class Watcher(threading.Thread):
    """A client of the raw API: lists once, then watches, resuming by resourceVersion. Keeps what it knows, and whatever contradicts itself."""

    def __init__(self, cloud, plural):
        super().__init__(daemon=True)
        self.cloud, self.plural = cloud, plural
        self.stop = threading.Event()
        self.known, self.revision, self.resumed, self.listed, self.wrong = {}, 0, 0, 0, []
        self.context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        self.context.load_cert_chain(str(cloud.data / "pki" / "admin.crt"), str(cloud.data / "pki" / "admin.key"))

    def run(self):
        while not self.stop.is_set():
            try:
                if not self.revision:
                    self.list()
                self.watch()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.02)  # the API is down: not a wait for a result

    def request(self, query):
        host, port = self.cloud.address("api").rsplit(":", 1)
        connection = http.client.HTTPSConnection(host, int(port), timeout=5 * SLOW, context=self.context)
        connection.request("GET", f"{GROUP}/{self.plural}{query}", headers={"Accept": "application/json"})
        return connection, connection.getresponse()

    def list(self):
        connection, answer = self.request("")
        body = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            raise OSError(answer.status)
        revision = int(body["metadata"]["resourceVersion"])
        if revision < self.revision:
            self.wrong.append(f"a list at {revision} after {self.revision}")
        self.known = {o["metadata"]["uid"]: int(o["metadata"]["resourceVersion"]) for o in body["items"]}
        self.revision, self.listed = revision, self.listed + 1

    def watch(self):
        connection, answer = self.request(f"?watch=1&allowWatchBookmarks=true&resourceVersion={self.revision}")
        try:
            if answer.status != 200:
                body = answer.read()
                if answer.status == 504 or b"Too large resource version" in body:
                    self.wrong.append(f"the server knows nothing of {self.revision}: {body[:200]}")
                raise OSError(answer.status)
            self.resumed += 1
            while not self.stop.is_set():
                line = answer.readline()
                if not line.endswith(b"\n"):
                    raise OSError("cut")
                self.event(json.loads(line))
        finally:
            connection.close()

    def event(self, event):
        meta, kind = event["object"]["metadata"], event["type"]
        if kind == "ERROR":
            self.wrong.append(event["object"])
            raise OSError("error event")
        revision = int(meta["resourceVersion"])
        if revision < self.revision or (kind != "BOOKMARK" and revision == self.revision):
            self.wrong.append(f"{kind} {meta.get('name')} at {revision} after {self.revision}")
        if kind == "ADDED" and meta["uid"] in self.known or kind in ("MODIFIED", "DELETED") and meta["uid"] not in self.known:
            self.wrong.append(f"{kind} of {meta['name']}, which was {self.known.get(meta['uid'], 'unknown')}")
        if kind == "DELETED":
            self.known.pop(meta["uid"], None)
        elif kind != "BOOKMARK":
            self.known[meta["uid"]] = revision
        self.revision = revision


class Changes(threading.Thread):
    """Creates, scales and deletes endpoints at random. An answer that was lost leaves open what happened, so it asks again until it knows."""

    def __init__(self, cloud, seed):
        super().__init__(daemon=True)
        self.cloud, self.random, self.stop = cloud, random.Random(seed), threading.Event()
        self.wanted, self.done, self.failure = {}, 0, None

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
                self.done += 1
                self.stop.wait(self.random.random() * 0.1)
        except BaseException as e:  # pylint: disable=broad-except
            self.failure = e

    def step(self):
        name = self.random.choice(NAMES)
        replicas = self.random.randint(0, MAX_REPLICAS)
        path = f"{GROUP}/namespaces/chaos/modelendpoints/{name}"
        if name not in self.wanted:
            spec = {"replicas": replicas, "engine": {"driver": "fake"}}
            status = until_answered(lambda: self.cloud.create("modelendpoints", "chaos", name, spec))
            assert status in (0, 409), status  # 409: it is going still, or a first try was carried out
            present = {}
            if until_answered(lambda: present.update(self.cloud.get("modelendpoints", "chaos", name))) == 0 and "deletionTimestamp" not in present["metadata"]:
                self.wanted[name] = present["spec"]["replicas"]
        elif self.random.random() < 0.3:
            assert until_answered(lambda: self.cloud.api("DELETE", path)) in (0, 404)
            del self.wanted[name]
        else:
            patch = {"spec": {"replicas": replicas}}
            status = until_answered(lambda: self.cloud.api("PATCH", path, patch, content_type="application/merge-patch+json"))
            assert status == 0, status
            self.wanted[name] = replicas


def engines_of(cloud):
    """Processes of engines that serve from this cloud's directory, whoever their parent is."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"/fake_engine") and any(str(cloud.data).encode() in w for w in words):
                found.append(int(entry.name))
    return sorted(found)


def expected(wanted):
    return sorted(f"{name}-{i}" for name, replicas in wanted.items() for i in range(replicas))


def replicas_of(cloud):
    return cloud.api("GET", f"{GROUP}/namespaces/chaos/modelreplicas")["items"]


def settled(cloud, wanted):
    """None, or why this is not what the specs want."""
    try:
        endpoints = {e["metadata"]["name"]: e for e in cloud.api("GET", f"{GROUP}/namespaces/chaos/modelendpoints")["items"]}
        replicas = replicas_of(cloud)
    except (OSError, ApiError) as e:
        return f"the API: {e}"
    if {n: e["spec"]["replicas"] for n, e in endpoints.items()} != wanted:
        return f"endpoints {sorted(endpoints)}, wanted {wanted}"
    names = sorted(r["metadata"]["name"] for r in replicas)
    if names != expected(wanted):
        return f"replicas {names}, wanted {expected(wanted)}"
    for r in replicas:
        owners = [o["uid"] for o in r["metadata"]["ownerReferences"]]
        if owners != [endpoints[r["spec"]["endpoint"]]["metadata"]["uid"]]:
            return f"{r['metadata']['name']} belongs to {owners}"
        if not any(c["type"] == "Ready" and c["status"] == "True" for c in r.get("status", {}).get("conditions", [])):
            return f"{r['metadata']['name']} is not ready: {r.get('status', {}).get('conditions')}"
    pids = sorted(r["status"]["pid"] for r in replicas)
    if pids != engines_of(cloud):
        return f"engines {engines_of(cloud)}, replicas say {pids}"
    return None


def await_settled(cloud, wanted):
    why = []

    def holds():
        why[:] = [settled(cloud, wanted)]
        return why[0] is None
    try:
        wait_for(holds, 60, "what the specs want")
    except AssertionError:
        raise AssertionError(f"{why[0]}; log: {cloud.tail(6000)}") from None


@pytest.mark.timeout(900)
def test_control_killed_twenty_times_while_endpoints_change(own_cloud):
    cloud = own_cloud()
    cloud.project("chaos")
    chance = random.Random(SEED)
    watchers = [Watcher(cloud, plural) for plural in ("modelendpoints", "modelreplicas")]
    changes = Changes(cloud, SEED)
    for t in (*watchers, changes):
        t.start()
    try:
        for _ in range(KILLS):
            # Some kills hit a control that has just begun, some one that is at work.
            if chance.random() < 0.7:
                goal = changes.done + chance.randint(1, 6)
                wait_for(lambda: changes.failure or changes.done >= goal, 60, "changes to be made")
                assert not changes.failure, changes.failure
            pid = wait_for(lambda: cloud.role_pid("control"), what="control")
            threading.Event().wait(chance.random() * 0.3)  # the random instant
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_for(lambda: cloud.role_pid("control") != pid, what="control to end")
    finally:
        changes.stop.set()
        changes.join(90 * SLOW)
    assert not changes.failure, changes.failure
    cloud.wait_ready(60)
    assert changes.done >= KILLS
    await_settled(cloud, changes.wanted)
    # The watchers arrive at the same, and were never told anything older than what they knew.
    final = {r["metadata"]["uid"]: int(r["metadata"]["resourceVersion"]) for r in replicas_of(cloud)}
    wait_for(lambda: set(watchers[1].known) == set(final), 30, "the watcher to know the replicas")
    for w in watchers:
        w.stop.set()
        assert not w.wrong, w.wrong[:5]
        assert w.resumed > KILLS / 4, "it watched too little to prove anything"
        assert w.listed == 1
    # All goes, and nothing stays behind.
    for name in changes.wanted:
        cloud.api("DELETE", f"{GROUP}/namespaces/chaos/modelendpoints/{name}")
    await_settled(cloud, {})
    assert not list((cloud.data / "run" / "workloads").glob("mr-*.json")), "records of workloads that are gone"
