"""The end of a tenant under kills: the same command is given again until it ends well; then nothing is left, the bill is exact, the ledger proves it, and nobody else has lost anything."""
import json
import os
import subprocess
import urllib.request

import pytest

from cloud import GROUP, SEKI, ApiError, wait_for

PROJECTS, OBJECTS = 2, 8


def fill(cloud, tenant):
    """A tenant with several projects with objects, and one request that was answered a moment ago."""
    cloud.tenant(tenant)
    names = [tenant, *(f"{tenant}-{i}" for i in range(1, PROJECTS))]
    for ns in names:
        if ns != tenant:
            cloud.project(ns, tenant=tenant)
        for i in range(OBJECTS):
            cloud.api("POST", f"/api/v1/namespaces/{ns}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i}"}, "data": {"k": "v"}})
    key = cloud.key(tenant)
    ask(cloud, key)
    return names


def ask(cloud, key):
    request = urllib.request.Request(cloud.base_url + "/chat/completions", json.dumps({"model": "shared", "messages": [{"role": "user", "content": "x"}]}).encode(),
                                     {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()


def close(cloud, tenant, out):
    return subprocess.Popen([str(SEKI), "tenant", "close", tenant, "--export", str(out), "--yes", "--ledger", str(cloud.data / "ledger")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "KUBECONFIG": cloud.kubeconfig})


def check(cloud, tenant, names, out, said):
    *reports, statement = json.loads(out.read_text())
    assert sum(r["status"]["requests"] for r in reports) == 1, reports
    assert statement["state"] == "Closed" and statement["deleted"]["namespaces"] == PROJECTS and statement["deleted"]["configmaps"] == PROJECTS * OBJECTS, statement
    assert statement["deleted"]["apikeys.seki.cloud"] == 1
    proof = statement["ledger"]
    assert f"--record {proof['end']}:{proof['sha256']}" in said
    assert cloud.seki("audit", "verify", str(cloud.data / "ledger"), "--record", f"{proof['end']}:{proof['sha256']}").returncode == 0
    left = {n["metadata"]["name"] for n in cloud.api("GET", "/api/v1/namespaces")["items"]}
    assert not left & set(names) and {"others", "shared"} <= left
    for ns in names:
        for plural in ("configmaps", "secrets", "serviceaccounts"):
            assert cloud.api("GET", f"/api/v1/namespaces/{ns}/{plural}")["items"] == []
    assert len(cloud.api("GET", "/api/v1/namespaces/others/configmaps")["items"]) == OBJECTS


@pytest.fixture(scope="module")
def busy(request):
    """A cloud with a shared model and a project of others."""
    from cloud import Cloud
    with Cloud() as cloud:
        cloud.project("shared")
        cloud.create("modelendpoints", "shared", "shared", {"visibility": "Everyone", "engine": {"driver": "fake", "options": {"tokens": "2"}}})
        cloud.wait_condition("modelendpoints", "shared", "shared")
        cloud.project("others")
        for i in range(OBJECTS):
            cloud.api("POST", "/api/v1/namespaces/others/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{i}"}})
        yield cloud


def projects_left(cloud, names):
    try:
        return len({n["metadata"]["name"] for n in cloud.api("GET", "/api/v1/namespaces")["items"]} & set(names))
    except (OSError, ApiError):
        return None


def state(cloud, tenant):
    return cloud.api("GET", f"{GROUP}/tenants/{tenant}")["spec"].get("state", "Active")


# When it is killed: as soon as that holds.
INSTANTS = {"at-once": lambda cloud, tenant, names, out: True,
            "export-written": lambda cloud, tenant, names, out: out.exists(),
            "closing": lambda cloud, tenant, names, out: state(cloud, tenant) == "Closing",
            "first-project-gone": lambda cloud, tenant, names, out: projects_left(cloud, names) != len(names),
            "all-gone": lambda cloud, tenant, names, out: projects_left(cloud, names) == 0}


SOME = [("command", "export-written"), ("control", "closing"), ("command", "first-project-gone"), ("both", "first-project-gone"), ("command", "all-gone")]
EACH = [pytest.param(victim, instant, marks=[] if (victim, instant) in SOME else pytest.mark.full) for victim in ("command", "control", "both") for instant in INSTANTS]


@pytest.mark.parametrize("victim,instant", EACH)
def test_killed_at_any_instant_a_close_is_repeated_and_then_whole(busy, tmp_path, victim, instant):
    reached, tenant, out = INSTANTS[instant], f"{victim}-{instant}", tmp_path / f"{instant}.json"
    names = fill(busy, tenant)
    p = close(busy, tenant, out)
    wait_for(lambda: p.poll() is not None or reached(busy, tenant, names, out), what=instant)
    if victim != "control":
        p.kill()
    if victim != "command":
        busy.kill_role("control")
    said, why = p.communicate(timeout=120)
    if victim == "control":
        assert p.returncode == 0, (instant, why)  # it waits for control to be back
    else:
        assert p.returncode in (-9, 0)
        for _ in range(2):  # and once more when all is done: that changes nothing
            p = close(busy, tenant, out)
            said, why = p.communicate(timeout=120)
            assert p.returncode == 0, (instant, why)
    wait_for(lambda: busy.is_ready("metrics"), what="control")
    check(busy, tenant, names, out, said)


def test_a_file_of_an_earlier_tenant_of_the_name_is_not_written_over(busy, tmp_path):
    out = tmp_path / "bill.json"
    for again in (False, True):
        fill(busy, "twice")
        p = close(busy, "twice", out)
        said, why = p.communicate(timeout=120)
        if again:
            assert p.returncode == 1 and "not of a close of this tenant" in why and out.read_text() == first and state(busy, "twice") == "Active"
        else:
            assert p.returncode == 0, why
            first = out.read_text()
            busy.api("DELETE", f"{GROUP}/tenants/twice")
            wait_for(lambda: "twice" not in {t["metadata"]["name"] for t in busy.api("GET", f"{GROUP}/tenants")["items"]}, what="the name to be free")


def test_what_is_used_while_projects_are_deleted_is_in_the_bill(busy, tmp_path):
    """A stream from an engine that is not the tenant's outlives its project: the command, given once more, has it too."""
    busy.create("modelendpoints", "shared", "slow", {"visibility": "Everyone", "engine": {"driver": "fake", "options": {"tokens": "40", "tokensPerSecond": "10"}}})
    busy.wait_condition("modelendpoints", "shared", "slow")
    names, out = fill(busy, "slowly"), tmp_path / "bill.json"
    key = busy.key("slowly", "second")
    request = urllib.request.Request(busy.base_url + "/chat/completions", json.dumps({"model": "slow", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode(),
                                     {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    stream = urllib.request.urlopen(request, timeout=120)
    assert stream.readline().startswith(b"data:")
    p = close(busy, "slowly", out)
    _, why = p.communicate(timeout=120)
    assert p.returncode == 0, why
    assert stream.read().endswith(b"data: [DONE]\n\n") and projects_left(busy, names) == 0

    def whole():
        assert close(busy, "slowly", out).communicate(timeout=120) and out.exists()
        return sum(r["status"]["requests"] for r in json.loads(out.read_text())[:-1]) == 2
    wait_for(whole, what="both requests in the bill")


def test_what_a_client_holds_by_a_finalizer_goes_too(busy, tmp_path):
    """Who put it there is shut out of a tenant that is being closed, and could not take it off: objects, a project, and a project that was being deleted before."""
    names, out = fill(busy, "held"), tmp_path / "bill.json"
    hold = {"metadata": {"finalizers": ["client.example/hold"]}}
    for path in ("/api/v1/namespaces/held/configmaps/c0", "/api/v1/namespaces/held", "/api/v1/namespaces/held-1"):
        busy.api("PATCH", path, hold, content_type="application/merge-patch+json")
    for path in ("/api/v1/namespaces/held/configmaps/c0", "/api/v1/namespaces/held-1"):
        busy.api("DELETE", path)
    wait_for(lambda: busy.api("GET", "/api/v1/namespaces/held-1")["metadata"]["finalizers"] == ["client.example/hold"], what="a project that only its finalizer holds")
    assert busy.api("GET", "/api/v1/namespaces/held/configmaps/c0")["metadata"]["deletionTimestamp"]
    busy.api("POST", "/api/v1/namespaces/others/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "held", **hold["metadata"]}})
    busy.api("DELETE", "/api/v1/namespaces/others/configmaps/held")
    p = close(busy, "held", out)
    _, why = p.communicate(timeout=120)
    assert p.returncode == 0 and projects_left(busy, names) == 0, why
    assert busy.api("GET", "/api/v1/namespaces/others/configmaps/held")["metadata"]["finalizers"]  # another's is left alone
    busy.api("PATCH", "/api/v1/namespaces/others/configmaps/held", {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")


def test_a_ledger_of_another_cloud_proves_nothing(busy, tmp_path):
    """The default ledger's directory may hold what another sekid of this machine has written."""
    import ocsf
    fill(busy, "wrong")
    ocsf.write_ledger(tmp_path / "ledger", [{"type": "write", "verb": "delete", "resource": "configmaps", "tenant": "another", "rev": 1}])
    p = busy.seki("tenant", "close", "wrong", "--export", str(tmp_path / "x.json"), "--yes", "--ledger", str(tmp_path / "ledger"))
    assert "it is not this cloud's" in p.stderr and "deleted, by the audit ledger" not in p.stdout
    # With the right one, later: what was deleted since the tenant was made, as it is not known where the close began.
    p = busy.seki("tenant", "close", "wrong", "--export", str(tmp_path / "x.json"), "--yes", "--ledger", str(busy.data / "ledger"))
    *reports, statement = json.loads((tmp_path / "x.json").read_text())
    assert statement["deleted"]["namespaces"] == PROJECTS and statement["ledger"]["after"] > 0 and sum(r["status"]["requests"] for r in reports) == 1
