"""The torture suite: what networks, engines and clients do on their worst days, against a gateway.

By default the gateway is one of ours, and its model is served by an engine that the suite scripts. Any other gateway can be put in its place:

    pytest tests/gateway/torture --url http://HOST:PORT --key KEY --model m --engine HOST:PORT

The suite's engine then listens at --engine: tell that gateway beforehand that its model lives there, without retries. Without --engine only those tests run that need none. Each option may be a
variable too: TORTURE_URL, TORTURE_KEY, TORTURE_MODEL, TORTURE_ENGINE. Tests of what only an insider can see (metrics, usage records) are skipped for strangers.
"""
import os
import urllib.parse

import pytest

from cloud import Cloud
from target import Target
from wire import Upstream

NAMES = ("url", "key", "model", "engine")


def pytest_addoption(parser):
    group = parser.getgroup("torture")
    for name, text in zip(NAMES, ("of the gateway that is tortured", "for it", "that it serves", "where the suite's engine listens")):
        group.addoption(f"--{name}", help=text)


def option(config, name, default=None):
    return config.getoption(name, None) or os.environ.get(f"TORTURE_{name.upper()}", default)


@pytest.fixture(scope="package")
def whole(request):
    url = option(request.config, "url")
    if url:
        at = urllib.parse.urlsplit(url)
        assert at.scheme == "http", "plain HTTP only: put TLS aside for this"
        host, _, port = (option(request.config, "engine") or "").rpartition(":")
        model = option(request.config, "model", "m")
        engine = Upstream(host, int(port), model) if port else None
        yield Target(f"{at.hostname}:{at.port or 80}", option(request.config, "key", "none"), model, engine)
        if engine:
            engine.stop()
        return
    with Cloud(options={"gateway-threads": 1}) as c:
        engine = Upstream()
        key = c.serve(engine.url)
        yield Target(c.address("gateway"), key, "m", engine, c)
        engine.stop()


@pytest.fixture
def gateway(whole):
    """The target with an engine in the test's hands."""
    if not whole.engine:
        pytest.skip("needs an engine in the suite's hands: --engine")
    whole.engine.go.clear()
    whole.engine.requests[:] = []
    yield whole
    whole.engine.go.set()
    whole.well()


@pytest.fixture
def ours(gateway):
    if not gateway.cloud:
        pytest.skip("looks inside")
    return gateway
