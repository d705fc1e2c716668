"""A server process is started again when it dies, or when it could not be started."""

import errno
import subprocess
from collections.abc import Iterator

import pytest

from supervisor.machine.reactor import Reactor
from supervisor.machine.service import Service
from tests.helpers.clock import FakeClock

LIVES = ["sleep", "60"]
DIES = ["false"]


class World:
    """A service, the times at which it was started, and how each start goes: a command, or None for no start."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reactor = Reactor(self.clock)
        self.starts: list[float] = []
        self.plan: list[list[str] | None] = []
        self.exits = 0
        self.service = Service("it", self._spawn, self._on_exit, self.reactor, self.clock)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.starts.append(self.clock.monotonic())
        command = self.plan.pop(0)
        if command is None:
            raise OSError(errno.EAGAIN, "no room")
        return subprocess.Popen(command)

    def _on_exit(self) -> None:
        self.exits += 1

    def delays(self, plan: list[list[str] | None], lifetime: float = 0.0) -> list[float]:
        """Let the plan happen, and return the time from each end to the next start."""
        self.plan = list(plan)
        self.service.start()
        found = []
        for what in plan[:-1]:
            if what:
                self.clock.advance(lifetime)
                self.reactor.wait(20)  # for its end
            began = self.clock.monotonic()
            count = len(self.starts)
            while len(self.starts) == count:
                self.clock.advance(0.05)
                self.reactor.wait(0)
            found.append(round(self.clock.monotonic() - began, 2))
        return found


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.service.stop()
    while made.service.pid:
        made.reactor.wait(20)
    made.reactor.close()


LATER_AND_LATER = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.mark.parametrize("end", [None, DIES], ids=["not started", "died"])
def test_service_that_does_not_live_is_started_ever_later(world: World, end: list[str] | None) -> None:
    assert world.delays([end] * 10 + [LIVES]) == pytest.approx(LATER_AND_LATER, abs=0.06)
    assert world.service.pid
    assert world.exits == (10 if end else 0)


def test_service_that_has_lived_long_is_started_again_at_once(world: World) -> None:
    assert world.delays([DIES] * 4 + [LIVES], lifetime=31.0) == pytest.approx([0.05] * 4, abs=0.06)


def test_service_that_was_stopped_is_not_started_again(world: World) -> None:
    world.plan = [LIVES]
    world.service.start()
    world.service.stop()
    while world.service.pid:
        world.reactor.wait(20)
    world.clock.advance(3600)
    world.reactor.wait(0)
    world.service.start()
    assert len(world.starts) == 1
    assert world.exits == 0
