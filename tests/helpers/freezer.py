"""Processes that SIGKILL does not end: in a frozen control group (version 1) they take no signal until it is thawed.

Source: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; tried with test_freezer_holds_what_is_killed.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.sandbox import cgroup
from tests.helpers.wait import wait_until


class Freezer:
    """One group, of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def freeze(self, pids: Iterable[int]) -> None:
        """Freeze processes."""
        for pid in pids:
            (self._folder / "cgroup.procs").write_text(str(pid))
        (self._folder / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (self._folder / "freezer.state").read_text() == "FROZEN\n")

    def thaw(self) -> None:
        """Let them go on."""
        (self._folder / "freezer.state").write_text("THAWED")


@contextmanager
def freezer() -> Iterator[Freezer]:
    """Make a freezer, and thaw it at the end whatever happens. Skips the test where there can be none."""
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    folder = Path(mounted.get("freezer", "/nowhere"), f"corral-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("cannot freeze processes here: needs root and the freezer of control groups, version 1")
    try:
        yield Freezer(folder)
    finally:
        (folder / "freezer.state").write_text("THAWED")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()
