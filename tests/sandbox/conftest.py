"""What the tests of sandboxes need."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import siege
from tests.helpers.server import RunningServer


@pytest.fixture(scope="session")
def host_folder() -> Iterator[Path]:
    """A folder of the host that no sandbox has a place of its own for, as it has for /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="corral-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory, host_folder: Path) -> Iterator[RunningServer]:
    """A server whose agents the tests write; it lets one be trusted, and all see what is in one folder of the host."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "agents").mkdir()
    (host_folder / "allowed").mkdir()
    settings = {"trusted_agents": ["friend"], "read_only_paths": [str(host_folder / "allowed")]}
    with RunningServer(folder / "data", "--max-running", "8", agents=folder / "agents", **settings) as running:
        running.http.get("/admin/health")  # its connection stays open, and is nothing that a test leaves
        yield running


@pytest.fixture(scope="session", params=siege.USERS)
def besieged(request: pytest.FixtureRequest, host_folder: Path) -> Iterator[RunningServer]:
    """A server whose agents attack it, run by different users; for all tests that do not harm it."""
    with siege.besieged(host_folder / request.param.replace(" ", "-"), request.param) as running:
        yield running
    assert not running.errors(), "the server complained"
