"""What most tests with real Kubernetes begin with."""
import pytest

import kube


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory):
    """A folder with the programs, of a name that no other test file's processes have."""
    return kube.programs(tmp_path_factory.mktemp("programs"))
