"""client-go, as Go controllers use it: tools/client-go has the checks. Its typed clients send protobuf."""
import os
import subprocess

import pytest

from cloud import ROOT

CHECKS = ["typed", "errors", "apply", "informer", "dynamic", "pages", "metadata", "mapper", "leader", "events"]


@pytest.fixture(scope="module")
def program():
    out = subprocess.run([ROOT / "scripts" / "client-go"], capture_output=True, text=True, timeout=1200)
    assert out.returncode == 0, out.stderr
    return out.stdout.split()[-1]


@pytest.mark.timeout(1500)  # the first check may have to wait for the build
@pytest.mark.parametrize("check", CHECKS)
def test_client_go(cloud, project, program, check):
    p = subprocess.run([program, project, check], env={**os.environ, "KUBECONFIG": cloud.kubeconfig}, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and p.stdout == f"ok {check}\n", p.stdout + p.stderr
