"""When canaries are sent while a server runs, and how what they find is told; with a clock that is moved by hand."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.isolation import Bulletin, Canary
from supervisor.isolation_watch import IsolationWatch
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock

ALIVE = Canary(("seccomp",))
DEAD = Canary(error="cannot make namespaces")


class Setup:
    """A watch whose canaries land when the test says so."""

    def __init__(self, bulletin: Bulletin, reactor: Reactor, clock: FakeClock) -> None:
        self.bulletin = bulletin
        self._reactor = reactor
        self._clock = clock
        self._landings: list[Callable[[Canary], None]] = []
        self.watch = IsolationWatch(self._landings.append, bulletin.publish, reactor, clock)

    def after(self, seconds: float) -> int:
        """Let time pass; return how many canaries are in the air then."""
        self._clock.advance(seconds)
        self._reactor.wait(0)
        return len(self._landings)

    def land(self, canary: Canary) -> None:
        (landed,) = self._landings
        self._landings.clear()
        with capture_logs():
            landed(canary)


@pytest.fixture
def bulletin(tmp_path: Path) -> Bulletin:
    return Bulletin(tmp_path / "isolation.json")


@pytest.fixture
def setup(bulletin: Bulletin, reactor: Reactor, clock: FakeClock) -> Setup:
    return Setup(bulletin, reactor, clock)


def test_sound_machine_is_published_and_left_alone(setup: Setup) -> None:
    setup.watch.start(ALIVE)
    assert setup.bulletin.canary() == ALIVE
    assert setup.after(1e6) == 0


def test_doubt_sends_one_canary_that_publishes_what_it_finds(setup: Setup) -> None:
    setup.watch.start(ALIVE)
    setup.after(60)
    for _ in range(3):
        setup.watch.doubt()
    assert setup.after(0) == 1
    assert setup.bulletin.canary() == ALIVE
    setup.land(DEAD)
    assert setup.bulletin.canary() == DEAD


def test_doubt_about_a_sound_machine_is_looked_into_at_most_every_ten_seconds(setup: Setup) -> None:
    setup.watch.start(ALIVE)
    setup.after(10)
    setup.watch.doubt()
    assert setup.after(0) == 1
    setup.watch.doubt()  # by a run that may have failed after the canary had left
    setup.land(ALIVE)
    assert setup.after(9.9) == 0
    assert setup.after(0.1) == 1
    setup.land(ALIVE)
    assert setup.after(1e6) == 0


def test_lost_sandboxes_are_tried_ever_more_seldom_until_they_are_back(setup: Setup) -> None:
    setup.watch.start(DEAD)
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert setup.after(pause - 0.01) == 0
        assert setup.after(0.01) == 1
        setup.land(DEAD)
    assert setup.after(60) == 1
    setup.land(ALIVE)
    assert setup.bulletin.canary() == ALIVE
    assert setup.after(1e6) == 0


def test_what_could_not_be_published_is_found_out_and_published_again(
    setup: Setup, tmp_path: Path, bulletin: Bulletin
) -> None:
    setup.watch.start(ALIVE)
    setup.watch.doubt()
    in_the_way = tmp_path / "isolation.new"
    in_the_way.mkdir()
    setup.after(10)
    setup.land(DEAD)
    assert bulletin.canary() == ALIVE
    in_the_way.rmdir()
    assert setup.after(1) == 1
    setup.land(DEAD)
    assert bulletin.canary() == DEAD


def test_stopped_watch_sends_nothing(setup: Setup) -> None:
    setup.watch.start(DEAD)
    setup.watch.stop()
    setup.watch.doubt()
    assert setup.after(1e6) == 0


def test_bulletin_other_readers_find_each_new_state(bulletin: Bulletin, tmp_path: Path) -> None:
    reader = Bulletin(tmp_path / "isolation.json")
    for state in (ALIVE, DEAD, Canary(("seccomp", "cgroup"), None, ("max_user_namespaces",)), ALIVE):
        bulletin.publish(state)
        assert reader.canary() == state
        assert reader.canary() == state
    assert os.listdir(tmp_path) == ["isolation.json"]


@pytest.mark.parametrize("text", [None, "", "{", "{}", '{"layers": 1}', "[]"])
def test_bulletin_that_cannot_be_read_means_no_sandboxes(bulletin: Bulletin, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "isolation.json").write_text(text)
    found = bulletin.canary()
    assert not found.healthy
    assert (found.error or "").startswith("cannot read isolation.json")
