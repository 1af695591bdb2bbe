"""What a new start says of the world: nothing that was true only before."""
import signal

from cloud import wait_for


def test_an_engine_that_is_gone_is_not_ready_after_a_start(own_cloud):
    """From the moment that readyz says yes, conditions do not speak of the engines of an earlier life."""
    cloud = own_cloud()
    cloud.project("demo")
    cloud.create("modelendpoints", "demo", "slow", {"replicas": 2, "engine": {"driver": "fake", "options": {"loadDelayMs": "3000"}}})
    cloud.wait_condition("modelendpoints", "demo", "slow")
    wait_for(lambda: cloud.get("modelendpoints", "demo", "slow")["status"]["readyReplicas"] == 2, what="both")
    cloud.stop(signal.SIGINT)
    cloud.start()
    # Loading takes three seconds: who says Ready now speaks of the past.
    endpoint = cloud.get("modelendpoints", "demo", "slow")
    ready = {c["type"]: c for c in endpoint["status"]["conditions"]}["Ready"]
    assert ready["status"] == "False", ready
    for name in ("slow-0", "slow-1"):
        assert cloud.condition("modelreplicas", "demo", name)["status"] == "False"
    p = cloud.seki("-n", "demo", "wait", "mep/slow")
    assert p.stderr, "it did wait"
    cloud.wait_condition("modelendpoints", "demo", "slow")


def test_an_engine_that_was_left_running_stays_ready(own_cloud):
    cloud = own_cloud()
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    before = cloud.condition("modelendpoints", "demo", "fake")
    cloud.stop(signal.SIGTERM)
    cloud.start()
    assert cloud.condition("modelendpoints", "demo", "fake")["lastTransitionTime"] == before["lastTransitionTime"]
    assert cloud.condition("modelreplicas", "demo", "fake-0")["status"] == "True"
