"""HTTP/2 beside HTTP/1.1: one connection with many requests, flow control, and what hostile peers try. The peer is python-h2, which lets a test choose each frame."""
import json
import socket
import ssl
import subprocess

import h2.errors
import h2.exceptions
import pytest

from cloud import ApiError, wait_for
from http2_peer import Peer


def configmap(name, size=10):
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v" * size}}).encode()


JSON = [("content-type", "application/json")]


def test_many_requests_share_a_connection(cloud, project):
    with Peer(cloud) as p:
        made = [p.request("POST", f"/api/v1/namespaces/{project}/configmaps", configmap(f"c{i}"), JSON) for i in range(100)]
        assert [p.answer(s)["status"] for s in made] == [201] * 100
        gets = [p.request("GET", f"/api/v1/namespaces/{project}/configmaps/c{i}") for i in range(100)]
        for i, s in enumerate(gets):
            answer = p.answer(s)
            assert answer["status"] == 200 and json.loads(answer["body"])["metadata"]["name"] == f"c{i}"
            assert answer["headers"]["content-type"] == "application/json" and int(answer["headers"]["content-length"]) == len(answer["body"])
            assert answer["headers"]["x-request-id"].startswith("req-")


def test_a_watch_runs_beside_other_requests(cloud, project):
    with Peer(cloud) as p:
        base = f"/api/v1/namespaces/{project}/configmaps"
        watch = p.request("GET", f"{base}?watch=1&resourceVersion=0")
        p.until(lambda: p.streams[watch]["status"] == 200)
        for i in range(20):
            assert p.answer(p.request("POST", base, configmap(f"w{i}"), JSON))["status"] == 201
        p.until(lambda: p.streams[watch]["body"].count(b"\n") >= 20)
        names = [json.loads(line)["object"]["metadata"]["name"] for line in p.streams[watch]["body"].splitlines()]
        assert names == [f"w{i}" for i in range(20)]
        p.h2.reset_stream(watch)
        p.flush()
        assert p.answer(p.request("GET", base))["status"] == 200


def test_a_connection_without_a_request_ends_soon(cloud, project):
    """As one of HTTP/1.1 does, by the time that a head may take; one on which there was a request may be idle for longer."""
    with Peer(cloud) as silent, Peer(cloud) as spoke:
        path = f"/api/v1/namespaces/{project}/configmaps"
        assert spoke.answer(spoke.request("GET", path))["status"] == 200
        while not silent.closed:
            silent.receive()
        assert spoke.answer(spoke.request("GET", path))["status"] == 200


def test_a_connection_outlives_its_last_stream(cloud, project):
    """Each time the last stream goes by a reset, the connection is idle from that moment on, not for ever."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    with Peer(cloud) as p:
        for _ in range(250):
            watch = p.request("GET", f"{base}?watch=1")
            p.until(lambda: p.streams[watch]["status"] == 200)
            p.h2.reset_stream(watch)
            p.flush()
        assert p.answer(p.request("GET", base))["status"] == 200


def test_head_and_errors(cloud, project):
    with Peer(cloud) as p:
        head = p.answer(p.request("HEAD", f"/api/v1/namespaces/{project}"))
        assert head["status"] == 200 and head["body"] == b""
        missing = p.answer(p.request("GET", f"/api/v1/namespaces/{project}/configmaps/none"))
        assert missing["status"] == 404 and json.loads(missing["body"])["reason"] == "NotFound"
        bad = p.answer(p.request("POST", f"/api/v1/namespaces/{project}/configmaps", b"{", JSON))
        assert bad["status"] == 400


def test_large_bodies_both_ways(cloud, project):
    with Peer(cloud) as p:
        base = f"/api/v1/namespaces/{project}/configmaps"
        assert p.answer(p.request("POST", base, configmap("big", 900_000), JSON))["status"] == 201
        answer = p.answer(p.request("GET", f"{base}/big"))
        assert len(json.loads(answer["body"])["data"]["k"]) == 900_000
        too_large = p.request("POST", base, configmap("huge", 4_000_000), JSON, end=False)
        assert p.answer(too_large)["status"] == 413
        assert p.answer(p.request("GET", base))["status"] == 200, "the connection lives"


def test_no_byte_of_a_large_answer_is_lost(cloud, project):
    """The client takes all at once: what leaves in many pieces is counted by what waits, not by what has left."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    for i in range(12):
        cloud.api("POST", base, configmap(f"big{i}", 900_000))
    with Peer(cloud, window=2**30) as p:
        p.h2.increment_flow_control_window(2**30)
        p.flush()
        s = p.request("GET", base)
        answer = p.answer(s)
        assert answer["ended"] and int(answer["headers"]["content-length"]) == len(answer["body"]) > 10_800_000
        assert len(json.loads(answer["body"])["items"]) == 12


def test_streams_that_go_while_they_are_written_to(cloud, project):
    """A watch is reset by its client at every moment of a burst of events."""
    base = f"/api/v1/namespaces/{project}/configmaps"
    with Peer(cloud) as p:
        for i in range(60):
            watch = p.request("GET", f"{base}?watch=1&resourceVersion=0")
            other = p.request("POST", base, configmap(f"burst{i}", 20_000), JSON)
            if i % 2:
                p.until(lambda: p.streams[watch]["status"] == 200)
            p.h2.reset_stream(watch)
            p.flush()
            assert p.answer(other)["status"] == 201
    assert len(cloud.api("GET", base)["items"]) == 60


def test_a_client_that_opens_no_window_gets_nothing_and_others_go_on(cloud, project):
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", configmap("big", 500_000))
    with Peer(cloud, window=0) as p:
        s = p.request("GET", f"/api/v1/namespaces/{project}/configmaps/big")
        p.until(lambda: p.streams[s]["status"] == 200)
        assert p.streams[s]["body"] == b""
        p.h2.increment_flow_control_window(10, stream_id=s)
        p.flush()
        p.until(lambda: len(p.streams[s]["body"]) == 10)
        assert cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps/big")["metadata"]["name"] == "big"


def test_headers_over_the_limit(cloud):
    with Peer(cloud) as p:
        answer = p.answer(p.request("GET", "/version", headers=[(f"x-{i}", "v" * 1000) for i in range(40)]))
        assert answer["status"] == 431
        answer = p.answer(p.request("GET", "/version", headers=[(f"x-{i}", "v") for i in range(150)]))
        assert answer["status"] == 431
        assert p.answer(p.request("GET", "/version"))["status"] == 200


@pytest.mark.parametrize("headers", [
    [("Upper-Case", "x")], [("connection", "keep-alive")], [("transfer-encoding", "chunked")], [("bad name", "x")], [("x", "a\r\nb: c")], [("x", "a\0b")],
    [(":path", "/again")], [("content-length", "5")], [("content-length", "-1")], [("te", "gzip")],
])
def test_malformed_requests_reach_nobody(cloud, project, headers):
    before = cloud.metrics()
    with Peer(cloud, validate=False) as p:
        s = p.request("POST", f"/api/v1/namespaces/{project}/configmaps", b"{}", [*JSON, *headers])
        try:
            answer = p.answer(s)
            assert answer["reset"] is not None or answer["status"] == 400, answer
        except AssertionError:
            assert p.goaway is not None or p.closed
    for line in before.splitlines():
        if line.startswith("seki_apiserver_requests_total") and 'code="201"' in line and "configmaps" in line:
            assert line in cloud.metrics()


def test_rapid_resets_end_the_connection(cloud, project):
    with Peer(cloud) as p:
        for _ in range(1000):
            try:
                s = p.request("GET", f"/api/v1/namespaces/{project}/configmaps?watch=1")
                p.h2.reset_stream(s)
                p.flush()
            except OSError:
                break
        try:
            while p.goaway is None and not p.closed:
                p.receive()
        except (OSError, h2.exceptions.ProtocolError):
            p.closed = True
        assert p.closed or p.goaway == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
    assert cloud.api("GET", "/version")["major"]


def test_garbage_instead_of_frames(cloud):
    for garbage in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 1000):
        context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
        context.set_alpn_protocols(["h2"])
        host, port = cloud.address("api").rsplit(":", 1)
        with context.wrap_socket(socket.create_connection((host, int(port)), timeout=20), server_hostname=host) as s:
            s.sendall(garbage)
            try:
                while s.recv(65536):
                    pass
            except OSError:
                pass


def test_draining_lets_requests_end(own_cloud):
    cloud = own_cloud()
    cloud.project("drain")
    with Peer(cloud) as p:
        watch = p.request("GET", "/api/v1/namespaces/drain/configmaps?watch=1")
        p.until(lambda: p.streams[watch]["status"] == 200)
        cloud.stop()
        try:
            while p.goaway is None and not p.closed:
                p.receive()
        except OSError:
            p.closed = True
        assert p.goaway == h2.errors.ErrorCodes.NO_ERROR or p.closed


def test_curl_speaks_both(cloud):
    for flag, version in (("--http1.1", "1.1"), ("--http2", "2")):
        out = subprocess.run(["curl", "-s", flag, "--cacert", str(cloud.data / "pki" / "ca.crt"), "--cert", str(cloud.data / "pki" / "admin.crt"), "--key", str(cloud.data / "pki" / "admin.key"),
                              "-o", "/dev/null", "-w", "%{http_version} %{http_code}", cloud.api_url + "/version"], capture_output=True, text=True, timeout=60)
        assert out.stdout == f"{version} 200", out


def test_without_a_certificate_nobody_gets_in(cloud):
    out = subprocess.run(["curl", "-s", "--http2", "--cacert", str(cloud.data / "pki" / "ca.crt"), cloud.api_url + "/api/v1/namespaces"], capture_output=True, text=True, timeout=60)
    assert json.loads(out.stdout)["code"] == 401
