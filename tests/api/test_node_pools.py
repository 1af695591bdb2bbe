"""Node pools as the API takes and refuses them, and what they say where there can be no nodes. With it: tests/kaas/test_nodes.py."""
import pytest

from cloud import GROUP, ApiError, wait_for


def create(cloud, ns, name, spec):
    return cloud.api("POST", f"{GROUP}/namespaces/{ns}/nodepools", {"apiVersion": "seki.cloud/v1alpha1", "kind": "NodePool", "metadata": {"name": name}, "spec": spec})


@pytest.mark.parametrize("spec, field, said", [
    ({}, "spec.clusterName", ""),
    ({"count": -1}, "spec.count", ""),
    ({"count": 65}, "spec.count", ""),
    ({"machine": {"memoryMiB": 100}}, "spec.machine.memoryMiB", ""),
    ({"machine": {"cpus": 0}}, "spec.machine.cpus", ""),
    ({"machine": {"diskGiB": 0}}, "spec.machine.diskGiB", ""),
    ({"machine": {"diskGiB": 16385}}, "spec.machine.diskGiB", ""),
    ({"machine": {"gpus": 1}}, "spec.machine.gpus", ""),
    ({"labels": {"kubernetes.io/role": "x"}}, "spec.labels[kubernetes.io/role]", "may not give itself"),
    ({"labels": {"node-restriction.kubernetes.io/zone": "x"}}, "spec.labels[node-restriction.kubernetes.io/zone]", "may not give itself"),
    ({"labels": {"a,b": "x"}}, "spec.labels[a,b]", "label's key"),
    ({"labels": {"a": "x,y=z"}}, "spec.labels[a]", "label's value"),
    ({"taints": [{"key": "a b", "effect": "NoSchedule"}]}, "spec.taints[0].key", ""),
    ({"taints": [{"key": "a", "effect": "Never"}]}, "spec.taints[0].effect", ""),
    ({"kubelet": {"maxPods": 251}}, "spec.kubelet.maxPods", ""),
])
def test_what_cannot_be_is_refused_by_the_name_of_its_field(cloud, project, spec, field, said):
    with pytest.raises(ApiError) as e:
        create(cloud, project, "workers", {"clusterName": "one", **spec} if spec else spec)
    assert e.value.status in (400, 422), e.value.body
    assert any(c["field"] == field and said in c["message"] for c in e.value.body["details"]["causes"]), e.value.body


def test_names_leave_room_for_numbers(cloud, project):
    with pytest.raises(ApiError) as e:
        create(cloud, project, "a" * 49, {"clusterName": "one"})
    assert e.value.body["details"]["causes"][0]["field"] == "metadata.name"


def test_networks_of_nodes_overlap_nothing(cloud, project):
    for nodes, said in (("10.244.8.0/24", "overlaps spec.network.podCIDR"), ("10.96.1.0/24", "overlaps spec.network.serviceCIDR"), ("10.1.0.0/28", "expected a prefix of 16 to 27 bits")):
        with pytest.raises(ApiError) as e:
            cloud.api("POST", f"{GROUP}/namespaces/{project}/clusters",
                      {"apiVersion": "seki.cloud/v1alpha1", "kind": "Cluster", "metadata": {"name": "one"}, "spec": {"network": {"nodeCIDR": nodes}}})
        cause = e.value.body["details"]["causes"][0]
        assert cause["field"] == "spec.network.nodeCIDR" and said in cause["message"]


def test_a_pool_without_its_cluster_waits_and_can_be_deleted(cloud, project):
    made = create(cloud, project, "workers", {"clusterName": "one"})
    assert made["spec"] == {"clusterName": "one", "count": 1, "machine": {"cpus": 1, "memoryMiB": 2048, "diskGiB": 4}, "kubelet": {"maxPods": 110, "podPidsLimit": 4096}, "drainSeconds": 300}
    cloud.wait_condition("nodepools", project, "workers", "Ready", "False", "ClusterMissing")
    path = f"{GROUP}/namespaces/{project}/nodepools/workers"
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", path, {"spec": {"clusterName": "two"}}, "application/merge-patch+json")
    assert e.value.status == 422 and e.value.body["details"]["causes"][0]["field"] == "spec.clusterName"
    cloud.api("DELETE", path)
    wait_for(lambda: not cloud.api("GET", path.rsplit("/", 1)[0])["items"], 30, "the pool to be gone")
