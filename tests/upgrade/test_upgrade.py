"""From the previous release to this one and back, with real programs and data: the previous one is built from the commit that the file `previous` names."""
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

import cloud as programs
from cloud import CACHE, ROOT, SEKI, wait_for

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import data  # noqa: E402

COMMIT = (HERE / "previous").read_text().strip()
pytestmark = pytest.mark.full


def run(*args, **kwargs):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=1500, **kwargs)
    assert p.returncode == 0, f"{args}: {p.stdout[-3000:]}{p.stderr[-3000:]}"
    return p.stdout


@pytest.fixture(scope="module")
def previous():
    """The module that drives the previous release's programs, which are built when the cache has none."""
    if subprocess.run(["git", "-C", ROOT, "cat-file", "-e", COMMIT + "^{commit}"], capture_output=True).returncode:
        pytest.skip(f"the history of this repository does not have the previous release, {COMMIT[:12]}: it is a shallow clone, or no clone")
    top = CACHE / f"previous-{COMMIT[:12]}"
    if not (top / "built").exists():
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(parents=True)
        archive = subprocess.Popen(["git", "-C", ROOT, "archive", COMMIT], stdout=subprocess.PIPE)
        run("tar", "-C", top, "-xf", "-", stdin=archive.stdout)
        assert archive.wait() == 0
        run("meson", "setup", top / "build", top, "-Dbuildtype=debugoptimized")
        run("ninja", "-C", top / "build", "src/sekid", "src/seki", "tests/fake_engine")
        (top / "built").write_text("")
    spec = importlib.util.spec_from_file_location("cloud_of_before", top / "tests" / "lib" / "cloud.py")
    module = importlib.util.module_from_spec(spec)
    before, os.environ["SEKI_BUILD"] = os.environ.get("SEKI_BUILD"), str(top / "build")
    try:
        spec.loader.exec_module(module)
    finally:
        os.environ.pop("SEKI_BUILD")
        if before is not None:
            os.environ["SEKI_BUILD"] = before
    return module


def engine(cloud):
    """The process id of the one engine, by the runtime's record of it."""
    (record,) = (cloud.data / "run" / "workloads").glob("*.json")
    return json.loads(record.read_text())["pid"]


def names(cloud):
    return {o["metadata"]["name"]: o["metadata"] for o in cloud.api("GET", f"/api/v1/namespaces/{data.NS}/configmaps")["items"]}


def config_map(cloud, name):
    return int(cloud.api("POST", f"/api/v1/namespaces/{data.NS}/configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})["metadata"]["resourceVersion"])


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_old_to_new_to_old_to_new(previous, tmp_path, end):
    """Killed: the whole daemon at once, while its database has a log that was not written back."""
    old = previous.Cloud(directory=tmp_path)
    new = programs.Cloud(directory=tmp_path)
    new.options["engine-fake"] = old.options["engine-fake"]  # the engine runs through all of it
    times = []

    def leave(cloud):
        if end == "killed":
            control, gateway = cloud.role_pid("control"), cloud.role_pid("gateway")
            cloud.process.kill()
            cloud.process.wait()
            for pid in (control, gateway):
                wait_for(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2], what="its roles to end")
        else:
            cloud.stop(signal.SIGTERM)

    def arrive(cloud, what):
        begun = time.monotonic()
        cloud.start()
        wait_for(lambda: data.answers(cloud, secret), 60, f"an answer after {what}")
        times.append(f"{what} {time.monotonic() - begun:.1f} s")

    try:
        old.start()
        secret = data.fill(old, previous.wait_for, previous.ApiError)
        pid, kept = engine(old), names(old)
        counted = data.requests_counted(old)
        leave(old)
        arrive(new, "upgrade")
        assert engine(new) == pid, "no engine is started anew"
        assert {n: (m["uid"], m["resourceVersion"]) for n, m in kept.items()} == {n: (m["uid"], m["resourceVersion"]) for n, m in names(new).items()}
        assert data.password(new) == data.PASSWORD
        lost = config_map(new, "late")
        counted += 1
        wait_for(lambda: data.requests_counted(new) == counted, what="usage")
        wait_for(lambda: "all secrets are sealed" in new.log.read_text(), what="secrets to be sealed")
        leave(new)
        run(SEKI, "rollback", "--yes", "--data", new.data)
        arrive(old, "rollback")
        assert engine(old) == pid
        assert {n: (m["uid"], m["resourceVersion"]) for n, m in kept.items()} == {n: (m["uid"], m["resourceVersion"]) for n, m in names(old).items()}
        assert data.password(old) == data.PASSWORD
        assert config_map(old, "back") > lost
        counted += 1
        wait_for(lambda: data.requests_counted(old) == counted, what="usage, of which nothing was lost")
        run(previous.SEKI, "audit", "verify", old.data / "ledger")
        leave(old)
        arrive(new, "second upgrade")
        assert {"back"} | set(kept) == set(names(new)) and data.password(new) == data.PASSWORD
        run(SEKI, "audit", "verify", new.data / "ledger")
        counted += 1
        wait_for(lambda: data.requests_counted(new) == counted, what="usage")
        print("\n" + end + ": to an answer after " + ", ".join(times))
    finally:
        for cloud in (old, new):
            cloud.stop()
        run(programs.SEKID, f"--data={new.data}", "--stop-engines")
        new.check_sanitizers()


def test_the_previous_release_refuses_what_this_one_has_written(previous, tmp_path):
    with programs.Cloud(directory=tmp_path) as new:
        new.project("p")
    old = previous.Cloud(directory=tmp_path).start(wait=False)
    try:
        wait_for(lambda: "newer release (format 2, this one knows 1)" in old.log.read_text(), what="the refusal")
    finally:
        old.stop()
    with new:
        assert new.api("GET", "/api/v1/namespaces/p")["metadata"]["name"] == "p"
