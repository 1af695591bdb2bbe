"""Processes are killed; what was promised holds."""
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import threading
import time
import urllib.request

import openai
import pytest

from cloud import SEKID, Cloud, ApiError, wait_for, SLOW


def configmap(name):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v" * 100}}


def write_until(cloud, stop, worker, acknowledged):
    n = 0
    while not stop.is_set():
        name = f"w{worker}-{n}"
        n += 1
        try:
            made = cloud.api("POST", "/api/v1/namespaces/load/configmaps", configmap(name))
            acknowledged[name] = int(made["metadata"]["resourceVersion"])
        except (OSError, ApiError, ValueError):
            time.sleep(0.01)  # the API is down: not a wait for a result


def kill_under_load(cloud, kills):
    """Kills control `kills` times while four clients write; returns name → acknowledged revision."""
    cloud.project("load")
    stop, acknowledged = threading.Event(), {}
    writers = [threading.Thread(target=write_until, args=(cloud, stop, i, acknowledged)) for i in range(4)]
    for w in writers:
        w.start()
    try:
        for _ in range(kills):
            target = len(acknowledged) + random.randint(1, 40)
            wait_for(lambda: len(acknowledged) >= target, 60, "writes to be acknowledged")
            cloud.kill_role("control")
    finally:
        stop.set()
        for w in writers:
            w.join()
    cloud.wait_ready(60)
    return acknowledged


def check_acknowledged(cloud, acknowledged):
    stored = {}
    page = {"metadata": {}}
    while True:
        token = page["metadata"].get("continue")
        page = cloud.api("GET", "/api/v1/namespaces/load/configmaps?limit=500" + (f"&continue={token}" if token else ""))
        stored.update({o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in page["items"]})
        if not page["metadata"].get("continue"):
            break
    missing = [n for n in acknowledged if n not in stored]
    assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged writes are lost: {missing[:5]}"
    assert all(stored[n] == rv for n, rv in acknowledged.items())
    assert len(set(stored.values())) == len(stored), "two objects share a revision"


@pytest.mark.timeout(900)
def test_acknowledged_writes_survive_kills(own_cloud):
    cloud = own_cloud()
    check_acknowledged(cloud, kill_under_load(cloud, 5))


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_acknowledged_writes_survive_fifty_kills(own_cloud):
    cloud = own_cloud()
    check_acknowledged(cloud, kill_under_load(cloud, 50))


def stream_tokens(cloud, secret, results, started):
    client = openai.OpenAI(base_url=cloud.base_url, api_key=secret, max_retries=0, timeout=120 * SLOW)
    text = ""
    for i, chunk in enumerate(client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "go"}], stream=True)):
        if i == 0:
            started.release()
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    results.append(text.split())


def test_control_killed_during_100_streams(own_cloud):
    """None breaks, new requests work, and a gateway restarted with the API down serves."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", replicas=2, tokens=60, tokens_per_second=20)
    secret = cloud.key("demo")
    wait_for(lambda: cloud.gateway_status("/models/fake", secret) == 200, what="the model")
    results, started = [], threading.Semaphore(0)
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        futures = [pool.submit(stream_tokens, cloud, secret, results, started) for _ in range(100)]
        for _ in range(100):
            assert started.acquire(timeout=60 * SLOW)
        os.kill(cloud.role_pid("control"), signal.SIGKILL)
        for f in futures:
            f.result()
    assert results == [[f"tok{i}" for i in range(60)]] * 100
    cloud.wait_ready()
    # The API is held down: the supervisor stands still, so that nothing starts control again.
    os.kill(cloud.process.pid, signal.SIGSTOP)
    try:
        os.kill(cloud.role_pid("control"), signal.SIGKILL)
        gateway = cloud.role_pid("gateway")
        os.kill(gateway, signal.SIGKILL)
        env = {k: v for k, v in os.environ.items() if k != "SEKI_SUPERVISOR"}
        with open(cloud.log, "ab") as log:
            alone = subprocess.Popen(cloud.command("gateway"), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        try:
            def answers():
                try:
                    return cloud.gateway_status("/models/fake", secret) == 200
                except OSError:
                    return False
            wait_for(answers, 30, "the gateway to serve with the API down")
            stream_tokens(cloud, secret, results, started)
            assert len(results) == 101
        finally:
            alone.kill()
            alone.wait()
    finally:
        os.kill(cloud.process.pid, signal.SIGCONT)
    cloud.wait_ready(60)


def test_engines_survive_a_restart_and_are_adopted(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    pid = cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"]
    cloud.stop(signal.SIGTERM)
    os.kill(pid, 0)  # still there
    cloud.start()
    cloud.wait_condition("modelreplicas", "demo", "fake-0")
    after = cloud.get("modelreplicas", "demo", "fake-0")["status"]
    assert after["pid"] == pid
    cloud.kill_role("control")
    cloud.wait_ready()
    cloud.wait_condition("modelreplicas", "demo", "fake-0")
    assert cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"] == pid
    cloud.stop(signal.SIGINT)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the engine to be stopped with SIGINT")


def test_sigint_stops_engines_when_control_is_dead(own_cloud):
    """Ctrl-C in the moment in which control is down: engines are not left behind by whoever should have ended them."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", replicas=2)
    pids = [cloud.get("modelreplicas", "demo", f"fake-{i}")["status"]["pid"] for i in range(2)]
    os.kill(cloud.process.pid, signal.SIGSTOP)  # so that nothing starts control again before the signal is there
    try:
        os.kill(cloud.role_pid("control"), signal.SIGKILL)
        cloud.process.send_signal(signal.SIGINT)
    finally:
        os.kill(cloud.process.pid, signal.SIGCONT)
    cloud.process.wait(60 * SLOW)
    wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), what="the engines to end")
    assert not list((cloud.data / "run" / "workloads").glob("*.json"))


def test_engines_of_a_killed_sekid_can_be_stopped(own_cloud):
    """All of sekid is gone, its engines are not: --stop-engines ends them, and is refused while a sekid runs."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    pid = cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"]
    command = [SEKID, f"--data={cloud.data}", "--stop-engines"]
    p = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 1 and "a sekid runs on this data directory" in p.stderr and os.path.exists(f"/proc/{pid}"), p
    cloud.process.kill()
    cloud.process.wait()
    p = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert (p.returncode, p.stdout) == (0, "1 engine stopped\n"), p
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the engine to end")
    p = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW)
    assert (p.returncode, p.stdout) == (0, "no engine runs\n"), p


def test_killed_engine_comes_back_and_conditions_tell(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    pid = cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"]
    os.kill(pid, signal.SIGKILL)

    def back():
        status = cloud.get("modelreplicas", "demo", "fake-0").get("status", {})
        return status.get("pid") not in (None, 0, pid) and cloud.condition("modelendpoints", "demo", "fake").get("status") == "True"
    wait_for(back, 30, "a new engine")
    assert cloud.get("modelreplicas", "demo", "fake-0")["status"]["restarts"] >= 1


def test_hung_engine_is_found_and_restarted(own_cloud):
    cloud = own_cloud(options={"engine-stall-timeout": "2s"})
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake", mode="hang", hang_after=0)
    secret = cloud.key("demo")
    pid = cloud.get("modelreplicas", "demo", "fake-0")["status"]["pid"]
    wait_for(lambda: cloud.gateway_status("/models/fake", secret) == 200, what="the model")
    client = openai.OpenAI(base_url=cloud.base_url, api_key=secret, max_retries=0, timeout=60 * SLOW)
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}], stream=True))
    wait_for(lambda: cloud.get("modelreplicas", "demo", "fake-0").get("status", {}).get("pid") not in (None, 0, pid), 60, "a new engine")
    events = cloud.api("GET", "/api/v1/namespaces/demo/events")["items"]
    assert any(e["reason"] == "EngineHung" for e in events), [e["reason"] for e in events]


def test_second_sekid_on_the_same_data_is_refused(own_cloud):
    cloud = own_cloud()
    other = Cloud(directory=cloud.dir)
    other.log = cloud.dir / "second.log"
    other.start(wait=False)
    assert other.process.wait(30) == 1
    assert "another sekid already runs on this data directory" in other.log.read_text()


def test_wrong_digest_is_never_served(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    own = cloud.data / "models" / "demo"
    own.mkdir()
    (own / "m.gguf").write_bytes(b"not what was promised")
    cloud.create("models", "demo", "bad", {"source": f"file://{own}", "format": "GGUF", "license": {"id": "test"},
                                           "files": [{"name": "m.gguf", "digest": "sha256:" + "0" * 64, "sizeBytes": 21}]})
    cloud.create("modelendpoints", "demo", "bad", {"model": "bad"})
    cond = cloud.wait_condition("models", "demo", "bad", kind="Verified", status="False", reason="DigestMismatch")
    assert "m.gguf" in cond["message"]
    assert not (own / "m.gguf").exists() and list(own.glob("m.gguf.rejected-*"))
    cond = cloud.wait_condition("modelendpoints", "demo", "bad", kind="ModelVerified", status="False")


def test_engine_missing_says_what_to_install(own_cloud, tmp_path):
    cloud = own_cloud(options={"model-dirs": tmp_path, "engine-venv": tmp_path / "none", "engine-llama-server": None})
    cloud.project("demo")
    (tmp_path / "m.gguf").write_bytes(b"x")
    import hashlib
    cloud.create("models", "demo", "m", {"source": f"file://{tmp_path}", "format": "GGUF", "license": {"id": "test"},
                                         "files": [{"name": "m.gguf", "digest": "sha256:" + hashlib.sha256(b"x").hexdigest(), "sizeBytes": 1}]})
    cloud.create("modelendpoints", "demo", "m", {"model": "m"})
    cond = cloud.wait_condition("modelendpoints", "demo", "m", kind="EngineStarted", status="False", reason="EngineMissing")
    assert "install" in cond["message"]


def test_port_in_use_is_named(own_cloud):
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        cloud = Cloud(options={"api-listen": f"127.0.0.1:{port}"})
        cloud.process = None
        cloud.start(wait=False)
        try:
            wait_for(lambda: f"127.0.0.1:{port}" in cloud.tail(10000) and "in use" in cloud.tail(10000).lower(), 20, "the address in the log")
        finally:
            cloud.stop()
            cloud.__exit__(None, None, None)
