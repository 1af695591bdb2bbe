"""Files of bytes and what must come of them, against the gateway and, for the same code behind TLS, against the API server; then engines that answer what no engine should."""
import json
import pathlib
import ssl

import pytest

from cloud import Cloud
from wire import Case, RawClient, Upstream, answer, cases, OK_BODY

HERE = pathlib.Path(__file__).parent / "wire"
REQUESTS = cases(HERE / "requests")
RESPONSES = cases(HERE / "responses")


@pytest.fixture(scope="module")
def wired():
    """A cloud whose one model is served by an upstream in the test's hands."""
    with Cloud(options={"gateway-max-body": "1M", "gateway-threads": 1}) as c:
        c.upstream = Upstream()
        c.secret = c.serve(c.upstream.url)
        yield c
        c.upstream.stop()


def ask(c, what, body=b"", headers=""):
    with RawClient(c.address("gateway")) as client:
        client.send(f"{what} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {c.secret}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return client.response()


def values(c, server, counter=[0]):
    """What the files leave open."""
    counter[0] += 1
    if server == "gateway":
        bodies = [json.dumps({"model": "m", "messages": [{"role": "user", "content": f"hi {counter[0]} {i}"}]}) for i in (1, 2)]
        out = {"GET": "/v1/models", "POST": "/v1/chat/completions", "AUTH": f"Authorization: Bearer {c.secret}\\r\\n"}
    else:
        bodies = [json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{counter[0]}-{i}"}}) for i in (1, 2)]
        out = {"GET": "/api/v1/namespaces", "POST": "/api/v1/namespaces/demo/configmaps", "AUTH": ""}
    assert len(bodies[0]) == len(bodies[1])
    return {**out, "BODY": bodies[0], "BODY_TWO": bodies[1], "LENGTH": str(len(bodies[0])), "HEXLENGTH": f"{len(bodies[0]):x}"}


def connect(c, server):
    if server == "gateway":
        return RawClient(c.address("gateway"))
    context = ssl.create_default_context(cafile=str(c.data / "pki" / "ca.crt"))
    context.load_cert_chain(str(c.data / "pki" / "admin.crt"), str(c.data / "pki" / "admin.key"))
    return RawClient(c.address("api"), context)


def exchange(client, case, fill):
    """Sends a case's packets and reads as many answers as it expects."""
    packets, wanted = case.packets(**fill), case.get("expect").split()
    answers = []
    for i, packet in enumerate(packets):
        client.send(packet)
        if wanted[0] == "100" and i == 0:
            answers.append(client.response())
    while len(answers) < len(wanted):
        answers.append(client.response())
    return answers, wanted


@pytest.mark.parametrize("case,server", [(c, s) for c in REQUESTS for s in c.get("servers", "gateway api").split()],
                         ids=lambda v: v if isinstance(v, str) else v.name)
def test_request(wired, case, server):
    before = len(wired.upstream.requests)
    fill = values(wired, server)
    with connect(wired, server) as client:
        answers, wanted = exchange(client, case, fill)
        for got, want in zip(answers, wanted):
            assert got.status in ((200, 201) if want == "ok" else (int(want),)), got
            if got.status >= 400:
                check_error(got, server)
        if case.get("then") == "open":
            client.send(f"GET {fill['GET']} HTTP/1.1\r\nHost: x\r\n{fill['AUTH']}\r\n".replace("\\r\\n", "\r\n").encode())
            assert client.response().status == 200
        else:
            assert answers[-1].headers.get("connection") == "close"
            assert client.ended(), "more than the answers came"
    if server == "gateway":
        # Whoever was to be reached has been: answers come after that. One more request shows that nothing else is on its way.
        assert ask(wired, "POST /v1/chat/completions", fill["BODY"].encode()).status == 200
        assert len(wired.upstream.requests) - before - 1 == int(case.get("reached", "0"))


def check_error(response, server):
    body = response.json()
    if server == "gateway":
        assert response.headers["content-type"] == "application/json"
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code", "request_id"} and error["message"]
        assert error["request_id"] == response.headers["x-request-id"] and error["request_id"].startswith("req-")
    else:
        assert body["kind"] == "Status" and body["code"] == response.status and body["message"]


def test_api_did_nothing_for_refused_requests(wired):
    """What the files smuggle would make objects."""
    case = next(c for c in REQUESTS if c.name == "cl-and-te")
    fill = values(wired, "api")
    with connect(wired, "api") as client:
        exchange(client, case, fill)
        assert client.ended()
    name = json.loads(fill["BODY"])["metadata"]["name"]
    assert name not in [o["metadata"]["name"] for o in wired.api("GET", "/api/v1/namespaces/demo/configmaps")["items"]]


# ---- engines ----

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize("case", RESPONSES, ids=lambda c: c.name)
def test_response(wired, case):
    """A hostile or broken engine: 502 in OpenAI's shape, and nothing of what it said."""
    wired.upstream.script = [*case.packets(OK=OK_BODY.decode().replace("\\", "\\\\"), LENGTH=str(len(OK_BODY)), HEXLENGTH=f"{len(OK_BODY):x}"), case.get("engine", "close")]
    try:
        got = ask(wired, "POST /v1/chat/completions", CHAT)
    finally:
        wired.upstream.script = [answer()]
    want = int(case.get("expect"))
    assert got.status == want, got
    assert b"EVIL" not in got.body and "evil" not in str(got.headers).lower()
    if want >= 400:
        check_error(got, "gateway")
        if want == 502:
            assert got.json()["error"]["type"] == "server_error" and got.json()["error"]["code"] == "upstream_error"
    else:
        assert got.body == OK_BODY
    # The connection it came on was not kept: the next answer is the next request's.
    assert ask(wired, "POST /v1/chat/completions", CHAT).body == OK_BODY


def test_late_bytes_are_nobody_s_answer(wired):
    """An engine that sends a second answer after the first: the next client does not get it. What comes only after the next request is on its way cannot be told from its answer,
    by anyone: the next client asks when the second answer is there."""
    wired.upstream.script = [answer(), answer(b'{"choices":[],"EVIL":1}')]
    for _ in range(20):
        played = wired.upstream.played
        got = ask(wired, "POST /v1/chat/completions", CHAT)
        assert got.status == 200 and b"EVIL" not in got.body
        wired.upstream.wait(lambda: wired.upstream.played >= played + 2, "the second answer")
    wired.upstream.script = [answer()]


def test_case_format(tmp_path):
    path = tmp_path / "x.case"
    path.write_bytes(b"# why\nexpect: 200\n---\nGET {PATH}\\r\\n\n\\x00\\\\{3*ab}\n~\nz\n")
    case = Case(path)
    assert case.get("expect") == "200" and case.packets(PATH="/p") == [b"GET /p\r\n\0\\ababab", b"z"]
