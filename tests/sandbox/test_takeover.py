"""Sandboxed runs that are taken over: at tier strict, and where the server is an ordinary user."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import halves, ordinary_user, siege
from tests.helpers.halves import Half
from tests.helpers.processes import lives
from tests.helpers.server import RunningServer

LACKS = ["strict.cgroup_v2", "strict.landlock", "strict.own_uid"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can get to."""
    made = Path(tempfile.mkdtemp(prefix="corral-test-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("user", siege.USERS)
def test_sandboxed_and_strict_runs_are_taken_over(folder: Path, user: str) -> None:
    halves.write_all(folder / "agents", strict=halves.STRICT)
    (folder / "data").mkdir()
    wrapper = ordinary_user.wrapper() if user == siege.AS_ORDINARY_USER else ()
    if wrapper:
        for path in (folder / "data", *(folder / "agents").rglob("*")):
            os.chown(path, ordinary_user.UID, ordinary_user.UID)

    def serve() -> RunningServer:
        return RunningServer(folder / "data", agents=folder / "agents", wrapper=wrapper, allow_degraded=LACKS)

    first = serve()
    runs = [Half(first, kind) for kind in ("sandboxed", "strict")]
    first.kill()
    try:
        with serve() as second:
            for half in runs:
                assert all(map(lives, half.pids))
                half.go_on()
                half.check_end(second)
                assert "pid_namespace" in second.get(half.execution_id)["isolation"]["effective"]
            assert '"level": "error"' not in second.errors()
    finally:
        first.stop()
