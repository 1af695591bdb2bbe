"""The resource API by the real kubectl."""
import json
import re
import subprocess
import threading

import pytest

from cloud import KUBECTL, GROUP, ApiError, wait_for

MANIFEST = """
apiVersion: seki.cloud/v1alpha1
kind: ModelEndpoint
metadata: {{name: {name}, namespace: {ns}}}
spec: {{replicas: 0, engine: {{driver: fake}}}}
"""


def apply(cloud, text):
    return cloud.kubectl("create", "-f", "-", input=text)


def test_version_is_recent_enough(cloud):
    version = json.loads(cloud.kubectl("version", "-o", "json").stdout)
    assert int(version["clientVersion"]["minor"].rstrip("+")) >= 30  # distributors add a plus
    assert version["serverVersion"]["major"]


def test_discovery(cloud):
    names = cloud.kubectl("api-resources", "-o", "name").stdout.split()
    for name in ["modelendpoints.seki.cloud", "models.seki.cloud", "modelreplicas.seki.cloud", "apikeys.seki.cloud", "usagereports.seki.cloud",
                 "namespaces", "secrets", "configmaps", "leases.coordination.k8s.io", "roles.rbac.authorization.k8s.io"]:
        assert name in names
    assert "mep" in cloud.kubectl("api-resources").stdout


@pytest.mark.parametrize("output", ["", "wide", "json", "yaml", "name", "jsonpath={.metadata.name}", "custom-columns=N:.metadata.name", "go-template={{.metadata.name}}"])
def test_get_in_every_output(cloud, project, output):
    apply(cloud, MANIFEST.format(name="e1", ns=project))
    p = cloud.kubectl("-n", project, "get", "mep", "e1", *(["-o", output] if output else []))
    assert "e1" in p.stdout
    if output in ("", "wide"):
        assert p.stdout.split()[0] == "NAME"


def test_wide_has_more_columns(cloud, project):
    apply(cloud, MANIFEST.format(name="e1", ns=project))
    plain, wide = ([line.split() for line in cloud.kubectl("-n", project, "get", "mep", *args).stdout.splitlines()] for args in ((), ("-o", "wide")))
    assert plain[0] == [name for name in wide[0] if name not in ("DRIVER", "VISIBILITY")] and {"DRIVER", "VISIBILITY"} <= set(wide[0])
    assert {"fake", "Project"} <= set(wide[1]) and not {"fake", "Project"} & set(plain[1])


def test_create_twice_says_already_exists(cloud, project):
    apply(cloud, MANIFEST.format(name="e1", ns=project))
    p = cloud.kubectl("create", "-f", "-", input=MANIFEST.format(name="e1", ns=project), check=False)
    assert p.returncode == 1 and "AlreadyExists" in p.stderr and 'modelendpoints.seki.cloud "e1" already exists' in p.stderr


def test_watch_while_another_client_writes(cloud, project):
    import os
    watch = subprocess.Popen([KUBECTL, "-n", project, "get", "configmaps", "-w", "-o", "name"], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "KUBECONFIG": cloud.kubeconfig, "HOME": str(cloud.dir)})
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(watch.stdout.readline, "")))
    reader.start()
    def make(name):
        cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})

    def begun():  # what exists before the watch begins is listed, by name
        make(f"first{len(made)}")
        made.append(1)
        return lines
    made = []
    try:
        wait_for(begun, what="kubectl to watch")
        wait_for(lambda: len(lines) == len(made), what="all that was made so far")
        del lines[:]
        for i in range(20):
            make(f"c{i}")
        wait_for(lambda: len(lines) >= 20, what=f"20 lines of kubectl get -w, have {len(lines)}")
        assert [line.strip() for line in lines] == [f"configmap/c{i}" for i in range(20)]
    finally:
        watch.kill()
        watch.wait()
        reader.join()


def test_wait_for_condition(cloud, project):
    cloud.create("modelendpoints", project, "w", {"replicas": 1, "engine": {"driver": "fake"}})
    p = cloud.kubectl("-n", project, "wait", "--for=condition=Ready", "mep/w", "--timeout=60s")
    assert "condition met" in p.stdout


def test_label_annotate_and_select(cloud, project):
    for name in ("a", "b"):
        apply(cloud, MANIFEST.format(name=name, ns=project))
    cloud.kubectl("-n", project, "label", "mep", "a", "tier=gold")
    assert cloud.kubectl("-n", project, "get", "mep", "-l", "tier=gold", "-o", "name").stdout.split() == ["modelendpoint.seki.cloud/a"]
    assert cloud.kubectl("-n", project, "get", "mep", "-l", "tier!=gold", "-o", "name").stdout.split() == ["modelendpoint.seki.cloud/b"]
    assert cloud.kubectl("-n", project, "get", "mep", "--field-selector", "metadata.name=b", "-o", "name").stdout.split() == ["modelendpoint.seki.cloud/b"]
    p = cloud.kubectl("-n", project, "label", "mep", "a", "bad key=x", check=False)
    assert p.returncode != 0


def test_delete_one_and_namespace(cloud):
    cloud.project("doomed")
    apply(cloud, MANIFEST.format(name="e1", ns="doomed"))
    cloud.kubectl("-n", "doomed", "delete", "mep", "e1", "--timeout=60s")
    assert "NotFound" in cloud.kubectl("-n", "doomed", "get", "mep", "e1", check=False).stderr
    apply(cloud, MANIFEST.format(name="e2", ns="doomed"))
    cloud.kubectl("delete", "namespace", "doomed", "--timeout=60s")
    assert "NotFound" in cloud.kubectl("get", "namespace", "doomed", check=False).stderr


def test_merge_patch_and_scale(cloud, project):
    apply(cloud, MANIFEST.format(name="s", ns=project))
    cloud.kubectl("-n", project, "patch", "mep", "s", "--type=merge", "-p", '{"spec":{"engine":{"parallel":2}}}')
    assert cloud.get("modelendpoints", project, "s")["spec"]["engine"]["parallel"] == 2
    cloud.kubectl("-n", project, "scale", "mep", "s", "--replicas=2")
    assert cloud.get("modelendpoints", project, "s")["spec"]["replicas"] == 2


@pytest.mark.parametrize("spec, field", [
    ({"replicas": -1, "engine": {"driver": "fake"}}, "spec.replicas"),
    ({"replicas": "two", "engine": {"driver": "fake"}}, "spec.replicas"),
    ({"engine": {"driver": "steam"}}, "spec.engine.driver"),
    ({"engine": {"driver": "fake", "parallel": 0}}, "spec.engine.parallel"),
    ({"engine": {"driver": "llamacpp"}}, "spec.model"),
])
def test_invalid_values_name_the_field_and_change_nothing(cloud, project, spec, field):
    with pytest.raises(ApiError) as e:
        cloud.create("modelendpoints", project, "bad", spec)
    assert e.value.status in (400, 422)
    causes = e.value.body.get("details", {}).get("causes", [])
    assert field in e.value.body["message"] or any(c.get("field") == field for c in causes)
    with pytest.raises(ApiError) as e:
        cloud.get("modelendpoints", project, "bad")
    assert e.value.status == 404


def test_unknown_field_is_strict(cloud, project):
    p = cloud.kubectl("create", "--validate=false", "-f", "-", input=MANIFEST.format(name="u", ns=project).replace("replicas: 0", "replicas: 0, repliccas: 1"), check=False)
    assert p.returncode == 0 or "unknown field" in p.stderr  # --validate=false asks to ignore
    with pytest.raises(ApiError) as e:
        cloud.create("modelendpoints", project, "u2", {"repliccas": 1, "engine": {"driver": "fake"}})
    assert e.value.status == 400 and 'unknown field "spec.repliccas"' in e.value.body["message"]


@pytest.mark.parametrize("name", ["Upper", "under_score", "-x", "x" * 254, "a/b", ""])
def test_bad_names(cloud, project, name):
    with pytest.raises(ApiError) as e:
        cloud.create("modelendpoints", project, name, {"engine": {"driver": "fake"}})
    assert e.value.status in (400, 422) and "name" in e.value.body["message"]


def test_invalid_json_and_too_large(cloud, project):
    for body, status in [(b"{", 400), (b"[1]", 400), (b'{"a":1} x', 400), (b'{"x":"' + b"a" * (4 << 20) + b'"}', 413)]:
        with pytest.raises((ApiError, ConnectionError, OSError)) as e:
            cloud.api("POST", f"{GROUP}/namespaces/{project}/models", body)
        if isinstance(e.value, ApiError):
            assert e.value.status == status


def test_optimistic_concurrency(cloud, project):
    path = f"/api/v1/namespaces/{project}/configmaps/c"
    cloud.api("POST", path[:-2], {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}})
    first = cloud.api("GET", path)
    second = json.loads(json.dumps(first))
    first["metadata"]["labels"] = {"x": "1"}
    cloud.api("PUT", path, first)
    second["metadata"]["labels"] = {"x": "2"}
    with pytest.raises(ApiError) as e:
        cloud.api("PUT", path, second)
    assert e.value.status == 409 and e.value.body["reason"] == "Conflict"


def test_watch_resumes_from_a_revision_and_410_when_too_old(cloud, project):
    import socket  # noqa: F401
    base = f"/api/v1/namespaces/{project}/configmaps"
    made = [cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"r{i}"}}) for i in range(5)]
    rv = made[1]["metadata"]["resourceVersion"]
    text = cloud.api("GET", f"{base}?watch=1&resourceVersion={rv}&timeoutSeconds=1", raw=True)
    events = [json.loads(line) for line in text.splitlines() if line]
    assert [e["object"]["metadata"]["name"] for e in events if e["type"] == "ADDED"] == ["r2", "r3", "r4"]
    with pytest.raises(ApiError) as e:
        cloud.api("GET", f"{base}?limit=1&continue=bm90LWEtdG9rZW4")
    assert e.value.status in (400, 410)


def test_paging_sees_one_revision(cloud, project):
    base = f"/api/v1/namespaces/{project}/configmaps"
    for i in range(10):
        cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"p{i:02}"}})
    page = cloud.api("GET", base + "?limit=4")
    cloud.api("DELETE", base + "/p09")
    names = [o["metadata"]["name"] for o in page["items"]]
    while page["metadata"].get("continue"):
        page = cloud.api("GET", f"{base}?limit=4&continue={page['metadata']['continue']}")
        names += [o["metadata"]["name"] for o in page["items"]]
    assert names == [f"p{i:02}" for i in range(10)]


def test_finalizer_holds_a_deletion(cloud, project):
    base = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", base, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "f", "finalizers": ["example.com/hold"]}})
    cloud.api("DELETE", base + "/f")
    assert cloud.api("GET", base + "/f")["metadata"]["deletionTimestamp"]
    cloud.api("PATCH", base + "/f", {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")
    with pytest.raises(ApiError) as e:
        cloud.api("GET", base + "/f")
    assert e.value.status == 404


def test_no_anonymous_access_but_health(cloud):
    import ssl
    import urllib.error
    import urllib.request
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    for path, status in [("/livez", 200), ("/readyz", 200), ("/api/v1/namespaces", 401), ("/apis", 401), ("/metrics", 401)]:
        try:
            with urllib.request.urlopen(cloud.api_url + path, context=context, timeout=20) as r:
                seen = r.status
        except urllib.error.HTTPError as e:
            seen = e.code
        assert seen == status, path


def test_rbac_limits_a_client_certificate(cloud):
    """The gateway's own certificate reads what it routes by, and nothing else."""
    import ssl
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    context.load_cert_chain(str(cloud.data / "pki" / "gateway.crt"), str(cloud.data / "pki" / "gateway.key"))
    assert cloud.api("GET", f"{GROUP}/modelendpoints", context=context)["kind"] == "ModelEndpointList"
    for method, path, body in [("GET", "/api/v1/secrets", None), ("DELETE", f"{GROUP}/namespaces/default/apikeys/x", None),
                               ("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})]:
        with pytest.raises(ApiError) as e:
            cloud.api(method, path, body, context=context)
        assert e.value.status == 403 and "system:seki:gateway" in e.value.body["message"]


def test_secret_key_is_shown_once(cloud, project):
    made = cloud.create("apikeys", project, "once", {})
    assert made["status"]["key"].startswith("sk-seki-")
    stored = cloud.get("apikeys", project, "once")
    assert "key" not in stored["status"] and stored["status"]["hash"] not in made["status"]["key"]
    assert made["status"]["key"] not in cloud.log.read_text()


def test_ages_are_ages(cloud):
    """The server fills the cells of a table: an age is a duration there, not a date."""
    cloud.project("aged")
    head, row = cloud.kubectl("get", "namespace", "aged").stdout.splitlines()
    assert head.split()[-1] == "AGE" and re.fullmatch(r"\d+s", row.split()[-1]), row
