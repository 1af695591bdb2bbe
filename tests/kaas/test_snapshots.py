"""Snapshots of volumes: what was written before is there in a new claim, what came after is not, and a deleted one leaves nothing. Needs root and the programs (make kubernetes)."""
import json
import os
import signal

import pytest

from cloud import wait_for
from kube import inside, leftovers
from test_storage import CANARY, attached, claim, events_of, image_of, lies_below, made, pool, run, served, volume_of  # noqa: F401  (fixtures)

pytestmark = [pytest.mark.kube, pytest.mark.full]

SNAPSHOT = """
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {{name: {name}}}
spec: {{source: {{persistentVolumeClaimName: {claim}}}}}
"""
RESTORED = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: {size}}}}}
  dataSource: {{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: {snapshot}}}
"""


def get(cluster, kind, name=None):
    p = cluster.kubectl("get", kind, *([name] if name else []), "-o", "json", check=False)
    return json.loads(p.stdout) if p.returncode == 0 else None


def snapshot(cluster, name, of):
    cluster.kubectl("apply", "-f", "-", input=SNAPSHOT.format(name=name, claim=of))


def is_ready(cluster, name):
    return ((get(cluster, "volumesnapshot", name) or {}).get("status") or {}).get("readyToUse")


def copies(cluster):
    return list((cluster.directory / "nodes").glob("*/volumes/snap-*"))


def read(cluster, pod, file):
    return cluster.kubectl("exec", pod, "--", "cat", f"/data/{file}", check=False).stdout.strip()


def test_their_class_is_applied(served, made, pool):  # noqa: F811
    """Not created: an API server lets the first create of a kind that it has known for less than two seconds wait for two seconds, and nodes with it."""
    wait_for(lambda: get(made, "volumesnapshotclass", "local"), 30, "the class")
    said = [json.loads(line) for line in (made.directory / "audit" / "audit.log").read_text().splitlines()]
    verbs = [e["verb"] for e in said if e.get("objectRef", {}).get("resource") == "volumesnapshotclasses" and e["verb"] not in ("get", "list", "watch")]
    assert verbs and set(verbs) == {"patch"}, verbs


def test_a_restored_claim_has_what_was_there_before(served, made, pool):  # noqa: F811
    claim(made, "data")
    # It writes on and on, so that the copy is made beneath a writer.
    run(made, "writer", "data", "echo a-secret-that'-no-other-file-has' > /data/file; sync; while true; do echo more >> /data/on; sleep 0.05; done")
    wait_for(lambda: read(made, "writer", "file") == CANARY, 30, "the file")
    snapshot(made, "first", "data")
    wait_for(lambda: is_ready(made, "first"), 60, f"the snapshot: {get(made, 'volumesnapshot', 'first')}")
    said = get(made, "volumesnapshot", "first")["status"]
    assert said["restoreSize"] == "32Mi" and "error" not in said, said
    [copy] = copies(made)
    assert copy.stat().st_size == 32 << 20 and copy.parent == image_of(made, "data").parent
    made.kubectl("exec", "writer", "--", "sh", "-c", "echo other > /data/file; sync")  # and it writes still
    size = int(made.kubectl("exec", "writer", "--", "stat", "-c", "%s", "/data/on").stdout)
    wait_for(lambda: int(made.kubectl("exec", "writer", "--", "stat", "-c", "%s", "/data/on").stdout) > size, 30, "it to write on")
    made.kubectl("apply", "-f", "-", input=RESTORED.format(name="again", size="32Mi", snapshot="first"))
    run(made, "reader", "again", "sleep 100000")
    assert read(made, "reader", "file") == CANARY and read(made, "writer", "file") == "other"
    # The pod went where the snapshot is, without being told.
    assert made.kubectl("get", "pod", "reader", "-o", "jsonpath={.spec.nodeName}").stdout == copy.parent.parent.name
    # Two volumes from then on.
    made.kubectl("exec", "reader", "--", "sh", "-c", "echo third > /data/file; sync")
    assert read(made, "writer", "file") == "other"


def test_an_unused_volume_has_snapshots_too(made, pool):  # noqa: F811
    made.kubectl("delete", "pod", "reader")
    wait_for(lambda: not attached(volume_of(made, "again")), 60, "its volume to be let go")
    snapshot(made, "second", "again")
    wait_for(lambda: is_ready(made, "second"), 60, "the snapshot")
    made.kubectl("apply", "-f", "-", input=RESTORED.format(name="third", size="32Mi", snapshot="second"))
    run(made, "third", "third", "sleep 100000")
    assert read(made, "third", "file") == "third"
    run(made, "reader", "again", "sleep 100000")
    assert read(made, "reader", "file") == "third"


def test_what_cannot_be_is_said(made, pool):  # noqa: F811
    made.kubectl("apply", "-f", "-", input=RESTORED.format(name="larger", size="40Mi", snapshot="first"))
    wait_for(lambda: any("spec.resources.requests.storage: expected 32Mi" in m for m in events_of(made, "larger")), 60, "an Event")
    # 256 MiB a node, and snapshots count as volumes do.
    for i in range(8):
        snapshot(made, f"many-{i}", "data")
    wait_for(lambda: any("bytes together" in (get(made, "volumesnapshot", f"many-{i}")["status"].get("error") or {}).get("message", "") for i in range(8) if get(made, "volumesnapshot", f"many-{i}").get("status")), 60,
             "an error")
    assert sum(f.stat().st_size for f in image_of(made, "data").parent.iterdir()) <= 256 << 20
    made.kubectl("delete", "pvc", "larger")
    for i in range(8):
        made.kubectl("delete", "volumesnapshot", f"many-{i}")
    wait_for(lambda: len(get(made, "volumesnapshotcontents")["items"]) == 2 == len(copies(made)), 60, "theirs to go")
    refused = made.kubectl("apply", "-f", "-", input=SNAPSHOT.format(name="none", claim='""'), check=False)
    assert refused.returncode != 0 and "spec.source.persistentVolumeClaimName" in refused.stderr


def test_a_killed_agent_leaves_nothing_frozen(made, pool):  # noqa: F811
    """Whenever it is killed: the pod writes on, and the snapshot is there in the end."""
    outer = pool.outer(image_of(made, "data").parent.parent.name)
    for i in range(4):
        before = inside(outer, "seki-agent")
        snapshot(made, f"late-{i}", "data")
        content = f"snapcontent-{get(made, 'volumesnapshot', f'late-{i}')['metadata']['uid']}"
        if i % 2:
            wait_for(lambda: get(made, "volumesnapshotcontent", content), 60, "its content")  # the copy is being made
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: inside(outer, "seki-agent") not in ([], before), 60, "another agent")
        wait_for(lambda: is_ready(made, f"late-{i}"), 60, "the snapshot")
        size = int(made.kubectl("exec", "writer", "--", "stat", "-c", "%s", "/data/on").stdout)
        wait_for(lambda: int(made.kubectl("exec", "writer", "--", "stat", "-c", "%s", "/data/on").stdout) > size, 30, "the pod to write on")
        made.kubectl("delete", "volumesnapshot", f"late-{i}")
        wait_for(lambda: not get(made, "volumesnapshotcontent", content), 60, "it to go")


def test_a_deleted_snapshot_leaves_nothing(served, made, pool):  # noqa: F811
    uid = get(made, "volumesnapshot", "first")["metadata"]["uid"]
    [copy] = [c for c in copies(made) if uid in c.name]
    with open(copy, "rb") as kept:
        assert CANARY.encode() in kept.read()
        made.kubectl("delete", "volumesnapshot", "first")
        wait_for(lambda: not get(made, "volumesnapshotcontent", f"snapcontent-{uid}"), 60, "its content to go")
        kept.seek(0)
        assert not kept.read().strip(b"\0") and not copy.exists()
    # What was made of it stays; one that is made of it now is told.
    made.kubectl("apply", "-f", "-", input=RESTORED.format(name="late", size="32Mi", snapshot="first"))
    run(made, "late", "late", "sleep 1", wait=None)
    wait_for(lambda: any("expected a VolumeSnapshot that is ready" in m for m in events_of(made, "late")), 60, "an Event")
    made.kubectl("delete", "pod", "late")
    made.kubectl("delete", "pvc", "late")


def test_a_deleted_cluster_takes_its_snapshots_along(served, made, pool):  # noqa: F811
    """Last."""
    [copy] = copies(made)
    with open(copy, "rb") as kept:
        assert kept.read().strip(b"\0")
        made.delete()
        kept.seek(0)
        assert not kept.read().strip(b"\0")
    assert not made.directory.exists() and not leftovers(made.uid) and not lies_below(served.data)
