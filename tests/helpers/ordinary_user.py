"""A user who is not root, for a server that root's tests start: agents and server are then one user to the kernel."""

import functools
import os
import shlex
import subprocess
import sys
import sysconfig

import pytest

from tests.helpers.command import ROOT

# Nobody else is this one, so what the kernel counts by user it counts for these tests alone. Just below those whom a
# server that is root gives to its sandboxes.
UID = 1_879_099_999

_BECOME = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")

# Root's own interpreter may be in a folder that is private to root; the system's then has to do, with our packages.
_INTERPRETERS = (sys.executable, "/usr/bin/python3")
_PACKAGES = os.pathsep.join((str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))


@functools.cache
def wrapper() -> tuple[str, ...]:
    """Return what becomes the Python command that it is given as further arguments, as this user.

    Skips the test if there is no interpreter with which this user can run the server.
    """
    reasons = []
    for python in _INTERPRETERS:
        command = (*_BECOME, "env", f"PYTHONPATH={_PACKAGES}", "sh", "-c", f'exec {shlex.quote(python)} "$@"')
        tried = subprocess.run(
            [*command, python, "-P", "-c", "import api.app, supervisor.server"],
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode == 0:
            return command
        reasons.append(f"{python}: {(tried.stderr.splitlines() or ['no word'])[-1]}")
    pytest.skip(f"an ordinary user cannot run the server here: {'; '.join(reasons)}")
