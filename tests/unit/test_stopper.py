"""The stop ladder, with a clock that is moved by hand."""

import signal
import subprocess
from itertools import pairwise

import pytest

from supervisor.machine.process_tree import ProcessTree
from supervisor.machine.reactor import Reactor
from supervisor.machine.stopper import Stopper
from tests.helpers.clock import FakeClock
from tests.helpers.forked_tree import ForkedTree
from tests.helpers.named_pipes import Lifeline

GRACE_SECONDS = 5.0


class Ladder:
    """A stopper and the time it lives in."""

    def __init__(self, tree: ProcessTree, reactor: Reactor, clock: FakeClock) -> None:
        self._reactor = reactor
        self._clock = clock
        self.stuck_after_ms: list[int] = []
        began = clock.monotonic()
        self.stopper = Stopper(
            tree, reactor, clock, lambda: self.stuck_after_ms.append(round((clock.monotonic() - began) * 1000))
        )

    def after(self, seconds: float) -> None:
        """Let time pass and whatever is due happen."""
        self._clock.advance(seconds)
        self._reactor.wait(0)

    def after_each_millisecond(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            self.after(0.001)


def test_terminate_deaf_tree_lives_for_the_grace_period_and_no_longer(
    lifeline: Lifeline, reactor: Reactor, clock: FakeClock
) -> None:
    with ForkedTree("daemon", lifeline, 2) as root:
        ladder = Ladder(ProcessTree(root.pid), reactor, clock)
        ladder.stopper.terminate(GRACE_SECONDS)
        ladder.after(GRACE_SECONDS - 0.001)
        assert root.lives()
        ladder.after(0.001)
        assert root.wait() == 0
        assert lifeline.ended()
        ladder.stopper.end()
        kill = ladder.stopper.certificate()
        assert (kill.method, kill.signaled, kill.killed, kill.survivors) == ("kill", 2, 2, 0)
        assert kill.duration_ms == GRACE_SECONDS * 1000
        assert kill.verified_empty_at == clock.now()


def test_terminate_obedient_tree_ends_before_any_time_has_passed(
    lifeline: Lifeline, reactor: Reactor, clock: FakeClock
) -> None:
    with ForkedTree("obedient", lifeline, 2) as root:
        ladder = Ladder(ProcessTree(root.pid), reactor, clock)
        ladder.stopper.terminate(GRACE_SECONDS)
        assert root.wait() == 0
        kill = ladder.stopper.certificate()
        assert (kill.method, kill.signaled, kill.killed, kill.duration_ms) == ("terminate", 2, 0, 0)


def test_kill_at_once_asks_nobody(lifeline: Lifeline, reactor: Reactor, clock: FakeClock) -> None:
    with ForkedTree("obedient", lifeline, 2) as root:
        ladder = Ladder(ProcessTree(root.pid), reactor, clock)
        ladder.stopper.kill()
        assert root.wait() == 0
        kill = ladder.stopper.certificate()
        assert (kill.method, kill.signaled, kill.killed) == ("kill", 0, 2)


class ScriptedTree(ProcessTree):
    """As many processes as are said to be there, whatever is done to them."""

    def __init__(self, clock: FakeClock, found: int) -> None:
        self.killed = set()
        self._clock = clock
        self._found = found
        self._began = clock.monotonic()
        self.killed_after_ms: list[int] = []
        self.root_killed_after_ms: list[int] = []

    def terminate(self) -> int:
        return self._found

    def kill(self) -> int:
        self.killed_after_ms.append(self._now())
        return self._found

    def kill_root(self) -> None:
        self.root_killed_after_ms.append(self._now())

    def pauses_ms(self) -> list[int]:
        """Return the times from each round to the next."""
        return [later - earlier for earlier, later in pairwise(self.killed_after_ms)]

    def _now(self) -> int:
        return round((self._clock.monotonic() - self._began) * 1000)


def test_kill_those_found_are_tried_ever_more_seldom(reactor: Reactor, clock: FakeClock) -> None:
    tree = ScriptedTree(clock, found=3)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.kill()
    ladder.after_each_millisecond(1000)
    assert tree.pauses_ms() == pytest.approx([5, 10, 20, 40, 80, 160, 250, 250], abs=1)
    assert not tree.root_killed_after_ms


@pytest.mark.parametrize("found", [0, 3])
def test_kill_what_outlives_it_is_told_once_after_ten_seconds_and_tried_on(
    reactor: Reactor, clock: FakeClock, found: int
) -> None:
    tree = ScriptedTree(clock, found)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.kill()
    ladder.after_each_millisecond(9_990)
    assert not ladder.stuck_after_ms
    ladder.after_each_millisecond(300)
    (told,) = ladder.stuck_after_ms
    assert 10_000 <= told < 10_260
    tree.killed_after_ms.clear()
    ladder.after_each_millisecond(20_000)
    assert len(ladder.stuck_after_ms) == 1
    assert tree.pauses_ms() == pytest.approx([5000] * 3, abs=1)


def test_kill_nobody_found_is_tried_often_and_in_the_end_on_the_root(reactor: Reactor, clock: FakeClock) -> None:
    tree = ScriptedTree(clock, found=0)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.kill()
    ladder.after_each_millisecond(4990)
    assert len(tree.killed_after_ms) > 800
    assert max(tree.pauses_ms()) <= 6
    assert not tree.root_killed_after_ms
    ladder.after_each_millisecond(20)
    assert tree.root_killed_after_ms


def test_kill_of_the_root_alone_is_recorded_as_one(reactor: Reactor, clock: FakeClock) -> None:
    with subprocess.Popen(["sleep", "60"]) as root:
        ladder = Ladder(ProcessTree(root.pid), reactor, clock)
        ladder.stopper.kill()
        ladder.after_each_millisecond(5010)
        assert root.wait() == -signal.SIGKILL
        ladder.stopper.end()
        kill = ladder.stopper.certificate()
        assert (kill.method, kill.signaled, kill.killed, kill.survivors) == ("kill", 0, 0, 0)


def test_hurry_cuts_the_grace_period_short(reactor: Reactor, clock: FakeClock) -> None:
    tree = ScriptedTree(clock, found=1)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.terminate(60)
    ladder.after(1)
    ladder.stopper.hurry(2)
    ladder.after(1.999)
    assert not tree.killed_after_ms
    ladder.after(0.001)
    assert tree.killed_after_ms == [3000]


def test_hurry_never_prolongs_the_grace_period(reactor: Reactor, clock: FakeClock) -> None:
    tree = ScriptedTree(clock, found=1)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.terminate(2)
    ladder.stopper.hurry(60)
    ladder.after(2)
    assert tree.killed_after_ms == [2000]


def test_hurry_after_the_first_kill_changes_nothing(reactor: Reactor, clock: FakeClock) -> None:
    tree = ScriptedTree(clock, found=1)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.terminate(0)
    ladder.after(0)
    ladder.stopper.hurry(0)
    ladder.after(0)
    assert tree.killed_after_ms == [0]


@pytest.mark.parametrize("seconds", [0.5, GRACE_SECONDS])
def test_end_no_signal_follows(reactor: Reactor, clock: FakeClock, seconds: float) -> None:
    tree = ScriptedTree(clock, found=1)
    ladder = Ladder(tree, reactor, clock)
    ladder.stopper.terminate(GRACE_SECONDS)
    ladder.after(seconds)
    before = list(tree.killed_after_ms)
    ladder.stopper.end()
    ladder.after(60)
    assert tree.killed_after_ms == before
