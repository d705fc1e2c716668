"""The byte that says "look at the database"."""

from contextlib import closing
from pathlib import Path

import pytest

from supervisor.machine.reactor import Reactor
from supervisor.nudge import Nudger, NudgeReceiver


class Receiver:
    """A receiver in a reactor that counts how often it was woken."""

    def __init__(self, folder: Path, reactor: Reactor) -> None:
        self.woken = 0
        self._reactor = reactor
        self._nudges = NudgeReceiver(folder)
        reactor.watch(self._nudges, self._on_nudge)

    def close(self) -> None:
        self._reactor.forget(self._nudges)
        self._nudges.close()

    def _on_nudge(self) -> None:
        self._nudges.drain()
        self.woken += 1


def test_nudge_wakes_who_waits_once_for_any_number(tmp_path: Path, reactor: Reactor) -> None:
    with closing(Receiver(tmp_path, reactor)) as receiver, closing(Nudger(tmp_path)) as nudger:
        reactor.wait(0)
        assert receiver.woken == 0
        for _ in range(3):
            nudger.nudge()
        reactor.wait(20)
        reactor.wait(0)
        assert receiver.woken == 1
        nudger.nudge()
        reactor.wait(20)
        assert receiver.woken == 2


def test_nudge_more_than_the_socket_holds_is_no_error_and_wakes(tmp_path: Path, reactor: Reactor) -> None:
    with closing(Receiver(tmp_path, reactor)) as receiver, closing(Nudger(tmp_path)) as nudger:
        for _ in range(10_000):
            nudger.nudge()
        reactor.wait(20)
        reactor.wait(0)
        assert receiver.woken == 1


def test_nudge_with_nobody_there_any_more_is_no_error_however_often(tmp_path: Path) -> None:
    receiver = NudgeReceiver(tmp_path)
    with closing(Nudger(tmp_path)) as nudger:
        receiver.close()
        for _ in range(3):
            nudger.nudge()


def test_receiver_takes_the_place_of_a_dead_ones_socket_and_removes_its_own(tmp_path: Path, reactor: Reactor) -> None:
    dead = NudgeReceiver(tmp_path)
    with closing(Receiver(tmp_path, reactor)) as receiver, closing(Nudger(tmp_path)) as nudger:
        nudger.nudge()
        reactor.wait(20)
        assert receiver.woken == 1
        (socket,) = tmp_path.iterdir()
        assert socket.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []
    dead.close()


@pytest.mark.parametrize("length", [10, 200])
def test_nudge_works_in_a_folder_with_a_path_of_any_length(tmp_path: Path, reactor: Reactor, length: int) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    with closing(Receiver(folder, reactor)) as receiver, closing(Nudger(folder)) as nudger:
        nudger.nudge()
        reactor.wait(20)
        assert receiver.woken == 1
