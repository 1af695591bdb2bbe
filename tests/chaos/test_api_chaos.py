"""Control is killed at any instant while kubectl applies, raw clients write over HTTP/1.1 and HTTP/2, and watchers of two kinds follow: what was acknowledged is there,
revisions go one way, nothing is half there, and no child is made twice."""
import http.client
import json
import os
import random
import socket
import ssl
import threading
import time

import kubernetes
import pytest
import urllib3.exceptions
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from cloud import GROUP, SLOW, ApiError, wait_for
from http2_peer import Peer
from raw import connection_to
from test_controllers import Watcher

SET = 5          # objects that are deleted by one request
ENDPOINTS = 8    # made while the kills go on
MAPS = "/api/v1/namespaces/chaos/configmaps"
DOWN = (OSError, http.client.HTTPException, ValueError, AssertionError, ssl.SSLError, socket.error)


def config_map(name, n=0, **labels):
    """Two members that are always alike: an object that has them different was half written."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"a": str(n), "b": str(n)}}


class Worker(threading.Thread):
    """Steps until it is stopped; a failure of the test's own ends it and is kept."""

    def __init__(self, cloud):
        super().__init__(daemon=True)
        self.cloud, self.stop, self.failure, self.done = cloud, threading.Event(), None, 0

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
        except BaseException as e:  # pylint: disable=broad-except
            self.failure = e


class Kubectl(Worker):
    """Applies ever newer versions of a few objects, client-side and server-side in turns. Knows of each the version that was acknowledged last, and the one tried last."""

    def __init__(self, cloud):
        super().__init__(cloud)
        self.acknowledged, self.tried, self.n = {}, {}, 0

    def step(self):
        self.n += 1
        name = f"kubectl{self.n % 4}"
        how = ["--server-side"] if self.n % 2 else []
        self.tried[name] = self.n
        p = self.cloud.kubectl("apply", "-n", "chaos", *how, "-f", "-", input=json.dumps(config_map(name, self.n)), check=False)
        if p.returncode == 0:
            self.acknowledged[name] = self.n
            self.done += 1


class Raw(Worker):
    """Creates objects, each once; and sets of them that it deletes in one request."""

    def __init__(self, cloud, tag, connect):
        super().__init__(cloud)
        self.tag, self.connect, self.call = tag, connect, None
        self.acknowledged, self.deleted, self.n = {}, set(), 0

    def ask(self, method, path, body=None):
        """(status, document); (None, None): nobody knows what happened."""
        try:
            if self.call is None:
                self.call = self.connect(self.cloud)
            return self.call(method, path, body)
        except DOWN:
            self.call = None
            time.sleep(0.02)  # the API is down: not a wait for a result
            return None, None

    def create(self, name, **labels):
        status, made = self.ask("POST", MAPS, config_map(name, **labels))
        if status == 201:
            self.acknowledged[name] = int(made["metadata"]["resourceVersion"])
            self.done += 1
        return status == 201

    def step(self):
        self.n += 1
        self.create(f"{self.tag}-{self.n}")
        if self.n % 10 == 0:
            names = [f"{self.tag}-{self.n}-{i}" for i in range(SET)]
            if all([self.create(name, set=f"{self.tag}-{self.n}") for name in names]):
                self.delete_set(names)

    def delete_set(self, names):
        label = names[0].rsplit("-", 1)[0]
        status = None
        while status is None and not self.stop.is_set():
            status, _ = self.ask("DELETE", f"{MAPS}?labelSelector=set%3D{label}")
            if status != 200:
                got, listed = self.ask("GET", f"{MAPS}?labelSelector=set%3D{label}")
                if got == 200:
                    status = 200 if not listed["items"] else None
        if status == 200:
            self.deleted.update(names)
        for name in names:  # deleted, or nobody knows
            del self.acknowledged[name]


def http1(cloud):
    connection = connection_to(cloud, 10 * SLOW)

    def call(method, path, body):
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    return call


def http2(cloud):
    peer = Peer(cloud)

    def call(method, path, body):
        answer = peer.answer(peer.request(method, path, None if body is None else json.dumps(body).encode(), [("content-type", "application/json")]))
        if answer["reset"] is not None:
            raise OSError("reset")
        return answer["status"], json.loads(answer["body"])
    return call


class Follower(Worker):
    """The Python client's dynamic watch; goes on from the last version it saw, and lists anew only when that is too old."""

    def __init__(self, cloud):
        super().__init__(cloud)
        self.version, self.known, self.wrong, self.listed, self.client, self.address = 0, {}, [], 0, None, None

    def resource(self):
        if self.client is None or self.address != self.cloud.address("api"):
            self.address = self.cloud.address("api")
            self.client = DynamicClient(kubernetes.config.new_client_from_config(self.cloud.kubeconfig))
        return self.client.resources.get(api_version="v1", kind="ConfigMap")

    def step(self):
        try:
            resource = self.resource()
            if not self.version:
                listed = resource.get(namespace="chaos")
                self.version, self.listed = int(listed.metadata.resourceVersion), self.listed + 1
                self.known = {o.metadata.name: int(o.metadata.resourceVersion) for o in listed.items}
            for event in resource.watch(namespace="chaos", resource_version=str(self.version), timeout=2):
                self.hear(event["type"], event["raw_object"]["metadata"])
        except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as e:
            self.note(e)

    def note(self, e):
        self.client = None
        if getattr(e, "status", None) in (410, 504):
            self.wrong.append(f"the server knows nothing of {self.version}: {e}")
            self.version = 0
        time.sleep(0.02)  # the API is down: not a wait for a result

    def hear(self, kind, meta):
        revision, name = int(meta["resourceVersion"]), meta["name"]
        if revision < self.version:
            self.wrong.append(f"{kind} {name} at {revision} after {self.version}")
        if (kind == "ADDED") == (name in self.known):
            self.wrong.append(f"{kind} of {name}, which was {self.known.get(name, 'unknown')}")
        if kind == "DELETED":
            self.known.pop(name, None)
        else:
            self.known[name] = revision
        self.version = revision


class Children(Watcher):
    """Every child that ever was, by name."""

    def __init__(self, cloud):
        super().__init__(cloud, "modelreplicas")
        self.ever = {}

    def list(self):
        super().list()
        for o in self.cloud.api("GET", f"{GROUP}/modelreplicas")["items"]:
            self.ever.setdefault(o["metadata"]["name"], set()).add(o["metadata"]["uid"])

    def event(self, event):
        super().event(event)
        if event["type"] == "ADDED":
            self.ever.setdefault(event["object"]["metadata"]["name"], set()).add(event["object"]["metadata"]["uid"])


def make_endpoint(cloud, name):
    """Until it is there, whoever's try it was."""
    def made():
        try:
            cloud.create("modelendpoints", "chaos", name, {"replicas": 2, "engine": {"driver": "fake"}})
        except ApiError as e:
            return e.status == 409
        except (OSError, ValueError):
            return False
        return True
    wait_for(made, 60, f"endpoint {name}")


def kill_and_check(cloud, kills, seed):
    print(f"seed {seed}")
    rnd = random.Random(seed)
    cloud.project("chaos")
    writers = [Kubectl(cloud), Raw(cloud, "one", http1), Raw(cloud, "two", http2)]
    follower, children = Follower(cloud), Children(cloud)
    everybody = [*writers, follower, children]
    for w in everybody:
        w.start()
    try:
        for i in range(kills):
            if i * ENDPOINTS // kills != (i - 1) * ENDPOINTS // kills:
                make_endpoint(cloud, f"e{i * ENDPOINTS // kills}")
            if rnd.random() < 0.8:  # else at once, while it starts
                wanted = sum(w.done for w in writers) + rnd.randint(1, 30)
                wait_for(lambda: sum(w.done for w in writers) >= wanted, 60, f"writes to be acknowledged (seed {seed}, kill {i})")  # pylint: disable=cell-var-from-loop
            time.sleep(rnd.random() * 0.05)  # the instant
            cloud.kill_role("control")
        cloud.wait_ready(60)
        end = [w.done + 2 for w in writers]
        wait_for(lambda: all(w.done >= n or w.failure for w, n in zip(writers, end)), 60, "all to write once more")
        for w in writers:
            w.stop.set()
            w.join()
        check(cloud, writers, follower, children)
    finally:
        for w in everybody:
            w.stop.set()
            w.join(60)


def check(cloud, writers, follower, children):
    assert [w.failure for w in [*writers, follower] if w.failure] == []
    stored = {o["metadata"]["name"]: o for o in cloud.api("GET", MAPS)["items"]}
    versions = {name: int(o["metadata"]["resourceVersion"]) for name, o in stored.items()}
    halves = [name for name, o in stored.items() if o["data"]["a"] != o["data"]["b"]]
    assert not halves, halves
    kubectl, *raws = writers
    for name, n in kubectl.acknowledged.items():
        assert n <= int(stored[name]["data"]["a"]) <= kubectl.tried[name], (name, stored[name]["data"], n, kubectl.tried[name])
    for raw in raws:
        lost = {name: rev for name, rev in raw.acknowledged.items() if versions.get(name) != rev}
        assert not lost, f"of {len(raw.acknowledged)} acknowledged: {lost}"
        assert not raw.deleted & set(stored)
    assert len(set(versions.values())) == len(versions), "two objects share a revision"
    wait_for(lambda: follower.known == versions or follower.failure, 30, "the Python client's watch to know what is there")
    assert follower.wrong == [] and follower.listed == 1
    wanted = {f"e{i}-{n}" for i in range(ENDPOINTS) for n in range(2)}
    wait_for(lambda: set(children.ever) == wanted, 60, f"the children ({set(children.ever) ^ wanted})")
    assert {name: len(uids) for name, uids in children.ever.items()} == dict.fromkeys(wanted, 1)
    assert children.wrong == [] and children.listed == 1


def seed_of_today():
    return int(os.environ.get("SEKI_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.mark.timeout(900)
def test_kills_under_three_kinds_of_clients(own_cloud):
    kill_and_check(own_cloud(), 15, seed_of_today())


@pytest.mark.full
@pytest.mark.timeout(5400)
def test_two_hundred_kills(own_cloud):
    kill_and_check(own_cloud(), 200, seed_of_today())
