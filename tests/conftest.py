"""Fixtures for the end-to-end tests. `cloud` is shared by a module's tests; a test that kills or fills things starts its own with `own_cloud`.

SEKI_PASSED=FILE: what has passed is written there, a line each ("SECONDS NODEID"), and not run again when the file has it already: an interrupted `make test-full` is gone on with.
"""
import os
import pathlib
import shutil
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "lib"))

from cloud import Cloud  # noqa: E402


def pytest_configure(config):
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that: Ctrl-C must work in those that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("SEKI_PASSED"):
        config.pluginmanager.register(Passed(config, pathlib.Path(os.environ["SEKI_PASSED"])))
    config.addinivalue_line("markers", "full: long; runs in make test-full only")
    config.addinivalue_line("markers", "kube: needs the programs of Kubernetes (make kubernetes)")
    config.addinivalue_line("markers", "core: of these what make test runs; it takes control planes alone, no nodes")
    config.addinivalue_line("markers", "threads: runs against a build with ThreadSanitizer too")


class Passed:
    """The file of SEKI_PASSED. What is left out is what it said at the start: all workers must find the same tests, whenever they look."""
    def __init__(self, config, path):
        self.path, self.before = path, pathlib.Path(f"{path}.before")
        self.writes = not hasattr(config, "workerinput")  # the process that hears of all results
        self.good = {}
        if self.writes:
            path.touch()
            shutil.copyfile(path, self.before)

    def pytest_collection_modifyitems(self, config, items):
        known = {line.split(" ", 1)[1] for line in self.before.read_text().splitlines()}
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid in known])
        items[:] = [i for i in items if i.nodeid not in known]

    def pytest_runtest_logreport(self, report):
        if not self.writes:
            return
        if report.when == "call" and report.passed:
            self.good[report.nodeid] = report.duration
        elif report.when == "teardown" and report.passed and report.nodeid in self.good:
            with open(self.path, "a") as f:
                f.write(f"{self.good[report.nodeid]:.1f} {report.nodeid}\n")


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
