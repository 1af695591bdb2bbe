"""What was found by reading, with real programs: each was seen to fail."""
import os
import signal
import time

import pytest

import kube
from cloud import GROUP, wait_for
from kube import Pool, holder, leftovers

pytestmark = [pytest.mark.kube, pytest.mark.full]

SLOW_TOOL = """#!/bin/sh
[ -e {flag} ] && exec sleep 300
exec {program} "$@"
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A file: while it is there, programs that copy a store take five minutes."""
    return tmp_path_factory.mktemp("slow") / "slow"


@pytest.fixture(scope="module")
def served(tmp_path_factory, slow):
    folder = kube.node_programs(tmp_path_factory.mktemp("programs"))
    tool = folder / kube.MINOR / "etcdctl"
    program = tool.resolve()
    tool.unlink()
    tool.write_text(SLOW_TOOL.format(flag=slow, program=program))
    tool.chmod(0o755)
    with kube.cloud(folder, [("debts", "owing")]) as c:
        yield c


@pytest.fixture(scope="module")
def made(served):
    return kube.Cluster.ready(served, "debts", "one", {"backup": {"intervalSeconds": 0}})


def test_ctrl_c_does_not_wait_for_a_backup(served, made, slow):
    slow.touch()
    served.api("PATCH", made.path, {"metadata": {"annotations": {"seki.cloud/backup": "one"}}}, "application/merge-patch+json")
    wait_for(lambda: (made.directory / "backup").exists(), 60, "a backup to begin")
    began = time.monotonic()
    served.stop(signal.SIGINT)
    took = time.monotonic() - began
    slow.unlink()
    served.start()
    made.wait()
    assert took < 40, "its program had 60 s"
    # Nobody says that it failed, and it is taken now.
    wait_for(lambda: made.get()["status"].get("backupRequest") == "one", 60, "the backup")
    assert made.wait(kind="BackedUp")["reason"] == "BackedUp"


def test_what_a_killed_rehearsal_or_backup_has_left_goes(served, made):
    for name in ("drill", "backup"):
        (made.directory / name / "etcd").mkdir(parents=True)
    served.stop(signal.SIGKILL)
    served.start()
    made.wait()
    wait_for(lambda: not (made.directory / "drill").exists() and not (made.directory / "backup").exists(), 60, "both to go")


def test_a_suspended_tenants_nodes_have_their_whole_time_afterwards(served, made):
    """A node that has not joined when its tenant is suspended is not late when the tenant is active again."""
    def state(s):
        served.api("PATCH", f"{GROUP}/tenants/owing", {"spec": {"state": s}}, "application/merge-patch+json")
    pool = Pool(made, "late", count=1, machine={"memoryMiB": 1024})
    wait_for(lambda: pool.get().get("status", {}).get("nodes"), 60, "its making to begin")
    state("Suspended")
    pool.wait("False", "TenantSuspended")
    now = pool.get()["status"]["nodes"][0]
    state("Active")
    assert "milliseconds" in now or "deadline" not in now, now
    made.wait()
    assert pool.wait()["status"]["nodes"][0]["attempt"] == 1


HELD = [kube.pod("held", kube.container("web", "web", "serve", "8080", "here"), node="late-1", labels={"app": "held"}),
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "held"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "held"}}}}]


def hold(made, pool):
    pool.scale(2)
    made.apply(*HELD)
    made.wait_pods("held")
    wait_for(lambda: made.kubectl("get", "pdb", "held", "-o", "jsonpath={.status.currentHealthy}").stdout == "1", 60, "the budget to be counted")


def test_a_node_is_drained_within_budgets_until_the_deadline(served, made):
    pool = Pool.__new__(Pool)
    pool.cluster, pool.name, pool.cloud, pool.path = made, "late", served, f"{GROUP}/namespaces/debts/nodepools/late"

    def change(**spec):
        served.api("PATCH", pool.path, {"spec": spec}, "application/merge-patch+json")
    hold(made, pool)
    change(count=1)
    said = [c for c in pool.wait("False", "Draining")["status"]["conditions"] if c["type"] == "Ready"][0]["message"]
    assert said.startswith("late-1 is drained for ")
    wait_for(lambda: "disruption budget" in [c for c in pool.get()["status"]["conditions"] if c["type"] == "Ready"][0]["message"], 60, "it to say what holds it up")
    assert made.kubectl("get", "node", "late-1", "-o", "jsonpath={.spec.unschedulable}").stdout == "true"
    assert made.kubectl("get", "pod", "held", "-o", "jsonpath={.status.phase}").stdout == "Running"
    # Wanted again, it is as before.
    change(count=2)
    pool.wait()
    assert made.kubectl("get", "node", "late-1", "-o", "jsonpath={.spec.unschedulable}").stdout == ""
    assert made.kubectl("get", "pod", "held", "-o", "jsonpath={.status.phase}").stdout == "Running"
    # The budget lets it go.
    change(count=1)
    pool.wait("False", "Draining")
    made.kubectl("delete", "pdb", "held")
    pool.wait()
    assert made.kubectl("get", "nodes", "-o", "name").stdout.split() == ["node/late-0"] and "held" not in made.kubectl("get", "pods").stdout
    # It never does: the deadline.
    hold(made, pool)
    change(count=1, drainSeconds=8)
    began = time.monotonic()
    pool.wait()
    assert time.monotonic() - began > 6 and made.kubectl("get", "nodes", "-o", "name").stdout.split() == ["node/late-0"]
    made.kubectl("delete", "pdb", "held")


def test_a_restored_cluster_forgets_nodes_that_are_no_more(served, made):
    made.kubectl("apply", "-f", "-", input='{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gone-7", "labels": {"seki.cloud/nodepool": "gone"}}}')
    made.kubectl("apply", "-f", "-", input='{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "theirs"}}')
    taken = served.seki("-n", "debts", "cluster", "backup", "one", "--timeout", "60s", "-o", "json").stdout
    assert taken
    served.seki("-n", "debts", "cluster", "restore", "one")
    made.wait()
    wait_for(lambda: "node/gone-7" not in made.kubectl("get", "nodes", "-o", "name").stdout, 30, "it to be forgotten")
    assert "node/theirs" in made.kubectl("get", "nodes", "-o", "name").stdout and "node/late-0" in made.kubectl("get", "nodes", "-o", "name").stdout


def test_nodes_of_a_pool_that_is_forced_away_end(served, made):
    """Somebody takes its finalizer off: while control runs, and while it is down."""
    def force_away(pool):
        served.api("PATCH", pool.path, {"metadata": {"finalizers": []}}, "application/merge-patch+json")
        served.api("DELETE", pool.path)

    def left(name):
        return kube.marked(made.workload(f"node-{name}-")) or [m for m in leftovers(made.uid, f"{name}-") if "/sys/fs/cgroup" in m]
    stays = Pool.ready(made, "torn-0", count=1, machine={"memoryMiB": 1024})  # its node's name begins as the other's do
    pool = Pool.ready(made, "gone", count=1, machine={"memoryMiB": 1024})
    force_away(pool)
    wait_for(lambda: not left("gone"), 60, "its node to end")
    pool = Pool.ready(made, "torn", count=1, machine={"memoryMiB": 1024})
    force_away(pool)
    served.process.kill()
    served.process.wait()
    served.start()
    wait_for(lambda: not kube.marked(made.workload("node-torn-0")).get(made.workload("node-torn-0")), 60, "its node to end")
    assert kube.marked(made.workload("node-torn-0-0")), "another pool's node runs on"
    served.api("DELETE", stays.path)
    wait_for(lambda: not left("torn"), 120, "the other pool's to end")


def test_a_cluster_that_is_forced_away_takes_its_nodes_along(served, made):
    """Last."""
    Pool(made, "more", count=1, machine={"memoryMiB": 1024}).wait()
    outer = holder(kube.marked(made.workload("node-more-0"))[made.workload("node-more-0")])
    assert outer and kube.marked(made.workload("gate"))
    os.kill(outer, signal.SIGSTOP)  # the one that would remove its groups is killed at last, and another must
    served.api("PATCH", made.path, {"metadata": {"finalizers": []}}, "application/merge-patch+json")
    served.api("DELETE", made.path)
    # Both together: one look at all processes has found none while there was one still.
    wait_for(lambda: not kube.marked(made.workload("")) and not leftovers(made.uid), 60, "all of its processes, groups and mounts to end")
    assert os.path.exists(made.directory), "its files are kept"
