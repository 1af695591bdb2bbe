"""Events: one stored object under v1 and events.k8s.io/v1."""
import json
import os
import re
import signal
import ssl

import pytest

from cloud import ApiError, wait_for
from raw import call, get

TIME = "2026-11-24T09:00:00.123456Z"


def old(ns): return f"/api/v1/namespaces/{ns}/events"
def new(ns): return f"/apis/events.k8s.io/v1/namespaces/{ns}/events"


def core_event(ns, name="old", **more):
    return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": {"kind": "ConfigMap", "apiVersion": "v1", "namespace": ns, "name": "c", "uid": "u-1"},
            "reason": "Tested", "message": "it was tested", "type": "Normal", "count": 3, "firstTimestamp": "2026-11-24T08:00:00Z", "lastTimestamp": "2026-11-24T09:00:00Z",
            "source": {"component": "tester", "host": "h"}, "reportingComponent": "tester", **more}


def new_event(ns, name="new", **more):
    return {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name}, "eventTime": TIME, "reportingController": "example.com/tester", "reportingInstance": "tester-0",
            "action": "Testing", "reason": "Tested", "note": "it was tested anew", "type": "Warning", "regarding": {"kind": "ConfigMap", "namespace": ns, "name": "c", "uid": "u-1"}, **more}


def test_written_as_core_read_as_the_other(cloud, project):
    made = cloud.api("POST", old(project), core_event(project))
    seen = cloud.api("GET", new(project) + "/old")
    assert (seen["apiVersion"], seen["kind"], seen["metadata"]) == ("events.k8s.io/v1", "Event", made["metadata"])
    assert seen["regarding"] == made["involvedObject"] and seen["note"] == "it was tested" and seen["reportingController"] == "tester"
    assert (seen["deprecatedCount"], seen["deprecatedFirstTimestamp"], seen["deprecatedLastTimestamp"]) == (3, "2026-11-24T08:00:00Z", "2026-11-24T09:00:00Z")
    assert seen["deprecatedSource"] == {"component": "tester", "host": "h"}
    assert not {"involvedObject", "message", "count", "source", "reportingComponent", "firstTimestamp", "lastTimestamp"} & set(seen)


def test_written_as_the_other_read_as_core(cloud, project):
    made = cloud.api("POST", new(project), new_event(project, series={"count": 5, "lastObservedTime": TIME}))
    assert made["apiVersion"] == "events.k8s.io/v1" and made["note"] == "it was tested anew"
    seen = cloud.api("GET", old(project) + "/new")
    assert seen["apiVersion"] == "v1" and seen["involvedObject"]["name"] == "c" and seen["message"] == "it was tested anew" and seen["series"]["count"] == 5
    assert seen["eventTime"] == TIME and seen["reportingComponent"] == "example.com/tester" and "regarding" not in seen


def test_both_groups_write_the_same_object(cloud, project):
    cloud.api("POST", old(project), core_event(project))
    merge = dict(content_type="application/merge-patch+json")
    patched = cloud.api("PATCH", new(project) + "/old", {"note": "changed", "series": {"count": 2, "lastObservedTime": TIME}}, **merge)
    assert patched["note"] == "changed" and cloud.api("GET", old(project) + "/old")["message"] == "changed"
    cloud.api("PATCH", old(project) + "/old", {"count": 4}, **merge)
    seen = cloud.api("GET", new(project) + "/old")
    assert seen["deprecatedCount"] == 4 and seen["series"]["count"] == 2
    seen["note"] = "put"
    cloud.api("PUT", new(project) + "/old", seen)
    assert cloud.api("GET", old(project) + "/old")["message"] == "put"
    patch = [{"op": "replace", "path": "/note", "value": "by json"}]
    assert cloud.api("PATCH", new(project) + "/old", patch, content_type="application/json-patch+json")["note"] == "by json"
    with pytest.raises(ApiError) as e:  # taken, under either name
        cloud.api("POST", new(project), new_event(project, "old"))
    assert e.value.status == 409 and e.value.body["message"] == 'events.events.k8s.io "old" already exists'
    with pytest.raises(ApiError) as e:
        cloud.api("PATCH", new(project) + "/old", {"message": "x"}, **merge)
    assert e.value.status == 400 and 'unknown field "message"' in e.value.body["message"]
    cloud.api("DELETE", new(project) + "/old")
    with pytest.raises(ApiError) as e:
        cloud.api("GET", old(project) + "/old")
    assert e.value.status == 404


def test_lists_watches_and_tables_in_both(cloud, project):
    start = cloud.api("GET", old(project))["metadata"]["resourceVersion"]
    cloud.api("POST", old(project), core_event(project))
    cloud.api("POST", new(project), new_event(project))
    cloud.api("DELETE", new(project) + "/new")
    for base, version, text in ((old(project), "v1", "message"), (new(project), "events.k8s.io/v1", "note")):
        listed = cloud.api("GET", base)
        assert (listed["kind"], listed["apiVersion"]) == ("EventList", version) and [e["apiVersion"] for e in listed["items"]] == [version] and text in listed["items"][0]
        events = [json.loads(line) for line in cloud.api("GET", f"{base}?watch=1&timeoutSeconds=1&resourceVersion={start}", raw=True).splitlines()]
        assert [(e["type"], e["object"]["metadata"]["name"], e["object"]["apiVersion"], text in e["object"]) for e in events] == [
            ("ADDED", "old", version, True), ("ADDED", "new", version, True), ("DELETED", "new", version, True)]
        table = get(cloud, base, accept="application/json;as=Table;g=meta.k8s.io;v=v1").json()
        assert [c["name"] for c in table["columnDefinitions"]] == ["Last Seen", "Type", "Reason", "Object", "Subobject", "Source", "Message", "First Seen", "Count", "Name"]
        cells = table["rows"][0]["cells"]
        assert cells[1:5] == ["Normal", "Tested", "configmap/c", ""] and cells[6] == "it was tested" and cells[8:] == [3, "old"] and re.fullmatch(r"\d+[dhms]\w*", cells[0])


def test_field_selectors_in_both_words(cloud, project):
    cloud.api("POST", old(project), core_event(project))
    cloud.api("POST", new(project), new_event(project))

    def names(path): return [e["metadata"]["name"] for e in cloud.api("GET", path)["items"]]
    assert names(old(project) + "?fieldSelector=involvedObject.uid%3Du-1,type%3DWarning") == ["new"]
    assert names(new(project) + "?fieldSelector=regarding.uid%3Du-1,type%21%3DWarning") == ["old"]
    assert names(old(project) + "?fieldSelector=reportingComponent%3Dtester") == names(new(project) + "?fieldSelector=reportingController%3Dtester") == ["old"]
    refused = get(cloud, new(project) + "?fieldSelector=involvedObject.uid%3Du-1")
    assert refused.status == 400 and refused.json()["message"] == "field label not supported: involvedObject.uid"
    items = cloud.api("DELETE", new(project) + "?fieldSelector=regarding.uid%3Du-1")["items"]
    assert [e["apiVersion"] for e in items] == ["events.k8s.io/v1"] * 2 and names(old(project)) == []


@pytest.mark.parametrize("change, field", [
    ({"eventTime": None}, "eventTime"), ({"action": ""}, "action"), ({"reportingController": ""}, "reportingController"), ({"reportingInstance": "x" * 129}, "reportingInstance"),
    ({"reason": ""}, "reason"), ({"type": "Odd"}, "type"), ({"note": "x" * 1025}, "note"), ({"regarding": {"namespace": "elsewhere", "name": "c"}}, "regarding.namespace")])
def test_the_newer_form_asks_for_more(cloud, project, change, field):
    with pytest.raises(ApiError) as e:
        cloud.api("POST", new(project), new_event(project, **change))
    assert e.value.status == 422 and field in [c["field"] for c in e.value.body["details"]["causes"]]
    with pytest.raises(ApiError) as e:
        cloud.api("POST", old(project), core_event(project, involvedObject={"namespace": "elsewhere", "name": "c"}))
    assert e.value.status == 422 and "does not match event.namespace" in e.value.body["message"]


def test_rights_are_of_the_group_that_is_asked(cloud, project):
    """The gateway may neither; what matters is that the refusal names the view's group."""
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    context.load_cert_chain(str(cloud.data / "pki" / "gateway.crt"), str(cloud.data / "pki" / "gateway.key"))
    with pytest.raises(ApiError) as e:
        cloud.api("GET", new(project), context=context)
    assert e.value.status == 403 and 'API group "events.k8s.io"' in e.value.body["message"]


def test_a_namespace_takes_its_events_along(cloud):
    cloud.project("gone")
    cloud.api("POST", new("gone"), new_event("gone"))
    cloud.kubectl("delete", "namespace", "gone", "--timeout=60s")
    assert cloud.api("GET", "/apis/events.k8s.io/v1/events?fieldSelector=metadata.namespace%3Dgone")["items"] == []


def test_kubectl_shows_events(cloud, project):
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})
    uid = cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps/c")["metadata"]["uid"]
    about = {"kind": "ConfigMap", "apiVersion": "v1", "namespace": project, "name": "c", "uid": uid}
    cloud.api("POST", old(project), core_event(project, "later", involvedObject=about))
    cloud.api("POST", old(project), core_event(project, "sooner", involvedObject=about, lastTimestamp="2026-11-20T09:00:00Z", message="long ago"))
    cloud.api("POST", new(project), new_event(project, "series", regarding=about, series={"count": 7, "lastObservedTime": TIME}))
    text = cloud.kubectl("-n", project, "events").stdout
    assert "configmap/c" in text.lower() and "it was tested" in text and "(x7 over" in text and "(x3 over" in text
    assert "it was tested anew" in cloud.kubectl("-n", project, "events", "--for", "configmap/c", "--types=Warning").stdout
    lines = cloud.kubectl("-n", project, "get", "events", "--sort-by=.lastTimestamp", "-o", "custom-columns=N:.metadata.name", "--no-headers").stdout.split()
    assert lines.index("sooner") < lines.index("later")
    head, *rows = cloud.kubectl("-n", project, "get", "events", "--sort-by=.lastTimestamp").stdout.splitlines()
    assert head.split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"] and len(rows) == 3
    wide = cloud.kubectl("-n", project, "get", "events.events.k8s.io", "-o", "wide").stdout
    assert "SUBOBJECT" in wide and "example.com/tester" in wide and "7" in wide
    described = cloud.kubectl("-n", project, "describe", "configmap", "c").stdout
    assert "it was tested anew" in described and "long ago" in described and "(x3 over" in described


def test_the_recorder_counts_in_both(cloud, project):
    """A controller that says the same again makes one event whose count grows, and both groups show it."""
    cloud.create("modelendpoints", project, "e", {"replicas": 1, "engine": {"driver": "fake"}})
    cloud.wait_condition("modelendpoints", project, "e")
    pid = None
    for count in (1, 2):
        def fresh():
            ready = cloud.condition("modelreplicas", project, "e-0").get("status") == "True"
            return ready and {cloud.get("modelreplicas", project, "e-0")["status"].get("pid")} - {pid, None}
        pid = wait_for(fresh, what="a new engine").pop()
        os.kill(pid, signal.SIGKILL)

        def counted():
            return [e for e in cloud.api("GET", old(project) + "?fieldSelector=reason%3DEngineRestarted")["items"] if e["count"] == count]
        event, = wait_for(counted, what=f"the event, {count} times")
    other = cloud.api("GET", f"{new(project)}/{event['metadata']['name']}")
    assert other["deprecatedCount"] == 2 and other["note"] == event["message"] and other["regarding"] == event["involvedObject"]
    text = cloud.kubectl("-n", project, "events", "--types=Warning").stdout
    assert "modelreplica/e-0" in text.lower() and "(x2 over" in text
