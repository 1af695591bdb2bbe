"""Overload: too many writes are refused in time and by name; watchers that do not read lose nothing, hold nobody up, and end when they are too far behind."""
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.parse

import pytest

from cloud import KUBECTL, wait_for
from http2_peer import Peer
from raw import connection_to, get
from stopped_thread import StoppedThread

FLOW_WRITES = 250  # in flight, of one user: a quarter of all
BIG = 900_000
JSON = [("content-type", "application/json"), ("authorization", "Bearer greedy")]


def config_map(name, size=10, n=0):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": str(n), "k": "v" * size}}


# ---- writes ----

@pytest.fixture
def crowded(own_cloud, tmp_path):
    """A cloud that knows a user beside the admin."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{hashlib.sha256(b'greedy').hexdigest()} greedy people\n")
    tokens.chmod(0o600)
    cloud = own_cloud(options={"api-token-file": tokens})
    cloud.project("busy")
    group = "rbac.authorization.k8s.io"
    cloud.api("POST", f"/apis/{group}/v1/namespaces/busy/rolebindings", {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": "greedy"}, "subjects": [
        {"apiGroup": group, "kind": "User", "name": "greedy"}], "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "admin"}})
    return cloud


def test_writes_beyond_the_cap_are_refused(crowded):
    """The disk stands still: a user's writes pile up to the cap, what comes then is told to come again, and others are not held up by it."""
    path = "/api/v1/namespaces/busy/configmaps"
    peers = [Peer(crowded, as_admin=False) for _ in range(4)]
    admin, sent = Peer(crowded), []
    try:
        with StoppedThread(crowded.role_pid("control"), "store"):
            for i in range(FLOW_WRITES + 50):
                peer = peers[i * len(peers) // (FLOW_WRITES + 50)]
                sent.append((peer, peer.request("POST", path, json.dumps(config_map(f"g{i}")).encode(), JSON)))
                if i == FLOW_WRITES - 1:  # connections are served in no order: so that all of these come before the rest
                    wait_for(lambda: all(p.answer(p.request("GET", path, headers=JSON[1:]))["status"] == 200 for p in peers), what="what was sent to be looked at")
            refused = sent[FLOW_WRITES:]
            for peer, stream in refused:
                answer = peer.answer(stream)
                status = json.loads(answer["body"])
                assert answer["status"] == 429 and answer["headers"]["retry-after"] == "1", answer
                assert (status["kind"], status["status"], status["reason"], status["code"]) == ("Status", "Failure", "TooManyRequests", 429)
                assert status["details"]["retryAfterSeconds"] == 1 and "too many writes are in flight" in status["message"]
            assert not any(p.streams[s]["status"] for p, s in sent[:FLOW_WRITES])
            other = admin.request("POST", path, json.dumps(config_map("admins")).encode(), JSON[:1])
            assert admin.answer(admin.request("GET", path))["status"] == 200  # reads do not wait
            assert admin.streams[other]["status"] is None                     # accepted, and on its way
        assert admin.answer(other)["status"] == 201
        for peer, stream in sent[:FLOW_WRITES]:
            assert peer.answer(stream)["status"] == 201
        assert peers[0].answer(peers[0].request("POST", path, json.dumps(config_map("again")).encode(), JSON))["status"] == 201
    finally:
        for peer in [*peers, admin]:
            peer.sock.close()


# ---- answers that are not read ----

def test_answers_that_nobody_reads_do_not_fill_the_memory(crowded):
    for i in range(3):
        crowded.api("POST", "/api/v1/namespaces/busy/configmaps", config_map(f"big{i}", BIG))
    path = "/api/v1/namespaces/busy/configmaps"
    with Peer(crowded, window=0, as_admin=False) as peer:
        streams = [peer.request("GET", path, headers=JSON) for _ in range(60)]
        peer.until(lambda: all(peer.streams[s]["status"] for s in streams))
        statuses = [peer.streams[s]["status"] for s in streams]
        assert set(statuses) == {200, 429} and 20 <= statuses.count(200) <= 26, statuses  # 64 MiB of 2.7 MB each
        with Peer(crowded, as_admin=False) as other:
            assert other.answer(other.request("GET", path, headers=JSON))["status"] == 429  # a connection more gives no more
        assert get(crowded, path).status == 200  # others read on
    with Peer(crowded, as_admin=False) as peer:
        wait_for(lambda: peer.answer(peer.request("GET", path, headers=JSON))["status"] == 200, what="the memory to be given back")


# ---- watchers ----

def start_watch(cloud, ns, **query):
    connection = connection_to(cloud, 60)
    connection.request("GET", f"/api/v1/namespaces/{ns}/configmaps?" + urllib.parse.urlencode({"watch": "1", **query}))
    answer = connection.getresponse()
    assert answer.status == 200
    return connection, answer


def event(answer):
    line = answer.readline()
    return json.loads(line) if line else None


def change(cloud, ns, count, name="m", meanwhile=lambda n: None):
    """So many versions of a large object, with meanwhile(n) after each; returns the revision before them."""
    path = f"/api/v1/namespaces/{ns}/configmaps"
    first = cloud.api("POST", path, config_map(name))["metadata"]["resourceVersion"]
    connection = connection_to(cloud, 60)
    for n in range(1, count + 1):
        connection.request("PUT", f"{path}/{name}", json.dumps(config_map(name, BIG, n)), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        meanwhile(n)
    connection.close()
    return first


@pytest.mark.parametrize("version", [1, 2])
def test_a_watcher_that_reads_late_loses_nothing(cloud, project, version):
    """Thirty megabytes of changes while it does not read: far more than the server keeps for it and than sockets hold."""
    if version == 1:
        connection, answer = start_watch(cloud, project, resourceVersion="0")
        change(cloud, project, 33)
        events = [event(answer) for _ in range(34)]
        connection.close()
    else:
        with Peer(cloud) as p:
            stream = p.request("GET", f"/api/v1/namespaces/{project}/configmaps?watch=1&resourceVersion=0")
            p.until(lambda: p.streams[stream]["status"] == 200)
            change(cloud, project, 33)
            p.until(lambda: p.streams[stream]["body"].count(b"\n") == 34)
            events = [json.loads(line) for line in p.streams[stream]["body"].splitlines()]
    assert [e["type"] for e in events] == ["ADDED"] + ["MODIFIED"] * 33
    assert [int(e["object"]["data"]["n"]) for e in events] == list(range(34))


def test_going_on_from_far_behind_makes_progress(cloud, project):
    """What a client that was away asks for is more than a buffer holds; it still comes, and then what is new."""
    first = change(cloud, project, 20)
    connection, answer = start_watch(cloud, project, resourceVersion=first)
    assert [event(answer)["object"]["data"]["n"] for _ in range(20)] == [str(n) for n in range(1, 21)]
    cloud.api("DELETE", f"/api/v1/namespaces/{project}/configmaps/m")
    assert event(answer)["type"] == "DELETED"
    connection.close()


@pytest.mark.parametrize("query", [{"resourceVersion": "0"}, {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}])
def test_what_exists_may_be_more_than_a_buffer(cloud, project, query):
    path = f"/api/v1/namespaces/{project}/configmaps"
    for i in range(24):
        cloud.api("POST", path, config_map(f"m{i:02}", BIG))
    connection, answer = start_watch(cloud, project, **query)
    cloud.api("POST", path, config_map("late"))
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in (event(answer) for _ in range(24))] == [("ADDED", f"m{i:02}") for i in range(24)]
    if len(query) > 1:
        mark = event(answer)
        assert mark["type"] == "BOOKMARK" and mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert event(answer)["object"]["metadata"]["name"] == "late"
    connection.close()


def test_a_burst_may_be_more_than_a_buffer(cloud, project):
    """A collection is deleted at once; a watcher that stops in the middle of it gets the rest, each once."""
    path = f"/api/v1/namespaces/{project}/configmaps"
    for i in range(24):
        cloud.api("POST", path, config_map(f"m{i:02}", BIG))
    connection, answer = start_watch(cloud, project, resourceVersion=cloud.api("GET", path + "?limit=1")["metadata"]["resourceVersion"])
    cloud.api("DELETE", path)
    cloud.api("POST", path, config_map("after"))
    events = [event(answer) for _ in range(25)]
    assert sorted(e["object"]["metadata"]["name"] for e in events[:24]) == [f"m{i:02}" for i in range(24)] and {e["type"] for e in events[:24]} == {"DELETED"}
    assert len({e["object"]["metadata"]["resourceVersion"] for e in events[:24]}) == 24
    assert (events[24]["type"], events[24]["object"]["metadata"]["name"]) == ("ADDED", "after")
    connection.close()


def test_too_far_behind_is_410(own_cloud):
    """History has a size. Who is behind it reads what was sent, in order, then that its version is too old, and a clean end; a new list serves it."""
    cloud = own_cloud()
    cloud.project("busy")
    connection, answer = start_watch(cloud, "busy", resourceVersion="0")
    seen = []

    def read_now_and_then(n):  # who reads nothing at all is cut off after a minute, which this may take
        if n % 40 == 0:
            seen.append(int(event(answer)["object"]["data"]["n"]))
    change(cloud, "busy", 330, meanwhile=read_now_and_then)
    while (e := event(answer)) and e["type"] != "ERROR":
        seen.append(int(e["object"]["data"]["n"]))
    assert seen == list(range(len(seen))) and 1 < len(seen) < 330
    assert e and (e["object"]["code"], e["object"]["reason"]) == (410, "Expired") and "too old resource version" in e["object"]["message"]
    assert event(answer) is None  # by a last chunk: a cut would raise
    connection.close()
    listed = get(cloud, "/api/v1/namespaces/busy/configmaps").json()
    assert listed["items"][0]["data"]["n"] == "330"


def test_kubectl_that_stood_still_prints_everything(cloud, project):
    p = subprocess.Popen([KUBECTL, "-n", project, "get", "configmaps", "-w", "-o", "jsonpath={.data.n} "], stdout=subprocess.PIPE, text=True,
                         env={**os.environ, "KUBECONFIG": cloud.kubeconfig, "HOME": str(cloud.dir)})
    try:
        cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map("first", n=7))
        assert p.stdout.read(2) == "7 "
        os.kill(p.pid, signal.SIGSTOP)
        change(cloud, project, 33)
        os.kill(p.pid, signal.SIGCONT)
        said = ""
        while not said.endswith(" 33 "):
            said += p.stdout.read(1)
        assert [int(n) for n in said.split()] == list(range(34))
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


def watches(cloud):
    return next(float(line.split()[-1]) for line in cloud.metrics().splitlines() if line.startswith("seki_apiserver_watches "))


@pytest.mark.full
def test_a_watcher_that_never_reads_is_ended(own_cloud):
    """After a minute without a byte taken; it may come again and go on from what it saw."""
    cloud = own_cloud()
    cloud.project("busy")
    connection, answer = start_watch(cloud, "busy", resourceVersion="0")
    first = change(cloud, "busy", 33)
    running, began = watches(cloud), time.monotonic()
    wait_for(lambda: watches(cloud) == running - 1, 30, "the watch to be ended")
    assert time.monotonic() - began > 30
    connection.close()
    connection, answer = start_watch(cloud, "busy", resourceVersion=first)
    assert [int(event(answer)["object"]["data"]["n"]) for _ in range(33)] == list(range(1, 34))
    connection.close()


def test_each_deletion_of_a_collection_has_its_revision(cloud, project):
    """A watcher that is cut off after any event resumes behind its revision: two events in one could not be told apart."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    for i in range(20):
        made = cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"d{i}"}})
    cloud.api("DELETE", base)
    text = cloud.api("GET", f"{base}?watch=1&resourceVersion={made['metadata']['resourceVersion']}&timeoutSeconds=1", raw=True)
    events = [json.loads(line) for line in text.splitlines() if line]
    revisions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events if e["type"] == "DELETED"]
    assert len(revisions) == 20 and revisions == sorted(set(revisions))
