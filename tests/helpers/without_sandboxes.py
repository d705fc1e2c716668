"""A world in which no sandbox can be made: a user namespace that allows no further one."""

import subprocess

import pytest

# Becomes the command that it is given as further arguments.
WRAPPER = ("unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" "$@"')


def require() -> None:
    """Skip the test where not even that world can be made."""
    if subprocess.run([*WRAPPER, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("cannot make user namespaces with unshare here")
