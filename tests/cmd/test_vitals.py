"""The metrics that alerts look at follow what happens."""
import os
import signal
import time

import pytest

from cloud import GROUP, Cloud, wait_for


def value(c, name, labels="", of="metrics"):
    lines = [line for line in c.metrics(of).splitlines() if line.startswith(f"{name}{labels} ")]
    assert len(lines) == 1, (name, labels, lines)
    return float(lines[0].rsplit(" ", 1)[1])


def endpoints(c, state):
    return value(c, "seki_inference_endpoints", f'{{state="{state}"}}')


def replicas(c, state):
    return value(c, "seki_inference_replicas", f'{{state="{state}"}}')


def scale(c, name, count):
    c.api("PATCH", f"{GROUP}/namespaces/demo/modelendpoints/{name}", {"spec": {"replicas": count}}, content_type="application/merge-patch+json")


@pytest.fixture(scope="module")
def demo():
    with Cloud() as c:
        c.project("demo")
        yield c


def test_readiness(demo):
    assert value(demo, "seki_control_ready") == 1 and value(demo, "seki_gateway_ready", of="metrics-gateway") == 1


def test_control_is_not_ready_with_a_wrong_manifest(own_cloud, tmp_path):
    c = own_cloud(options={"manifests": tmp_path})
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Nonsense\n")
    os.kill(c.role_pid("control"), signal.SIGHUP)
    wait_for(lambda: value(c, "seki_control_ready") == 0, what="control to be not ready")
    (tmp_path / "a.yaml").unlink()
    os.kill(c.role_pid("control"), signal.SIGHUP)
    wait_for(lambda: value(c, "seki_control_ready") == 1, what="control to be ready again")


def test_the_disk_is_the_data_directorys(demo):
    s = os.statvfs(demo.data)
    assert value(demo, "seki_data_disk_size_bytes") == s.f_blocks * s.f_frsize
    assert abs(value(demo, "seki_data_disk_free_bytes") - s.f_bavail * s.f_frsize) < 8 << 30


def test_ends_of_certificates(demo):
    year = time.time() + 365 * 86400
    for name in ("apiserver", "admin", "gateway"):
        assert abs(value(demo, "seki_certificate_end_timestamp_seconds", f'{{certificate="{name}"}}') - year) < 86400
    assert value(demo, "seki_certificate_end_timestamp_seconds", '{certificate="ca"}') > year
    assert abs(value(demo, "seki_certificate_end_timestamp_seconds", '{certificate="gateway-client"}', "metrics-gateway") - year) < 86400


def test_endpoints_and_replicas_by_state(demo):
    demo.fake_endpoint("demo", "one")
    wait_for(lambda: endpoints(demo, "serving") == 1 and replicas(demo, "ready") == 1, what="one that serves")
    demo.create("modelendpoints", "demo", "bad", {"model": "nothing"})
    wait_for(lambda: endpoints(demo, "not-ready") == 1 and replicas(demo, "not-ready") == 1, what="one that does not")
    scale(demo, "bad", 0)
    wait_for(lambda: endpoints(demo, "scaled-to-zero") == 1 and endpoints(demo, "not-ready") == 0 and replicas(demo, "not-ready") == 0, what="one that is not wanted")
    for name in ("bad", "one"):
        demo.api("DELETE", f"{GROUP}/namespaces/demo/modelendpoints/{name}")
    wait_for(lambda: all(endpoints(demo, s) == 0 for s in ("serving", "degraded", "not-ready", "scaled-to-zero")) and replicas(demo, "ready") == 0, what="none to be left")


def test_an_engine_that_ends_is_counted(demo):
    before = value(demo, "seki_inference_engine_restarts_total")
    demo.fake_endpoint("demo", "mortal")
    for n in range(1, 7):
        pid = wait_for(lambda: demo.get("modelreplicas", "demo", "mortal-0")["status"].get("pid"), 60, "the engine")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: demo.get("modelreplicas", "demo", "mortal-0")["status"].get("pid") != pid, 60, "it to be gone")
        wait_for(lambda: value(demo, "seki_inference_engine_restarts_total") >= before + n, 60, "it to be counted")
        if replicas(demo, "crash-looping") == 1:
            break
    assert replicas(demo, "crash-looping") == 1


def test_usage_is_collected(demo):
    wait_for(lambda: time.time() - value(demo, "seki_billing_collected_timestamp_seconds") < 5, what="a round")


def test_a_damaged_journal_shows_by_age(own_cloud):
    c = own_cloud()
    c.project("demo")
    c.fake_endpoint("demo", "fake")
    env = {"OPENAI_BASE_URL": c.base_url, "OPENAI_API_KEY": c.key("demo"), "SEKI_MODEL": "fake"}
    for _ in range(2):
        c.seki("chat", "hi", env=env)
    wait_for(lambda: value(c, "seki_billing_records_total") >= 2, what="the records to be collected")
    c.stop(signal.SIGTERM)
    # The first record of two is damaged, and the ledger is to be made anew from it.
    (c.data / "ledger" / "usage.000001").unlink()
    journal = c.data / "ledger" / "usage-gateway.000001"
    text = bytearray(journal.read_bytes())
    text[120] ^= 1
    journal.write_bytes(text)
    c.start(wait=False)  # the gateway does not start with such a journal
    wait_for(lambda: c.alive() and c.is_ready("metrics"), 60, "control")
    wait_for(lambda: value(c, "seki_billing_journals_damaged") == 1, what="the damage to be seen")
    wait_for(lambda: time.time() - value(c, "seki_billing_collected_timestamp_seconds") > 4, what="the age to grow")
