"""A process that is started again when it dies."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from supervisor.machine.predecessor import AdoptedProcess
from supervisor.machine.reactor import Reactor
from supervisor.machine.service import Service
from tests.helpers.clock import FakeClock
from tests.helpers.processes import wait_for_exit

# Real processes, which end when they are killed; what passes between their starts is only the clock's time.
COMMAND = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
DELAYS = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


class Running:
    """A service whose process is killed at will."""

    def __init__(self, reactor: Reactor, clock: FakeClock) -> None:
        self.started = 0
        self.exits = 0
        self._reactor = reactor
        self._clock = clock
        self.service = Service("test", self._spawn, self._on_exit, reactor, clock)

    def die(self) -> None:
        """Kill the process and let the service see it."""
        assert self.service.pid is not None
        self.service.kill()
        self.see_end()

    def see_end(self) -> None:
        pid = self.service.pid
        assert pid is not None
        wait_for_exit(pid)
        self._reactor.wait(20)
        assert self.service.pid is None

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._reactor.wait(0)

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.started += 1
        return subprocess.Popen(COMMAND)

    def _on_exit(self) -> None:
        self.exits += 1


@pytest.fixture
def running(reactor: Reactor, clock: FakeClock) -> Iterator[Running]:
    running = Running(reactor, clock)
    with capture_logs():
        running.service.start()
        yield running
        if running.service.pid is not None:
            running.service.stop()
            running.die()


def test_service_that_lives_is_left_alone(running: Running) -> None:
    running.pass_time(3600)
    assert (running.started, running.exits) == (1, 0)
    assert running.service.pid is not None


def test_service_that_keeps_dying_is_started_again_later_and_later_up_to_a_limit(running: Running) -> None:
    for number, delay in enumerate(DELAYS, start=1):
        running.die()
        assert (running.started, running.exits) == (number, number)
        running.pass_time(delay - 0.001)
        assert running.service.pid is None
        running.pass_time(0.002)
        assert running.started == number + 1
        assert running.service.pid is not None


def test_service_that_has_proven_itself_is_started_again_at_once(running: Running) -> None:
    for _ in range(4):
        running.die()
        running.pass_time(10)
    running.pass_time(31)
    running.die()
    running.pass_time(DELAYS[0] + 0.001)
    assert running.service.pid is not None
    running.die()
    running.pass_time(DELAYS[0] + 0.001)
    assert running.service.pid is None


def test_service_that_was_told_to_stop_is_asked_and_not_started_again(running: Running) -> None:
    running.service.stop()
    running.see_end()
    running.pass_time(3600)
    assert (running.started, running.exits) == (1, 0)


def test_service_told_to_stop_between_two_starts_is_not_started_again(running: Running) -> None:
    running.die()
    running.service.stop()
    running.pass_time(3600)
    running.service.start()
    assert (running.started, running.service.pid) == (1, None)


def test_service_stop_and_kill_with_no_process_are_no_errors(running: Running) -> None:
    running.die()
    running.service.kill()
    running.service.stop()


def test_service_process_that_ignores_the_request_to_stop_can_be_killed(reactor: Reactor, clock: FakeClock) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    processes: list[subprocess.Popen[bytes]] = []

    def spawn() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        return process

    service = Service("test", spawn, lambda: pytest.fail("it was told to stop"), reactor, clock)
    service.start()
    service.stop()
    reactor.wait(0)
    assert service.pid is not None
    service.kill()
    reactor.wait(20)
    assert service.pid is None
    assert processes[0].returncode == -signal.SIGKILL


def test_service_whose_end_is_expected_is_started_again_at_once_and_without_a_word(
    reactor: Reactor, clock: FakeClock
) -> None:
    with capture_logs() as logs:
        running = Running(reactor, clock)
        running.service.start()
        running.service.expect_end()
        running.service.kill()
        first = running.service.pid
        assert first is not None
        wait_for_exit(first)
        reactor.wait(20)
        assert (running.started, running.exits) == (2, 1)
        assert running.service.pid not in (None, first)
        assert logs == []
        running.service.stop()
        running.see_end()


def test_service_adopted_process_that_is_no_child_of_ours_is_seen_to_end_and_replaced(
    reactor: Reactor, clock: FakeClock
) -> None:
    middle = subprocess.run(
        [sys.executable, "-c", f"import subprocess; print(subprocess.Popen({COMMAND!r}, stdout=-3).pid)"],
        stdout=subprocess.PIPE,
        check=True,
    )
    pid = int(middle.stdout)
    running = Running(reactor, clock)
    pidfd = os.pidfd_open(pid)
    running.service.adopt(AdoptedProcess(pid, os.dup(pidfd)), pidfd)
    with capture_logs() as logs:
        running.die()
        assert [(entry["event"], entry["exit_code"]) for entry in logs] == [("process died", None)]
        running.pass_time(1)
        assert (running.started, running.exits) == (1, 1)
        running.service.stop()
        running.see_end()
