"""Clusters as the API takes and refuses them, and what they say where there is no Kubernetes. With it: tests/kaas."""
import json
import time

import pytest

from cloud import GROUP, ApiError, Cloud, wait_for

PATH = GROUP + "/namespaces/{}/clusters"


def create(cloud, ns, name, spec=None):
    return cloud.api("POST", PATH.format(ns), {"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": name}, "spec": spec or {}})


@pytest.mark.parametrize("spec, field, said", [
    ({"version": "1.12"}, "spec.version", 'supported values: "1.36", "1.37"'),
    ({"version": "1.38"}, "spec.version", 'supported values: "1.36", "1.37"'),
    ({"controlPlane": {"replicas": 2}}, "spec.controlPlane.replicas", "supported values"),
    ({"controlPlane": {"size": "Huge"}}, "spec.controlPlane.size", "supported values"),
    ({"network": {"podCIDR": "10.0.0.0/8"}}, "spec.network.serviceCIDR", "overlaps spec.network.podCIDR 10.0.0.0/8"),
    ({"network": {"podCIDR": "10.96.0.0/16"}}, "spec.network.serviceCIDR", "overlaps"),
    ({"network": {"podCIDR": "10.96.128.0/20", "serviceCIDR": "10.96.0.0/16"}}, "spec.network.serviceCIDR", "overlaps"),
    ({"network": {"podCIDR": "10.244.1.0/16"}}, "spec.network.podCIDR", "bits behind its prefix"),
    ({"network": {"podCIDR": "10.244.0.0/28"}}, "spec.network.podCIDR", "expected a prefix of 8 to 24 bits"),
    ({"network": {"serviceCIDR": "10.96.0.0/30"}}, "spec.network.serviceCIDR", "expected a prefix of 12 to 28 bits"),
    ({"network": {"serviceCIDR": "127.64.0.0/16"}}, "spec.network.serviceCIDR", "overlaps 127.0.0.0/8"),
    ({"network": {"podCIDR": "fd00:1::/64"}}, "spec.network.podCIDR", "expected an IPv4 network"),
    ({"network": {"serviceDomain": "Not A Name"}}, "spec.network.serviceDomain", ""),
    ({"maintenanceWindow": {"days": ["Sunday"]}}, "spec.maintenanceWindow.start", "Required value"),
    ({"maintenanceWindow": {"start": "24:00"}}, "spec.maintenanceWindow.start", 'expected a time of day from "00:00" to "23:59"'),
    ({"maintenanceWindow": {"start": "02.00"}}, "spec.maintenanceWindow.start", 'expected a time of day from "00:00" to "23:59"'),
    ({"maintenanceWindow": {"start": "2:00"}}, "spec.maintenanceWindow.start", "must have at least 5 bytes"),
    ({"maintenanceWindow": {"start": "02:00", "days": ["Sunday", "Sun"]}}, "spec.maintenanceWindow.days[1]", 'supported values: "Monday", "Tuesday"'),
    ({"maintenanceWindow": {"start": "02:00", "days": ["Sunday", "Sunday"]}}, "spec.maintenanceWindow.days[1]", "Duplicate value"),
    ({"maintenanceWindow": {"start": "02:00", "durationMinutes": 10}}, "spec.maintenanceWindow.durationMinutes", "greater than or equal to 30"),
    ({"maintenanceWindow": {"start": "02:00", "durationMinutes": 1441}}, "spec.maintenanceWindow.durationMinutes", "less than or equal to 1440"),
    ({"maintenanceWindow": {"start": "02:00", "timeZone": "Asia/Nowhere"}}, "spec.maintenanceWindow.timeZone", "this system knows no such time zone"),
    ({"maintenanceWindow": {"start": "02:00", "timeZone": "../../etc/passwd"}}, "spec.maintenanceWindow.timeZone", "expected UTC or a name such as Asia/Tokyo"),
    ({"endpointNames": ["ok.example", "10.1.2.300"]}, "spec.endpointNames[1]", "expected a DNS name or an address"),
    ({"endpointNames": ["*.example"]}, "spec.endpointNames[0]", "expected a DNS name or an address"),
    ({"endpointNames": ["a.example", "a.example"]}, "spec.endpointNames[1]", ""),
])
def test_what_cannot_be_is_refused_by_the_name_of_its_field(cloud, project, spec, field, said):
    with pytest.raises(ApiError) as e:
        create(cloud, project, "one", spec)
    causes = e.value.body["details"]["causes"]
    assert e.value.status == 422 and any(c["field"] == field and said in c["message"] for c in causes), causes


def test_a_maintenance_window_is_filled_and_can_be_taken_away(cloud, project):
    create(cloud, project, "one", {"maintenanceWindow": {"start": "02:00", "days": ["Saturday", "Sunday"], "timeZone": "Asia/Tokyo"}})
    create(cloud, project, "two", {"maintenanceWindow": {"start": "23:30"}})
    windows = [cloud.api("GET", PATH.format(project) + "/" + n)["spec"]["maintenanceWindow"] for n in ("one", "two")]
    assert windows == [{"start": "02:00", "days": ["Saturday", "Sunday"], "timeZone": "Asia/Tokyo", "durationMinutes": 240}, {"start": "23:30", "timeZone": "UTC", "durationMinutes": 240}]
    changed = cloud.api("PATCH", PATH.format(project) + "/one", {"spec": {"maintenanceWindow": None}}, "application/merge-patch+json")
    assert "maintenanceWindow" not in changed["spec"]


def test_names_are_labels(cloud, project):
    for name in ("a.b", "a" * 64):
        with pytest.raises(ApiError) as e:
            create(cloud, project, name)
        assert e.value.status == 422


@pytest.mark.parametrize("change", [{"network": {"podCIDR": "10.245.0.0/16"}}, {"network": {"serviceCIDR": "10.97.0.0/16"}}, {"network": {"serviceDomain": "other.local"}}])
def test_networks_stay(cloud, project, change):
    create(cloud, project, "one")
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", PATH.format(project) + "/one", {"spec": change}, "application/merge-patch+json")
    assert e.value.status == 422 and "immutable" in e.value.body["message"], e.value.body


def test_limits_count_clusters(cloud):
    ns = cloud.project("few-clusters")
    cloud.api("POST", f"{GROUP}/namespaces/{ns}/projectlimits", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Limit", "metadata": {"name": "clusters"},
                                                                 "spec": {"counts": [{"resource": "clusters.seki.cloud", "max": 1}]}})
    create(cloud, ns, "one")
    with pytest.raises(ApiError) as e:
        create(cloud, ns, "two")
    assert e.value.status == 403 and "clusters.seki.cloud" in e.value.body["message"], e.value.body


def test_a_tenant_has_a_few_unless_more_are_said(cloud):
    ns = cloud.project("some-clusters", tenant="builders")
    counts = wait_for(lambda: [x for x in cloud.api("GET", f"{GROUP}/namespaces/builders/projectlimits/default")["spec"]["counts"] if x["resource"] == "clusters.seki.cloud"], what="the default Limit")
    assert counts == [{"resource": "clusters.seki.cloud", "max": 10}] and ns


def test_no_site_is_allowed(cloud):
    """What a tenant puts into a cluster stands here, whatever it serves: a rule for all models holds, one for some does not. Clusters that are there stay and can be changed."""
    ns = cloud.project("resident")
    create(cloud, ns, "before")
    cloud.create("residencypolicies", ns, "some-models", {"jurisdictions": ["JP"], "models": ["m"]})
    create(cloud, ns, "between")
    cloud.create("residencypolicies", ns, "japan", {"jurisdictions": ["JP"]})
    with pytest.raises(ApiError) as e:
        create(cloud, ns, "after")
    assert e.value.status == 403 and f"metadata.namespace: this cloud stands at no site that ResidencyPolicy {ns}/japan allows" in e.value.body["message"], e.value.body
    cloud.api("PATCH", PATH.format(ns) + "/before", {"spec": {"controlPlane": {"size": "Medium"}}}, "application/merge-patch+json")
    records = [json.loads(line) for line in cloud.seki("audit", "export", "--format", "json", str(cloud.data / "ledger")).stdout.splitlines()]
    denied = [r for r in records if r["type"] == "denied" and r.get("resource") == "clusters" and r.get("namespace") == ns]
    assert [f"{ns}/japan" in json.dumps(r) for r in denied] == [True], denied


def test_without_kubernetes_a_cluster_says_so_and_can_be_deleted(cloud, project):
    create(cloud, project, "one", {"endpointNames": ["api.example"]})
    c = cloud.wait_condition("clusters", project, "one", "Ready", "False", "ProgramsMissing")
    assert "StoreReady: this cloud has no Kubernetes" in c["message"] and "kubernetes-dir" in c["message"]
    obj = cloud.get("clusters", project, "one")
    assert {s["name"]: "milliseconds" in s for s in obj["status"]["stages"]} == {"CertificatesReady": True, "StoreReady": False}
    directory = cloud.data / "clusters" / obj["metadata"]["uid"]
    assert (directory / "pki" / "ca.crt").exists() and directory.stat().st_mode & 0o777 == 0o700
    cloud.api("DELETE", PATH.format(project) + "/one")
    wait_for(lambda: not directory.exists(), what="its files to be gone")

    def gone():
        try:
            cloud.get("clusters", project, "one")
        except ApiError as e:
            return e.status == 404
    wait_for(gone, what="the Cluster to be gone")
    events = cloud.api("GET", f"/api/v1/namespaces/{project}/events")["items"]
    wait_for(lambda: [e for e in cloud.api("GET", f"/api/v1/namespaces/{project}/events")["items"] if e["reason"] == "ClusterRemoved" and "no process, file or listener is left" in e["message"]],
             what=f"the event of its end ({events})")


def test_clusters_that_are_forced_away_give_their_addresses_back():
    with Cloud(options={"kubernetes-addresses": "127.111.255.248/29"}) as c:  # six
        ns = c.project("forced")
        for i in range(8):
            create(c, ns, "one")
            c.wait_condition("clusters", ns, "one", "Ready", "False", "ProgramsMissing")
            c.api("PATCH", PATH.format(ns) + "/one", {"metadata": {"finalizers": []}}, "application/merge-patch+json")
            c.api("DELETE", PATH.format(ns) + "/one")


def test_kubectl_shows_clusters(cloud, project):
    create(cloud, project, "one")
    cloud.wait_condition("clusters", project, "one", "Ready", "False", "ProgramsMissing")
    out = cloud.kubectl("-n", project, "get", "clusters", "-o", "wide").stdout.splitlines()
    assert out[0].split()[:5] == ["NAME", "VERSION", "READY", "STATUS", "ENDPOINT"] and out[1].split()[:4] == ["one", "1.37", "False", "ProgramsMissing"], out
    assert "podCIDR" in cloud.kubectl("explain", "cluster.spec.network").stdout


def programs(directory, etcd):
    there = directory / "1.37"
    there.mkdir()
    (there / "etcd").write_text(f"#!/bin/sh\n{etcd}\n")
    (there / "etcd").chmod(0o755)
    return directory


def test_a_version_that_this_cloud_does_not_have_is_refused_by_name(own_cloud, tmp_path):
    """What stands is not asked again: its programs may be gone, and it can be changed all the same."""
    folder = programs(tmp_path, "exit 3")
    cloud = own_cloud(options={"kubernetes-dir": folder})
    ns = cloud.project("demo")
    with pytest.raises(ApiError) as e:
        create(cloud, ns, "old", {"version": "1.36"})
    causes = e.value.body["details"]["causes"]
    assert e.value.status == 422 and causes[0]["field"] == "spec.version" and 'this cloud has: "1.37"' in causes[0]["message"], causes
    (folder / "1.36").mkdir()
    create(cloud, ns, "old", {"version": "1.36"})
    wait_for(lambda: cloud.get("clusters", ns, "old").get("status", {}).get("minor") == "1.36", what="the version that it is made with")
    (folder / "1.36").rmdir()
    cloud.api("PATCH", PATH.format(ns) + "/old", {"spec": {"controlPlane": {"size": "Medium"}}}, "application/merge-patch+json")
    create(cloud, ns, "new")
    wait_for(lambda: cloud.get("clusters", ns, "new").get("status", {}).get("minor") == "1.37", what="the version that it is made with")
    (folder / "1.36").mkdir()
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", PATH.format(ns) + "/new", {"spec": {"version": "1.36"}}, "application/merge-patch+json")
    assert "goes to no older version" in e.value.body["details"]["causes"][0]["message"], e.value.body


def test_a_store_that_ends_is_told_with_its_last_words_and_the_cluster_can_be_deleted(own_cloud, tmp_path):
    cloud = own_cloud(options={"kubernetes-dir": programs(tmp_path, "echo cannot do this; exit 3")})
    ns = cloud.project("demo")
    create(cloud, ns, "one")
    c = cloud.wait_condition("clusters", ns, "one", "StoreReady", "False", "CrashLoopBackOff", timeout=40)
    assert c["message"].startswith("until 20") and "etcd: exit code 3; it last said: cannot do this" in c["message"], c
    assert cloud.condition("clusters", ns, "one")["reason"] == "CrashLoopBackOff"
    cloud.seki("-n", ns, "cluster", "delete", "one")
    assert not list((cloud.data / "clusters").iterdir()) and not list((cloud.data / "log").glob("kc-*"))


@pytest.mark.full
def test_a_store_that_never_answers_is_started_anew_at_the_deadline(own_cloud, tmp_path):
    cloud = own_cloud(options={"kubernetes-dir": programs(tmp_path, "exec sleep 1000")})
    ns = cloud.project("demo")
    create(cloud, ns, "one")
    c = cloud.wait_condition("clusters", ns, "one", "StoreReady", "False", "DeadlineExceeded", timeout=90)
    assert "not done within 60 s: " in c["message"] and "; attempt 2, until 20" in c["message"], c
    stage = cloud.get("clusters", ns, "one")["status"]["stages"][1]
    assert stage["attempt"] == 2 and "milliseconds" not in stage
    wait_for(lambda: any(e["reason"] == "DeadlineExceeded" for e in cloud.api("GET", f"/api/v1/namespaces/{ns}/events")["items"]), what="the event")
    cloud.seki("-n", ns, "cluster", "delete", "one")


def passes(cloud, controller):
    return sum(float(line.rsplit(" ", 1)[1]) for line in cloud.metrics().splitlines() if line.startswith("seki_controller_reconciles_total{") and f'controller="{controller}"' in line)


def test_a_pool_that_waits_for_its_cluster_is_not_looked_at_all_the_time(own_cloud):
    cloud = own_cloud()  # of its own: the numbers are of all clusters
    ns = cloud.project("demo")
    create(cloud, ns, "never")
    cloud.api("POST", GROUP + f"/namespaces/{ns}/nodepools", {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": "idle"}, "spec": {"clusterName": "never"}})
    wait_for(lambda: cloud.condition("nodepools", ns, "idle", "Ready").get("reason"), 30, "the pool to say what it waits for")
    seen = []

    def rests():
        before = passes(cloud, "nodepool"), passes(cloud, "cluster")
        time.sleep(3)  # a rate, over a time
        seen.append((passes(cloud, "nodepool") - before[0], passes(cloud, "cluster") - before[1]))
        return before[0] and max(seen[-1]) <= 12  # the cluster waits for somebody to install programs
    try:
        wait_for(rests, 15, "both to be looked at now and then only")
    except AssertionError as e:
        raise AssertionError(f"passes in three seconds, of pools and of clusters: {seen}") from e
