"""Servers that can have no control groups: as root where none are mounted, and as an ordinary user."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.command import ROOT
from tests.helpers.server import AGENTS, RunningServer

WHO = ("root", "ordinary user")

_HIDDEN_GROUPS = ("unshare", "--mount", "sh", "-c", 'umount -R /sys/fs/cgroup && exec "$0" "$@"')

_NOBODY = 65534
_BECOME_NOBODY = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
_SAME_PACKAGES = f"PYTHONPATH={ROOT}:{sysconfig.get_path('purelib')}"

# Ours may be where only its owner can look, as in a home folder.
_INTERPRETERS = (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")
_CAN_START_ITSELF = "import subprocess, sys, pydantic; subprocess.run([sys.executable, '-I', '-c', ''], check=True)"


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
            os.chown(folder / "data", _NOBODY, _NOBODY)
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
        for interpreter in _INTERPRETERS:
            become = (*_BECOME_NOBODY, "env", _SAME_PACKAGES)
            if who == "ordinary user" and _works((*become, interpreter, "-c", _CAN_START_ITSELF)):
                return (*become, "sh", "-c", f'exec {interpreter} "$@"')
    pytest.skip("only root can make such surroundings")


def _works(command: tuple[str, ...]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
