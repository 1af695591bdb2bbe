"""What buyers of GPU clouds ask of a managed Kubernetes, on one real cluster: docs/operate/conformance.md has the list and names these tests."""
import base64
import contextlib
import http.server
import json
import socket
import ssl
import threading

import pytest

import kube
from cloud import wait_for
from issuer import make_certificates

pytestmark = pytest.mark.kube
NETWORK = {"podCIDR": "10.32.0.0/12", "serviceCIDR": "10.112.0.0/20"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with kube.cloud(kube.programs(tmp_path_factory.mktemp("programs"))) as c:
        yield kube.Cluster.ready(c, "demo", "one", {"controlPlane": {"size": "Medium"}, "network": NETWORK})


def config_map(name, **labels):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "labels": labels}}


def test_an_upstream_version_is_served(cluster):
    version = json.loads(cluster.kubectl("version", "-o", "json").stdout)["serverVersion"]
    assert version["gitVersion"] == cluster.get()["status"]["version"] and version["gitTreeState"] == "clean" and "+" not in version["gitVersion"]


def test_metrics_of_the_api_server_are_for_its_tenant(cluster):
    lines = cluster.kubectl("get", "--raw", "/metrics").stdout.splitlines()
    for family in ("apiserver_request_total counter", "apiserver_request_duration_seconds histogram", "etcd_request_duration_seconds histogram"):
        assert f"# TYPE {family}" in lines
    assert any(line.startswith("apiserver_request_total{") and 'resource="namespaces"' in line for line in lines)


def test_custom_resources(cluster):
    cluster.apply({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "masts.radio.example"}, "spec": {
        "group": "radio.example", "scope": "Namespaced", "names": {"plural": "masts", "singular": "mast", "kind": "Mast"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
            "type": "object", "properties": {"metres": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.metres < 100", "message": "too high"}]}}}}}]}})
    cluster.kubectl("wait", "--for=condition=Established", "crd/masts.radio.example", "--timeout=60s")
    mast = {"apiVersion": "radio.example/v1", "kind": "Mast", "metadata": {"name": "one", "namespace": "default"}, "spec": {"metres": 40}}
    wait_for(lambda: cluster.apply(mast, check=False).returncode == 0, 30, "the API of the new kind")
    p = cluster.apply({**mast, "spec": {"metres": 400}}, check=False)
    assert p.returncode and "too high" in p.stderr
    assert cluster.kubectl("get", "mast", "one", "-o", "jsonpath={.spec.metres}").stdout == "40"


@contextlib.contextmanager
def webhook(directory):
    """An admission webhook that refuses what is labelled `bad` and marks what is labelled `plain`. Gives its URL."""
    make_certificates(directory)

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request, answer = review["request"], {"uid": review["request"]["uid"], "allowed": True}
            labels, path = request["object"]["metadata"].get("labels", {}), self.path.partition("?")[0]
            if path == "/mutate" and "plain" in labels:
                patch = [{"op": "add", "path": "/data", "value": {"marked": "yes"}}]
                answer.update(patchType="JSONPatch", patch=base64.b64encode(json.dumps(patch).encode()).decode())
            if path == "/validate" and "bad" in labels:
                answer.update(allowed=False, status={"message": "it is bad"})
            body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass
        def do_GET(self):
            asked.append(self.path)
    asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def standin_gate(cluster):
    """For the gate, which a cluster without nodes has not: it dials whatever the API server asks for. Gives what that was."""
    def copy(a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)

    def serve(conn):
        head = b""
        while b"\r\n\r\n" not in head:
            head += conn.recv(1)
        asked.append(head.split()[1].decode())
        host, port = asked[-1].rsplit(":", 1)
        there = socket.create_connection((host, int(port)))
        conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        for pair in ((conn, there), (there, conn)):
            threading.Thread(target=copy, args=pair, daemon=True).start()

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    asked, path = [], cluster.cloud.data / "run" / "gates" / f"{cluster.uid}.sock"
    path.parent.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield asked
    finally:
        path.unlink()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_webhook_by_url_leads_nowhere_but_through_the_gate(cluster, tmp_path):
    """Its tenant names the URL, and the API server runs on this machine: it must reach nothing of it, nor of other clusters."""
    with webhook(tmp_path) as (url, asked):
        authority = base64.b64encode((tmp_path / "ca.crt").read_bytes()).decode()
        cluster.apply({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "outside"}, "webhooks": [{
            "name": "outside.radio.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 10, "clientConfig": {"url": url + "/outside", "caBundle": authority},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}], "objectSelector": {"matchLabels": {"outside": "yes"}}}]})
        count = iter(range(1000))

        def refused():
            p = cluster.apply(config_map(f"outside-{next(count)}", outside="yes"), check=False)
            return p.returncode and p.stderr
        said = wait_for(refused, 30, "the webhook to be asked for")
        assert "gates/" in said and not asked, (said, asked)
        cluster.kubectl("delete", "validatingwebhookconfiguration", "outside")


def test_admission_webhooks_validate_and_mutate(cluster, tmp_path):
    with webhook(tmp_path) as (url, _), standin_gate(cluster) as dialled:
        authority = base64.b64encode((tmp_path / "ca.crt").read_bytes()).decode()

        def configuration(kind, path):
            return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": f"{kind}WebhookConfiguration", "metadata": {"name": "hooks"}, "webhooks": [{
                "name": "hooks.radio.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 10, "clientConfig": {"url": url + path, "caBundle": authority},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}], "objectSelector": {"matchLabels": {"hooked": "yes"}}}]}
        cluster.apply(configuration("Mutating", "/mutate"), configuration("Validating", "/validate"))
        count = iter(range(1000))

        def refused():
            p = cluster.apply(config_map(f"bad-{next(count)}", hooked="yes", bad="yes"), check=False)
            return p.returncode and "it is bad" in p.stderr
        wait_for(refused, 30, "the webhook to be asked")

        def marked():
            name = f"plain-{next(count)}"
            cluster.apply(config_map(name, hooked="yes", plain="yes"))
            return cluster.kubectl("get", "configmap", name, "-o", "jsonpath={.data.marked}").stdout == "yes"
        wait_for(marked, 30, "the webhook to mark")
        assert set(dialled) == {url.removeprefix("https://")}
        cluster.kubectl("delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", "hooks")


def test_dynamic_resource_allocation(cluster):
    names = cluster.kubectl("api-resources", "--api-group=resource.k8s.io", "-o", "name").stdout.split()
    assert {f"{n}.resource.k8s.io" for n in ("deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices")} <= set(names)
    cluster.apply({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": 'device.driver == "gpu.example"'}}]}},
          {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "one", "namespace": "default"},
           "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}})
    assert cluster.kubectl("get", "resourceclaim", "one", "-o", "jsonpath={.spec.devices.requests[0].exactly.count}").stdout == "1"


def test_service_accounts_have_an_issuer_of_their_own(cluster):
    """Tokens name it, it can be discovered, and the keys it publishes are those that the tokens were signed with."""
    token = cluster.kubectl("create", "token", "default", "--audience", "bank.example").stdout.strip()
    head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    found = json.loads(cluster.kubectl("get", "--raw", "/.well-known/openid-configuration").stdout)
    keys = json.loads(cluster.kubectl("get", "--raw", "/openid/v1/jwks").stdout)["keys"]
    assert claims["iss"] == found["issuer"] and claims["aud"] == ["bank.example"] and claims["sub"] == "system:serviceaccount:default:default"
    assert head["kid"] in [k["kid"] for k in keys] and head["alg"] in found["id_token_signing_alg_values_supported"]
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": ["bank.example"]}}
    p = cluster.kubectl("create", "-o", "json", "-f", "-", input=json.dumps(review))
    assert json.loads(p.stdout)["status"]["authenticated"] is True


def test_addresses_of_services_come_from_the_range_that_was_asked_for(cluster):
    assert cluster.kubectl("get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}").stdout == "10.112.0.1"
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}})
    assert cluster.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}").stdout.startswith("10.112.")


def test_a_size_is_what_its_control_plane_keeps_to(cluster):
    flags = open(f"/proc/{cluster.pids()['apiserver']}/cmdline", "rb").read().split(b"\0")
    environment = open(f"/proc/{cluster.pids()['apiserver']}/environ", "rb").read().split(b"\0")
    assert b"--max-requests-inflight=800" in flags and b"GOMEMLIMIT=1024MiB" in environment
