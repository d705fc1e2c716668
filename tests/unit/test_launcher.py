"""Starting the launcher."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runner import protocol, workdir
from supervisor.machine.launcher import Launcher
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock
from tests.helpers.processes import lives, wait_for_exit
from tests.helpers.wait import wait_until


def test_launcher_told_a_relative_folder_clears_that_one_of_what_a_crash_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reactor: Reactor, clock: FakeClock
) -> None:
    monkeypatch.chdir(tmp_path)
    data = Path(f"data of {tmp_path.name}")  # there is none of this name in the launcher's own working directory
    leftover = Path(workdir.new_path(str(tmp_path / data / "work")))
    (leftover / "folder").mkdir(parents=True)
    launcher = Launcher(data, 0.0, print, print, reactor, clock)
    with capture_logs():
        launcher.start()
        pid = launcher.service.pid
        assert pid is not None
        wait_until(lambda: not leftover.exists())
        launcher.stop()
        wait_for_exit(pid)
        reactor.wait(0)
    launcher.close()
    assert launcher.service.pid is None


def test_launcher_of_another_protocol_ends_and_another_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reactor: Reactor, clock: FakeClock
) -> None:
    first = Launcher(tmp_path, 600.0, print, print, reactor, clock)
    first.start()
    pid = first.service.pid
    assert pid is not None
    second = Launcher(tmp_path, 600.0, print, print, reactor, clock)
    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(protocol, "PROTOCOL", protocol.PROTOCOL + 1)
            wait_until(lambda: second.take_over() or logs)  # before that it did not listen
        assert not lives(pid)
        assert not second.connected
        assert [entry["event"] for entry in logs] == ["launcher not taken over: its runs are lost"]
        first.service.retire()
        reactor.wait(20)
        second.start()
        new = second.service.pid
        assert new not in (None, pid)
        second.stop()
        wait_for_exit(new or 0)
        reactor.wait(20)
    first.close()
    second.close()


def test_launcher_that_is_taken_over_by_another_one_leaves_the_first(
    tmp_path: Path, reactor: Reactor, clock: FakeClock
) -> None:
    first, second = (Launcher(tmp_path, 600.0, print, print, reactor, clock) for _ in range(2))
    first.start()
    wait_until(lambda: second.take_over() or second.connected)  # before that it did not listen
    assert (second.name, second.is_outdated, second.foreign_name) == (first.name, False, first.name)
    wait_until(lambda: reactor.wait(0) or not first.connected)
    pid = second.service.pid
    assert pid == first.service.pid
    first.service.retire()
    second.stop()
    wait_for_exit(pid or 0)
    while first.service.pid or second.service.pid:
        reactor.wait(20)
    first.close()
    second.close()
