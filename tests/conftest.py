"""Fixtures for the end-to-end tests. `cloud` is shared by a module's tests; a test that kills or fills things starts its own with `own_cloud`."""
import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "lib"))

from cloud import Cloud  # noqa: E402


def pytest_configure(config):
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that: Ctrl-C must work in those that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "full: long; runs in make test-full only")
    config.addinivalue_line("markers", "kube: needs the programs of Kubernetes (make kubernetes)")
    config.addinivalue_line("markers", "core: of these what make test runs; it takes control planes alone, no nodes")
    config.addinivalue_line("markers", "threads: runs against a build with ThreadSanitizer too")


@pytest.fixture(scope="module")
def cloud():
    with Cloud() as c:
        yield c


@pytest.fixture
def own_cloud():
    """A function that makes clouds of the test's own; they are stopped at its end."""
    made = []

    def make(**kwargs):
        c = Cloud(**kwargs)
        made.append(c)
        return c.start()
    yield make
    for c in made:
        c.__exit__(None, None, None)


_counter = iter(range(1, 1 << 30))


@pytest.fixture
def project(cloud):
    """A fresh project in the shared cloud."""
    return cloud.project(f"p{next(_counter)}")
