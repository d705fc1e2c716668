"""Starting the launcher."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runner import workdir
from supervisor.machine.launcher import Launcher
from supervisor.machine.lock import FileLock
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock
from tests.helpers.processes import wait_for_exit
from tests.helpers.wait import wait_until


def test_launcher_told_a_relative_folder_clears_that_one_of_what_a_crash_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reactor: Reactor, clock: FakeClock
) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path(f"data of {tmp_path.name}")  # there is none of this name in the launcher's own working directory
    leftover = Path(workdir.new_path(str(tmp_path / data / "work")))
    (leftover / "folder").mkdir(parents=True)
    lock = FileLock(tmp_path / "lock")
    launcher = Launcher(data, lock.fileno(), print, print, reactor, clock)
    with capture_logs():
        launcher.start()
        pid = launcher.service.pid
        assert pid is not None
        wait_until(lambda: not leftover.exists())
        launcher.stop()
        wait_for_exit(pid)
        reactor.wait(0)
    launcher.close()
    lock.close()
    assert launcher.service.pid is None
