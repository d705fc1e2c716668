"""Servers that can have no control groups: as root where none are mounted, and as an ordinary user."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import ordinary_user
from tests.helpers.server import AGENTS, RunningServer

WHO = ("root", "ordinary user")

_HIDDEN_GROUPS = ("unshare", "--mount", "sh", "-c", 'umount -R /sys/fs/cgroup && exec "$0" "$@"')


@contextmanager
def server(who: str) -> Iterator[RunningServer]:
    """Run a server as one of WHO, with the agents of the tests; skip the test where that is not possible."""
    wrapper = _wrapper(who)
    # Not below pytest's folder, which only its own user may enter.
    folder = Path(tempfile.mkdtemp(prefix="corral-test-", dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        (folder / "data").mkdir()
        shutil.copytree(AGENTS, folder / "agents")
        if who == "ordinary user":
            os.chown(folder / "data", ordinary_user.UID, ordinary_user.UID)
        with RunningServer(folder / "data", wrapper=wrapper, agents=folder / "agents") as running:
            assert "cgroup" in running.run("ok")["isolation"]["missing"]
            yield running
    finally:
        shutil.rmtree(folder)


def _wrapper(who: str) -> tuple[str, ...]:
    """Return a command that becomes the one that it is given as further arguments, a Python, as somebody."""
    if os.geteuid() == 0:
        if who == "root" and _works((*_HIDDEN_GROUPS, "true")):
            return _HIDDEN_GROUPS
        if who == "ordinary user":
            return ordinary_user.wrapper()
    pytest.skip("only root can make such surroundings")


def _works(command: tuple[str, ...]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
