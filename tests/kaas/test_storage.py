"""Volumes of clusters: claims get one on the node of their pod, with what was written kept until it is wiped. Needs root and the programs (make kubernetes)."""
import json
import os
import pathlib
import signal
import subprocess

import pytest

import kube
from cloud import wait_for
from kube import Pool, inside, leftovers

pytestmark = [pytest.mark.kube, pytest.mark.full]

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [{mode}], resources: {{requests: {{storage: {size}}}}}}}
---
"""
CANARY = "a-secret-that-no-other-file-has"
# In two halves, or the command line itself would be found.
WRITE = "echo a-secret-that'-no-other-file-has' > /data/file; sync; sleep 100000"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with kube.cloud(kube.node_programs(tmp_path_factory.mktemp("programs")), kubernetes_node_storage="256M") as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    return kube.Cluster.ready(served, "demo", "one")


@pytest.fixture(scope="module")
def pool(made):
    return Pool.ready(made, "workers", count=2, machine={"memoryMiB": 1024})


def claim(cluster, name, size="32Mi", mode="ReadWriteOnce"):
    cluster.kubectl("apply", "-f", "-", input=CLAIM.format(name=name, size=size, mode=mode))


def run(cluster, name, claim, command, node=None, wait="Ready"):
    cluster.apply(kube.pod(name, kube.container("one", "sh", "-c", command, volumeMounts=[{"name": "data", "mountPath": "/data"}]), node=node, grace=0,
                           volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]))
    if wait:
        cluster.kubectl("wait", f"--for=condition={wait}", "--timeout=90s", f"pod/{name}")


def volume_of(cluster, name):
    return cluster.kubectl("get", "pvc", name, "-o", "jsonpath={.spec.volumeName}").stdout


def image_of(cluster, name):
    found = list((cluster.directory / "nodes").glob(f"*/volumes/{volume_of(cluster, name)}.img"))
    assert len(found) == 1, found
    return found[0]


def lies_below(directory):
    p = subprocess.run(["grep", "-rlaF", CANARY, directory], capture_output=True, text=True)
    return p.stdout.split()


def attached(volume):
    """Loop devices; what they say is where the node sees their file."""
    return [p.parent.parent.name for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file") if volume in p.read_text()]


def test_a_claim_is_bound_and_what_one_pod_writes_another_reads(served, made, pool):
    classes = json.loads(made.kubectl("get", "storageclass", "-o", "json").stdout)["items"]
    assert [(c["metadata"]["name"], c["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"], c["volumeBindingMode"], c["reclaimPolicy"]) for c in classes] == [
        ("local", "true", "WaitForFirstConsumer", "Delete")]
    claim(made, "data")
    assert made.kubectl("get", "pvc", "data", "-o", "jsonpath={.status.phase}").stdout == "Pending"  # until a pod wants it
    run(made, "writer", "data", WRITE)
    node = made.kubectl("get", "pod", "writer", "-o", "jsonpath={.spec.nodeName}").stdout
    wait_for(lambda: made.kubectl("exec", "writer", "--", "cat", "/data/file", check=False).stdout.strip() == CANARY, 30, "the file")
    assert made.kubectl("get", "pvc", "data", "-o", "jsonpath={.status.phase}").stdout == "Bound"
    image = image_of(made, "data")
    assert image.stat().st_size == 32 << 20 and image.parent.parent.name == node
    assert lies_below(served.data) == [str(image)]  # what the search below finds nothing of
    made.kubectl("delete", "pod", "writer")
    # Where its volume lies, without being told.
    run(made, "reader", "data", "sleep 100000")
    assert made.kubectl("exec", "reader", "--", "cat", "/data/file").stdout.strip() == CANARY
    assert made.kubectl("get", "pod", "reader", "-o", "jsonpath={.spec.nodeName}").stdout == node


def test_what_an_earlier_release_had_written_goes(served, made, pool):
    """What is in its objects and not in this one's; what somebody else has put there stays."""
    before = json.loads(made.kubectl("get", "storageclass", "local", "-o", "json").stdout)
    old = {k: before[k] for k in ("apiVersion", "kind", "provisioner", "volumeBindingMode", "reclaimPolicy", "allowVolumeExpansion")}
    old["metadata"] = {"name": "local", "annotations": {**before["metadata"]["annotations"], "seki.cloud/written": "old", "seki.cloud/once": "yes"}}
    made.kubectl("apply", "--server-side", "--field-manager=seki", "-f", "-", input=json.dumps(old))
    made.kubectl("annotate", "storageclass", "local", "ours=stays")

    def annotations():
        return json.loads(made.kubectl("get", "storageclass", "local", "-o", "json").stdout)["metadata"]["annotations"]
    assert annotations()["seki.cloud/once"] == "yes"
    served.kill_role("control")
    wait_for(lambda: annotations()["seki.cloud/written"] != "old", 60, "it to be applied anew")
    assert "seki.cloud/once" not in annotations() and annotations()["ours"] == "stays"
    pool.wait()


def test_a_volume_grows_no_larger_than_it_was_asked_for(made, pool):
    p = made.kubectl("exec", "reader", "--", "sh", "-c", "cat /dev/zero > /data/fill; stat -c %s /data/fill; rm /data/fill", check=False)
    assert "No space left" in p.stderr and 16 << 20 < int(p.stdout) <= 32 << 20, p


def test_two_pods_of_a_node_share_a_volume_and_it_stays_until_the_last_has_gone(made, pool):
    run(made, "second", "data", "sleep 100000")
    made.kubectl("exec", "reader", "--", "sh", "-c", "echo both > /data/both")
    assert made.kubectl("exec", "second", "--", "cat", "/data/both").stdout == "both\n"
    assert len(attached(volume_of(made, "data"))) == 1
    made.kubectl("delete", "pod", "second")
    assert made.kubectl("exec", "reader", "--", "cat", "/data/both").stdout == "both\n"


def test_a_pod_does_not_reach_where_volumes_lie(made, pool):
    """Not even one that its node refuses nothing: what it writes there lies in its node, and has a bound. It does not see the agent either, through whose root there is a way."""
    image = image_of(made, "data")
    before = sorted(image.parent.iterdir())
    there = "/var/lib/seki/volumes"
    mounts = [{"name": "there", "mountPath": "/there"}, {"name": "root", "mountPath": "/host"}]
    made.apply(kube.pod("beside", kube.container("one", "sleep", "100000", volumeMounts=mounts, securityContext={"privileged": True}), node=image.parent.parent.name, grace=0, hostPID=True,
                        volumes=[{"name": "there", "hostPath": {"path": there}}, {"name": "root", "hostPath": {"path": "/"}}]))
    made.wait_pods("beside")

    def sh(command):
        return made.kubectl("exec", "beside", "--", "sh", "-c", command, check=False)
    assert sh("echo beside > /there/file; echo /there/*").stdout == "/there/file\n"
    assert sh(f"cat /host{there}/*").stdout == "beside\n"
    assert sorted(image.parent.iterdir()) == before
    filled = sh("cat /dev/zero > /there/fill; stat -c %s /there/fill; rm /there/fill")
    assert "No space left" in filled.stderr and int(filled.stdout) <= 16 << 20, filled
    seen = sh("cat /proc/[0-9]*/comm; for p in /proc/[0-9]*; do echo $p/root/var/lib/seki/volumes/pvc*; done").stdout
    assert "kubelet" in seen and "seki-agent" not in seen and image.name not in seen, seen
    # Nor was any volume let go of.
    assert made.kubectl("exec", "reader", "--", "cat", "/data/both").stdout == "both\n"
    made.kubectl("delete", "pod", "beside")
    assert sorted(image.parent.iterdir()) == before


@pytest.mark.parametrize("program", ["kubelet", "seki-agent"])
def test_volumes_outlive_a_killed(made, pool, program):
    """The program, while a pod is on its way: what runs notices nothing, and what waits gets its volume."""
    node = image_of(made, "data").parent.parent.name
    outer = pool.outer(node)
    before = inside(outer, program)
    assert len(before) == 1, before
    claim(made, f"late-{program}")
    run(made, f"late-{program}", f"late-{program}", "sleep 100000", node=node, wait=None)
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: inside(outer, program) not in ([], before), 30, f"another {program}")
    made.kubectl("wait", "--for=condition=Ready", "--timeout=90s", f"pod/late-{program}")
    wait_for(lambda: made.kubectl("exec", "reader", "--", "cat", "/data/file", check=False).stdout.strip() == CANARY, 60, "the file")
    gone = image_of(made, f"late-{program}")
    made.kubectl("delete", "pod", f"late-{program}")
    made.kubectl("delete", "pvc", f"late-{program}")
    wait_for(lambda: not gone.exists(), 60, "its volume to be wiped")


def test_a_node_that_is_killed_comes_back_with_its_volumes(made, pool):
    node = image_of(made, "data").parent.parent.name
    outer = pool.outer(node)
    os.kill(outer, signal.SIGKILL)
    wait_for(lambda: pool.outer(node) not in (None, outer), 60, "another node")
    wait_for(lambda: made.kubectl("exec", "reader", "--", "cat", "/data/file", check=False).stdout.strip() == CANARY, 120, "the file")
    assert len(attached(volume_of(made, "data"))) == 1
    pool.wait()


def events_of(cluster, name):
    return [e["message"] for e in json.loads(cluster.kubectl("get", "events", "-o", "json").stdout)["items"] if e["involvedObject"]["name"] == name and e["reason"] == "ProvisioningFailed"]


def test_what_cannot_be_is_said_at_the_claim(made, pool):
    claim(made, "many", mode="ReadWriteMany")
    run(made, "many", "many", "sleep 1", wait=None)
    wait_for(lambda: any("ReadWriteOnce" in m for m in events_of(made, "many")), 60, "an Event")
    claim(made, "huge", size="10Gi")
    run(made, "huge", "huge", "sleep 1", wait=None)
    wait_for(lambda: any("268435456 bytes together" in m for m in events_of(made, "huge")), 60, "an Event")
    for name in ("many", "huge"):
        made.kubectl("delete", "pod", name)
        made.kubectl("delete", "pvc", name)
    assert [v["metadata"]["name"] for v in json.loads(made.kubectl("get", "pv", "-o", "json").stdout)["items"]] == [volume_of(made, "data")]


def test_a_volume_that_the_cluster_does_not_know_any_more_is_kept(made, pool):
    """As after a restore to a time before it; one that was never mounted is what a killed agent had begun."""
    folder = image_of(made, "data").parent
    used, fresh = folder / f"pvc-{'1' * 36}.img", folder / f"pvc-{'2' * 36}.img"
    for path in (used, fresh):
        with open(path, "wb") as f:
            f.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    with open(used, "r+b") as f:
        f.seek(1024 + 0x34)
        f.write(b"\1\0")  # mounted once
    wait_for(lambda: not fresh.exists(), 60, "what was never used to go")
    assert used.exists()
    used.unlink()


def test_deletion_wipes(served, made, pool):
    image, volume = image_of(made, "data"), volume_of(made, "data")
    with open(image, "rb") as kept:  # the blocks, beyond the name
        assert CANARY.encode() in kept.read()
        made.kubectl("delete", "pod", "reader")
        made.kubectl("delete", "pvc", "data")
        wait_for(lambda: not made.kubectl("get", "pv", "-o", "name").stdout, 60, "the PersistentVolume to go")
        assert not image.exists()
        kept.seek(0)
        assert not kept.read().strip(b"\0")
    assert lies_below(served.data) == [] and not attached(volume)


def test_a_node_is_not_gone_before_its_volumes_are_wiped(served, made, pool):
    """Though control is killed meanwhile: whoever comes after goes on."""
    claim(made, "large", size="200Mi")
    run(made, "large", "large", "busybox yes a-secret-that'-no-other-file-has' | head -c 157286400 > /data/file; sync; sleep 100000", node="workers-1")
    wait_for(lambda: made.kubectl("exec", "large", "--", "stat", "-c", "%s", "/data/file", check=False).stdout.strip() == str(150 << 20), 60, "the file")
    made.kubectl("exec", "large", "--", "sync")
    outer, image = pool.outer("workers-1"), image_of(made, "large")
    with open(image, "rb") as kept:
        served.api("PATCH", pool.path, {"spec": {"count": 1, "drainSeconds": 0}}, "application/merge-patch+json")
        wait_for(lambda: pool.outer("workers-1") != outer, 60, "the node to end")
        served.kill_role("control")
        wait_for(lambda: served.is_ready("metrics"), 60, "another control")
        pool.wait()
        assert list(pool.nodes()) == ["workers-0"] and not image.exists()
        kept.seek(0)
        assert CANARY.encode() not in kept.read()


def test_a_deleted_cluster_leaves_no_volume_and_no_mount(served, made, pool):
    """Last."""
    claim(made, "data")
    run(made, "writer", "data", WRITE)
    wait_for(lambda: made.kubectl("exec", "writer", "--", "cat", "/data/file", check=False).stdout.strip() == CANARY, 30, "the file")
    volume = volume_of(made, "data")
    assert len(attached(volume)) == 1 and lies_below(served.data)
    with open(image_of(made, "data"), "rb") as kept:
        made.delete()
        wait_for(lambda: not attached(volume), 30, "the loop device to let go")
        assert not kept.read().strip(b"\0")
    assert not made.directory.exists() and not leftovers(made.uid) and not lies_below(served.data)
