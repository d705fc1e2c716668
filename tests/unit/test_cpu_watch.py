"""When the CPU time of a tree is looked at, with a clock that is moved by hand, and what it is, with a real tree."""

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.machine import cpu_watch, proc
from supervisor.machine.cpu_watch import CpuWatch, parse_counter
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock
from tests.helpers.named_pipes import Lifeline
from tests.helpers.wait import wait_until

LIMIT = 100.0
FLOOR = 0.05


class Counter:
    """A control group's counter, and a watch of it."""

    def __init__(self, path: Path, reactor: Reactor, clock: FakeClock) -> None:
        self._path = path
        self._reactor = reactor
        self._clock = clock
        self.over: list[float] = []
        self.used(0)
        self.watch = CpuWatch(os.getpid(), str(path), LIMIT, self.over.append, reactor, clock)

    def used(self, seconds: float) -> None:
        self._path.write_text(f"usage_usec {round(seconds * 1e6)}\nuser_usec 0\n")

    def after(self, seconds: float) -> None:
        """Let time pass and whatever is due happen."""
        self._clock.advance(seconds)
        self._reactor.wait(0)


@pytest.fixture
def counter(tmp_path: Path, reactor: Reactor, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Counter:
    monkeypatch.setattr(cpu_watch, "_CORES", 4)
    return Counter(tmp_path / "cpu.stat", reactor, clock)


def test_next_look_is_when_all_cores_together_can_have_reached_the_limit(counter: Counter) -> None:
    counter.used(LIMIT + 1)
    counter.after(LIMIT / 4 - 0.001)
    assert not counter.over
    counter.after(0.001)
    assert counter.over == [LIMIT + 1]


def test_run_that_is_taken_over_is_not_given_again_what_it_has_used(
    tmp_path: Path, reactor: Reactor, clock: FakeClock
) -> None:
    (tmp_path / "cpu.stat").write_text(f"usage_usec {round((LIMIT + 70) * 1e6)}\n")
    over: list[float] = []
    CpuWatch(os.getpid(), str(tmp_path / "cpu.stat"), LIMIT, over.append, reactor, clock, before_seconds=60.0)
    clock.advance(LIMIT)
    reactor.wait(0)
    assert over == [LIMIT + 10]


def test_run_that_uses_little_is_looked_at_seldom_and_one_near_its_limit_often(counter: Counter) -> None:
    counter.used(20)
    counter.after(25)
    counter.used(LIMIT)
    counter.after(19.999)
    assert not counter.over
    counter.used(LIMIT - 0.001)
    counter.after(0.001)
    counter.used(LIMIT)
    counter.after(FLOOR - 0.001)
    assert not counter.over
    counter.after(0.001)
    assert counter.over == [LIMIT]


def test_over_the_limit_is_told_once(counter: Counter) -> None:
    counter.used(LIMIT)
    for _ in range(3):
        counter.after(LIMIT)
    assert len(counter.over) == 1


def test_ended_watch_tells_nothing(counter: Counter) -> None:
    counter.used(LIMIT)
    counter.watch.end()
    counter.after(LIMIT)
    assert not counter.over


def test_counter_that_is_gone_tells_nothing(counter: Counter) -> None:
    counter._path.unlink()
    counter.after(LIMIT)
    assert not counter.over


@pytest.mark.parametrize(("line", "seconds"), [("usage_usec 2500000\n", 2.5), ("2500000000\n", 2.5), ("0\n", 0.0)])
def test_counter_of_either_version_is_told_in_seconds(line: str, seconds: float) -> None:
    assert parse_counter(line) == seconds


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def spin(seconds: float) -> None:
    while os.times().user + os.times().system < seconds:
        pass


def test_time_of_a_tree_is_that_of_the_living_and_of_those_waited_for() -> None:
    before = proc.cpu_seconds_below(os.getpid())
    reaped = in_child(lambda: os.waitpid(in_child(lambda: spin(0.2)), 0))
    os.waitpid(reaped, 0)
    assert 0.15 <= proc.cpu_seconds_below(os.getpid()) - before < 0.5
    reader, writer = os.pipe()
    living = in_child(lambda: (spin(0.2), os.close(reader), os.write(writer, b"x"), os.read(reader, 1)))
    os.read(reader, 1)
    try:
        wait_until(lambda: 0.35 <= proc.cpu_seconds_below(os.getpid()) - before < 0.9)
    finally:
        for descriptor in (reader, writer):
            os.close(descriptor)
        os.waitpid(living, 0)


def test_without_a_counter_what_the_root_did_before_does_not_count(reactor: Reactor, clock: FakeClock) -> None:
    done, go_on = os.pipe(), os.pipe()

    def work() -> None:
        for _ in range(2):
            os.waitpid(in_child(lambda: spin(0.2)), 0)
            os.write(done[1], b"x")
            os.read(go_on[0], 1)

    root = in_child(work)
    try:
        os.read(done[0], 1)
        over: list[float] = []
        watch = CpuWatch(root, None, 0.15, over.append, reactor, clock)
        clock.advance(1)
        reactor.wait(0)
        assert not over
        os.write(go_on[1], b"x")
        os.read(done[0], 1)
        clock.advance(1)
        reactor.wait(0)
        assert len(over) == 1
        assert 0.15 <= over[0] < 0.6
        watch.end()
    finally:
        os.kill(root, signal.SIGKILL)
        os.waitpid(root, 0)
        for descriptor in (*done, *go_on):
            os.close(descriptor)


def test_time_of_a_process_with_a_misleading_name_is_told_all_the_same(lifeline: Lifeline) -> None:
    set_name = 15  # PR_SET_NAME, prctl(2)
    before = proc.cpu_seconds_below(os.getpid())

    def work() -> None:
        ctypes.CDLL(None).prctl(set_name, b"\xff) S 1 (9\n", 0, 0, 0)
        spin(0.2)
        Path(lifeline.path).write_text("here\n")
        signal.pause()

    pid = in_child(work)
    lifeline.wait_for("here")
    assert 0.15 <= proc.cpu_seconds_below(os.getpid()) - before < 0.6
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
