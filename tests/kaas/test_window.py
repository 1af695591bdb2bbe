"""Maintenance windows of clusters: an upgrade waits for one, unless it is told not to. Both minor versions are the newest's programs: when it begins is what is looked at."""
import datetime
import time

import pytest

import kube
from cloud import wait_for

pytestmark = [pytest.mark.kube, pytest.mark.full]
UTC = datetime.timezone.utc


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = kube.programs(tmp_path_factory.mktemp("programs"))
    (folder / kube.OLDER).symlink_to(folder / kube.MINOR)
    with kube.cloud(folder) as c:
        yield c


def window(begins, minutes=60):
    return {"start": f"{begins:%H:%M}", "durationMinutes": minutes, "days": [f"{begins:%A}"]}


def patch(cluster, spec):
    return cluster.cloud.api("PATCH", cluster.path, {"spec": spec}, "application/merge-patch+json")


def upgraded(cluster):
    return cluster.cloud.condition("clusters", cluster.ns, cluster.name, "Upgraded")


def test_an_upgrade_waits_for_its_window_unless_it_is_told_not_to(served):
    begins = datetime.datetime.now(UTC).replace(second=0, microsecond=0) + datetime.timedelta(hours=30)
    c = kube.Cluster(served, "demo", "one", {"version": "1.36", "backup": {"intervalSeconds": 0}, "maintenanceWindow": window(begins)})
    c.wait(timeout=300)
    before = c.pids()
    p = served.seki("-n", "demo", "cluster", "upgrade", "one", "--version", "1.37")
    said = f"from {begins:%Y-%m-%dT%H:%M:00Z} to {begins + datetime.timedelta(hours=1):%Y-%m-%dT%H:%M:00Z}"
    assert said in p.stdout and "--now" in p.stdout, p
    waits = c.wait("False", "WaitingForWindow", kind="Upgraded")
    assert said in waits["message"]
    # Asked for without the tool, and after a restart of ours, it waits just so; nothing was begun.
    served.kill_role("control")
    served.wait_ready()
    c.wait()
    seen = c.get()["status"]
    assert upgraded(c)["reason"] == "WaitingForWindow" and "upgrade" not in seen and seen["minor"] == "1.36" and not seen.get("backups")
    assert c.pids() == before
    assert [e["reason"] for e in served.api("GET", "/api/v1/namespaces/demo/events")["items"]].count("UpgradeWaiting") == 1
    # Given up, then asked for again, and not to wait.
    patch(c, {"version": "1.36"})
    c.wait("False", "NotWanted", kind="Upgraded")
    p = served.seki("-n", "demo", "cluster", "upgrade", "one", "--version", "1.37", "--now", "--timeout", "500s")
    assert "cluster one runs v1.37." in p.stdout, p
    assert c.get()["status"]["minor"] == "1.37" and upgraded(c)["status"] == "True"
    assert c.pids()["etcd"] != before["etcd"]
    c.delete()


def test_a_change_of_size_or_audit_policy_does_not_wait(served):
    """Who asks for either wants it now: the window is for upgrades, and one that waits for it goes on waiting."""
    begins = datetime.datetime.now(UTC) + datetime.timedelta(hours=30)
    c = kube.Cluster(served, "demo", "three", {"version": "1.36", "backup": {"intervalSeconds": 0}, "maintenanceWindow": window(begins)})
    c.wait(timeout=300)
    patch(c, {"version": "1.37"})
    c.wait("False", "WaitingForWindow", kind="Upgraded")
    before = c.pids()
    patch(c, {"audit": {"policy": "Request"}})
    wait_for(lambda: c.pids().get("apiserver") not in (None, before["apiserver"]), 60, "the API server to restart")
    c.wait(timeout=120)
    assert c.pids()["etcd"] == before["etcd"]
    patch(c, {"controlPlane": {"size": "Medium"}})
    wait_for(lambda: c.pids().get("etcd") not in (None, before["etcd"]), 60, "its store to restart")
    c.wait(timeout=120)
    seen = c.get()["status"]
    assert upgraded(c)["reason"] == "WaitingForWindow" and "upgrade" not in seen and seen["minor"] == "1.36"
    c.delete()


def test_in_its_window_an_upgrade_begins_by_itself(served):
    """The window's beginning is moved to the past while an upgrade waits for it; then, that it is the clock which opens it."""
    now = datetime.datetime.now(UTC)
    c = kube.Cluster(served, "demo", "two", {"version": "1.36", "backup": {"intervalSeconds": 0}, "maintenanceWindow": window(now + datetime.timedelta(hours=30))})
    c.wait(timeout=300)
    patch(c, {"version": "1.37"})
    c.wait("False", "WaitingForWindow", kind="Upgraded")
    # The next full minute that is not just now: nothing is begun before it, and it is begun then.
    begins = (datetime.datetime.now(UTC) + datetime.timedelta(seconds=65)).replace(second=0, microsecond=0)
    patch(c, {"maintenanceWindow": window(begins)})
    wait_for(lambda: f"{begins:%H:%M:00Z}" in upgraded(c)["message"], what="the new window to be known")
    wait_for(lambda: "upgrade" in c.get()["status"], 120, "the upgrade to begin")
    assert datetime.datetime.fromisoformat(c.get()["status"]["upgrade"]["startedAt"].replace("Z", "+00:00")) >= begins
    assert time.time() >= begins.timestamp()
    c.wait("True", "Upgraded", kind="Upgraded", timeout=500)
    c.delete()
