"""A new gateway takes the place of the old one: nobody is refused, reset, cut off or counted twice."""
import contextlib
import json
import os
import signal
import subprocess
import threading

import pytest

from cloud import Cloud, wait_for
from target import Target
from wire import STREAM_DONE, STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, STREAM_USAGE, RawClient, Upstream, answer, journal, post


@pytest.fixture
def served(request):
    """A cloud whose model is an engine in the test's hands."""
    with Cloud(options={"gateway-threads": 2, **getattr(request, "param", {})}) as c:
        c.engine = Upstream()
        c.secret = c.serve(c.engine.url)
        c.target = Target(c.address("gateway"), c.secret, "m", c.engine, c)
        yield c
        c.engine.go.set()
        c.engine.stop()


def gateways(c, parent=None):
    """The process ids, the oldest first."""
    parent = (parent or c.process).pid
    children = open(f"/proc/{parent}/task/{parent}/children").read().split()
    return [int(p) for p in children if b"--role=gateway" in open(f"/proc/{p}/cmdline", "rb").read()]


def replace(c):
    """Returns (old, new) when the new one has taken over."""
    old = gateways(c)[-1]
    before = c.log.read_text().count("another gateway has taken over")
    c.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: c.log.read_text().count("another gateway has taken over") > before, what="the new gateway to have taken over")
    return old, next(p for p in reversed(gateways(c)) if p != old)


def statuses(target, n=5):
    """Of n requests; who is not connected tries again."""
    def answered():
        try:
            return target.ask(target.chat(stream=False)).status
        except (OSError, EOFError):
            return None
    return [wait_for(answered, what="an answer") for _ in range(n)]


def records(c):
    return [r for p in ("usage-gateway", "usage-gateway-next") for r in journal(c.data / "ledger", p)]


def test_running_streams_lose_nothing(served, count=200):
    """Streams that run go on in the old process to their last byte, while the new one serves who comes; then the old one is gone."""
    words = [f"w{i}" for i in range(20)]
    events = [b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": w}, "finish_reason": None}]}).encode() + b"\n\n" for w in words]
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, *events[:10], "wait", *events[10:], STREAM_USAGE, STREAM_DONE, "close"]
    clients = [RawClient(served.target.address) for _ in range(count)]
    for client in clients:
        served.target.send(client)
    for client in clients:
        client.read_until(events[9] + b"\r\n")
    old, new = replace(served)
    assert old in gateways(served)
    served.engine.script = [answer()]
    assert [served.target.ask(served.target.chat(stream=False)).status for _ in range(20)] == [200] * 20
    served.engine.go.set()
    for client in clients:
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
        assert rest.endswith(b"".join(events[10:]) + STREAM_DONE), rest[-200:]
        client.close()
    wait_for(lambda: gateways(served) == [new], what="the old one to leave")
    assert served.alive()
    got = records(served)
    assert len(got) == len({r["id"] for r in got}) == count + 20 and all(r["outcome"] == "ok" and r["exact"] for r in got)
    wait_for(lambda: sum(r.get("status", {}).get("requests", 0) or sum(i["requests"] for i in r.get("status", {}).get("items", [])) for r in
                         served.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/usagereports")["items"]) == count + 20, what="all to be billed, once")


@pytest.mark.full
def test_a_thousand_streams_lose_nothing(served):
    test_running_streams_lose_nothing(served, 1000)


def test_nobody_is_refused_or_reset(served):
    """Clients come and go all the while, each with a new connection or one that is kept, through two replacements: every request is answered."""
    served.engine.script = [answer()]
    stop, failed, done = threading.Event(), [], [0] * 8
    request = post(served.secret, served.target.chat(stream=False))

    def fresh(i):
        while not stop.is_set():
            try:
                with RawClient(served.target.address) as client:
                    client.sock.sendall(request)
                    assert client.response().status == 200
                done[i] += 1
            except (OSError, EOFError, AssertionError) as e:
                failed.append(("fresh", repr(e)))

    def kept(i):
        client = RawClient(served.target.address)
        while not stop.is_set():
            try:
                client.sock.sendall(request)
                got = client.response()
                assert got.status == 200
                done[i] += 1
                if got.headers.get("connection") == "close":
                    client.close()
                    client = RawClient(served.target.address)
            except (OSError, EOFError, AssertionError) as e:
                failed.append(("kept", repr(e)))
                client = RawClient(served.target.address)
        client.close()
    threads = [threading.Thread(target=kept if i % 2 else fresh, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    try:
        for _ in range(2):
            seen = list(done)
            replace(served)
            wait_for(lambda: all(a > b for a, b in zip(done, seen)) or failed, what="everybody to have been served since")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failed, failed[:5]
    wait_for(lambda: len(gateways(served)) == 1, 90, what="the old ones to leave")
    got = records(served)
    assert len(got) == len({r["id"] for r in got}) == sum(done)


def test_what_a_killed_successor_left_is_counted(served):
    """One that took over writes under another name: what ran when it is killed is counted by whoever comes next, under that name."""
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    old, new = replace(served)
    wait_for(lambda: gateways(served) == [new], 90, what="the old one to leave")
    with RawClient(served.target.address) as client:
        served.target.send(client)
        client.read_until(b"good")
        os.kill(new, signal.SIGKILL)
        got = wait_for(lambda: records(served), what="the record")
    assert [(r["outcome"], r["exact"]) for r in got] == [("killed", False)] and got[0]["completion_tokens"] >= 1
    served.engine.go.set()
    served.engine.script = [answer()]
    assert statuses(served.target, 1) == [200]
    assert len(records(served)) == 2 == len(journal(served.data / "ledger", "usage-gateway-next"))


def test_a_successor_that_is_killed_while_the_old_one_drains(served):
    """There is a gateway again at once, and the old one's streams end whole; when it is killed too, what ran there is counted."""
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    with RawClient(served.target.address) as client:
        served.target.send(client)
        client.read_until(b"good")
        old, new = replace(served)
        os.kill(new, signal.SIGKILL)
        served.engine.script = [answer()]
        wait_for(lambda: statuses(served.target, 1) == [200], what="another gateway")
        assert old in gateways(served)
        os.kill(old, signal.SIGKILL)
        got = wait_for(lambda: [r for r in records(served) if r["outcome"] == "killed"], what="the record")
    assert len(got) == 1 and got[0]["completion_tokens"] >= 1


@pytest.mark.parametrize("served", [{"limits-lease": "600s"}], indirect=True)
def test_limits_pass_what_they_should_whoever_is_replaced_or_killed(served):
    """Neither one that drains nor one that was killed keeps its share of a rate from the one that serves, though leases are long."""
    limited = Target(served.address("gateway"), served.key("demo", "limited", limits={"requestsPerMinute": 600}), "m", served.engine, served)

    def all_pass(when):
        """Soon: a request waits 3 s at most for control, which a busy machine may take longer for."""
        wait_for(lambda: statuses(limited) == [200] * 5, what=f"requests to pass {when}")
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    with RawClient(served.target.address) as client:
        served.target.send(client)
        client.read_until(b"good")
        served.engine.script = [answer()]
        all_pass("at first")
        old, new = replace(served)
        all_pass("beside one that drains")
        os.kill(new, signal.SIGKILL)
        all_pass("after one that was killed beside it")
    served.engine.go.set()
    wait_for(lambda: old not in gateways(served), 90, what="the old one to leave")
    for _ in range(2):
        os.kill(gateways(served)[-1], signal.SIGKILL)
        all_pass("after a killed one")


def test_one_that_cannot_start_changes_nothing(served, tmp_path):
    """A new gateway that fails before it serves: the old one goes on."""
    served.engine.script = [answer()]
    old = gateways(served)[0]
    lock = open(served.data / "ledger" / "usage-gateway-next.lock", "w")
    import fcntl
    fcntl.flock(lock, fcntl.LOCK_EX)
    served.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "a gateway that was to take over has gone; this one goes on" in served.log.read_text(), what="the new one to fail")
    assert [served.target.ask(served.target.chat(stream=False)).status for _ in range(20)] == [200] * 20
    lock.close()
    wait_for(lambda: "another gateway has taken over" in served.log.read_text(), what="another try")
    assert served.target.ask(served.target.chat(stream=False)).status == 200
    wait_for(lambda: old not in gateways(served), 90, what="the old one to leave")


def test_the_end_ends_both(served):
    """SIGTERM while an old one still drains: its streams end whole."""
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    with RawClient(served.target.address) as client:
        served.target.send(client)
        client.read_until(b"good")
        replace(served)
        served.process.terminate()
        wait_for(lambda: len(gateways(served)) == 1, what="the new one to have left")
        served.engine.go.set()
        assert b"[DONE]" in client.read_until(b"[DONE]")
    assert served.process.wait(60) == 0


@contextlib.contextmanager
def supervised(c, name):
    """A gateway of its own name, with a supervisor of the gateway alone, as the unit of systemd has it."""
    with open(c.log, "ab") as log:
        p = subprocess.Popen([*c.command("gateway"), "--supervise", f"--gateway-name={name}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: (c.data / "run" / f"gateway-{name}.addr").exists() and c.is_ready(f"metrics-gateway-{name}"), what="the gateway to be ready")
        yield p
    finally:
        p.terminate()
        p.wait(60)


def test_a_supervisor_of_the_gateway_alone_replaces_it(served):
    """SIGUSR2: a stream goes on, nobody is refused; a second supervisor of that name is refused; SIGTERM drains once, and all have left."""
    with supervised(served, "b") as p:
        target = Target(served.address("gateway-b"), served.secret, "m", served.engine, served)
        old = gateways(served, p)
        served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
        with RawClient(target.address) as client:
            target.send(client)
            client.read_until(b"good")
            served.engine.script = [answer()]
            p.send_signal(signal.SIGUSR2)

            def taken_over():
                assert target.ask(target.chat(stream=False)).status == 200
                return len(gateways(served, p)) == 2 and "another gateway has taken over" in served.log.read_text()
            wait_for(taken_over, what="the new one to have taken over")
            assert target.ask(target.chat(stream=False)).status == 200
            second = subprocess.run([*served.command("gateway"), "--supervise", "--gateway-name=b"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            assert second.returncode == 1 and "another gateway of this name" in second.stderr
            p.terminate()
            wait_for(lambda: gateways(served, p) == old, what="the new one to have left")
            served.engine.go.set()
            client.read_until(b"[DONE]")
        assert p.wait(60) == 0


def test_asked_again_while_the_old_one_drains_it_is_replaced_after_that(served):
    """There are two names for journals: a third gateway would find both taken. What is no supervisor says so, and goes on."""
    served.engine.script = [STREAM_HEAD, STREAM_ROLE, STREAM_TEXT, "wait", STREAM_DONE, "close"]
    with RawClient(served.target.address) as client:
        served.target.send(client)
        client.read_until(b"good")
        served.engine.script = [answer()]
        old, new = replace(served)
        served.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: "is replaced when the one before has ended" in served.log.read_text(), what="it to wait")
        os.kill(new, signal.SIGUSR2)
        wait_for(lambda: "SIGUSR2 is for the supervisor" in served.log.read_text(), what="it to be told")
        assert gateways(served) == [old, new] and served.target.ask(served.target.chat(stream=False)).status == 200
        served.engine.go.set()
        client.read_until(b"[DONE]")
    wait_for(lambda: served.log.read_text().count("another gateway has taken over") == 2, 90, "the third one")
    wait_for(lambda: len(gateways(served)) == 1 and gateways(served)[0] not in (old, new), 90, "the others to leave")
    assert served.target.ask(served.target.chat(stream=False)).status == 200
    assert "cannot start" not in served.log.read_text()


def test_only_a_gateway_has_a_supervisor_of_its_own(served):
    p = subprocess.run([*served.command("control"), "--supervise"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert p.returncode == 2 and "--supervise: expected with --role=gateway" in p.stderr
