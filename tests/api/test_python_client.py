"""The official Python client: typed, dynamic, watches, leader election, and a controller as people write them with it."""
import json
import subprocess
import sys
import threading

import kubernetes
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient

from cloud import wait_for


@pytest.fixture(scope="module")
def api(cloud):
    return kubernetes.config.new_client_from_config(cloud.kubeconfig)


@pytest.fixture
def endpoints(api):
    return DynamicClient(api).resources.get(api_version="seki.cloud/v1alpha1", kind="ModelEndpoint")


def endpoint(name, ns, replicas=0):
    return {"apiVersion": "seki.cloud/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": name, "namespace": ns}, "spec": {"replicas": replicas, "engine": {"driver": "fake"}}}


def test_typed_client(api, project):
    v1 = kubernetes.client.CoreV1Api(api)
    made = v1.create_namespaced_config_map(project, {"metadata": {"name": "c"}, "data": {"k": "v"}})
    assert made.metadata.uid and made.data == {"k": "v"}
    assert v1.patch_namespaced_config_map("c", project, {"data": {"k": "2"}}).data == {"k": "2"}
    assert [i.metadata.name for i in v1.list_namespaced_config_map(project, label_selector="!x").items] == ["c"]
    with pytest.raises(ApiException) as e:
        v1.create_namespaced_config_map(project, {"metadata": {"name": "c"}})
    assert e.value.status == 409 and e.value.reason == "Conflict"
    v1.create_namespaced_secret(project, {"metadata": {"name": "s"}, "stringData": {"k": "v"}})
    assert v1.read_namespaced_secret("s", project).data == {"k": "dg=="}
    v1.delete_namespaced_config_map("c", project)
    with pytest.raises(ApiException) as e:
        v1.read_namespaced_config_map("c", project)
    assert e.value.status == 404


def test_dynamic_client(endpoints, project):
    made = endpoints.create(endpoint("e", project), namespace=project)
    assert made.spec.engine.driver == "fake" and made.metadata.generation == 1

    def replaced():  # the controller may write the status in between
        got = endpoints.get(name="e", namespace=project).to_dict()
        got["metadata"]["labels"] = {"a": "b"}
        try:
            return endpoints.replace(body=got, namespace=project)
        except ApiException as e:
            assert e.status == 409
    assert wait_for(replaced, what="an update without a conflict").metadata.labels["a"] == "b"
    assert endpoints.patch(body={"metadata": {"labels": {"c": "d"}}}, name="e", namespace=project, content_type="application/merge-patch+json").metadata.labels["c"] == "d"
    applied = endpoints.server_side_apply(body={**endpoint("e", project), "metadata": {"name": "e", "labels": {"x": "y"}}}, namespace=project, field_manager="python", force_conflicts=True)
    assert applied.metadata.labels["x"] == "y"
    assert [i.metadata.name for i in endpoints.get(namespace=project, label_selector="x=y").items] == ["e"]
    endpoints.delete(name="e", namespace=project)


def test_dynamic_watch(endpoints, project):
    seen = []
    ready = threading.Event()

    def watch():
        for event in endpoints.watch(namespace=project, timeout=30):
            seen.append((event["type"], event["object"].metadata.name))
            ready.set()
            if event["type"] == "DELETED":
                return
    endpoints.create(endpoint("w", project), namespace=project)
    thread = threading.Thread(target=watch)
    thread.start()
    assert ready.wait(30)
    endpoints.patch(body={"metadata": {"labels": {"n": "1"}}}, name="w", namespace=project, content_type="application/merge-patch+json")
    endpoints.delete(name="w", namespace=project)
    thread.join(60)
    types = [t for t, _ in seen]
    assert types[0] == "ADDED" and "MODIFIED" in types and types[-1] == "DELETED"


def test_a_controller(api, endpoints, project):
    """Level-triggered: whatever ConfigMap says how many replicas an endpoint has, the endpoint gets; the status goes back to an annotation."""
    v1 = kubernetes.client.CoreV1Api(api)
    stop = threading.Event()
    failures = []

    def reconcile(cm):
        name, want = cm.metadata.name, int(cm.data["replicas"])
        try:
            ep = endpoints.get(name=name, namespace=project)
        except ApiException as e:
            if e.status != 404:
                raise
            owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": cm.metadata.uid, "controller": True}
            body = endpoint(name, project, want)
            body["metadata"]["ownerReferences"] = [owner]
            endpoints.create(body, namespace=project)
            return
        if ep.spec.replicas != want:
            endpoints.patch(body={"spec": {"replicas": want}}, name=name, namespace=project, content_type="application/merge-patch+json")

    def run():
        version = None
        while not stop.is_set():
            try:
                if version is None:
                    listed = v1.list_namespaced_config_map(project, label_selector="controlled=yes")
                    version = listed.metadata.resource_version
                    for cm in listed.items:
                        reconcile(cm)
                for event in kubernetes.watch.Watch().stream(v1.list_namespaced_config_map, project, label_selector="controlled=yes", resource_version=version, timeout_seconds=1):
                    version = event["object"].metadata.resource_version
                    if event["type"] != "DELETED":
                        reconcile(event["object"])
            except ApiException as e:
                if e.status not in (409, 410):
                    failures.append(e)
                    return
                version = None
    thread = threading.Thread(target=run)
    thread.start()
    try:
        for i in range(5):
            v1.create_namespaced_config_map(project, {"metadata": {"name": f"e{i}", "labels": {"controlled": "yes"}}, "data": {"replicas": "0"}})
        wait_for(lambda: len(endpoints.get(namespace=project).items) == 5, what="five endpoints")
        v1.patch_namespaced_config_map("e3", project, {"data": {"replicas": "2"}})
        wait_for(lambda: endpoints.get(name="e3", namespace=project).spec.replicas == 2, what="the change to arrive")
        v1.delete_namespaced_config_map("e1", project)

        def collected():
            try:
                endpoints.get(name="e1", namespace=project)
            except ApiException as e:
                return e.status == 404
        wait_for(collected, what="the endpoint to go with its owner")
    finally:
        stop.set()
        thread.join(60)
    assert not failures


def test_watch_resumes_from_bookmarks(api, project):
    v1 = kubernetes.client.CoreV1Api(api)
    v1.create_namespaced_config_map(project, {"metadata": {"name": "a"}})
    version = v1.list_namespaced_config_map(project).metadata.resource_version
    v1.create_namespaced_config_map(project, {"metadata": {"name": "b"}})
    events = list(kubernetes.watch.Watch().stream(v1.list_namespaced_config_map, project, resource_version=version, timeout_seconds=1))
    assert [(e["type"], e["object"].metadata.name) for e in events] == [("ADDED", "b")]


LEADER = """
import sys
from kubernetes import config
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
config.load_kube_config(sys.argv[1])
lock = ConfigMapLock("leader", sys.argv[2], sys.argv[3])
begin = lambda: print("leads", flush=True)
leaderelection.LeaderElection(electionconfig.Config(lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=begin, onstopped_leading=lambda: None)).run()
"""


def test_leader_election(api, project, cloud):
    """The holder is killed; the other one takes over."""
    def candidate(name):
        return subprocess.Popen([sys.executable, "-c", LEADER, cloud.kubeconfig, project, name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def leads(p):  # among what the library itself prints
        return any(line == "leads\n" for line in p.stdout)

    def holder():
        record = kubernetes.client.CoreV1Api(api).read_namespaced_config_map("leader", project).metadata.annotations
        return json.loads(record["control-plane.alpha.kubernetes.io/leader"])["holderIdentity"]
    first = candidate("one")
    second = None
    try:
        assert leads(first)
        second = candidate("two")
        assert holder() == "one"
        first.kill()
        assert leads(second)
        assert holder() == "two"
    finally:
        for p in (first, second):
            if p:
                p.kill()
                p.wait()
