"""Looking at the memory of real process trees, with a clock that is moved by hand."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from supervisor.machine import memory_watch, proc
from supervisor.machine.memory_watch import MemoryWatch
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock
from tests.helpers.processes import descendants

MEGABYTE = 1 << 20
PAUSE, SHORT_PAUSE = 0.05, 0.02


@contextmanager
def tree(*sizes: int, shared: int = 0) -> Iterator[int]:
    """Yield the pid of a process with a child for each size, which has written so many bytes, and shares some more."""
    ready, tell = os.pipe()
    root = os.fork()
    if root == 0:
        try:
            held = b"x" * shared
            for size in sizes:
                if os.fork() == 0:
                    mine = b"x" * size
                    os.write(tell, b"r")
                    signal.pause()
                    del held, mine
            signal.pause()
        finally:
            os._exit(0)
    try:
        for _ in sizes:
            os.read(ready, 1)
        yield root
    finally:
        os.close(ready)
        os.close(tell)
        for pid in (*descendants(root), root):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(root, 0)


class Watched:
    """A watch, the time it lives in, and what it has told."""

    def __init__(self, reactor: Reactor, clock: FakeClock) -> None:
        self._reactor = reactor
        self._clock = clock
        self.watch = MemoryWatch(reactor, clock)
        self.over: dict[str, int] = {}

    def begin(self, key: str, root: int, limit: int) -> None:
        self.watch.begin(key, root, limit, lambda used: self.over.update({key: used}))

    def after(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._reactor.wait(0)

    @property
    def idle(self) -> bool:
        """Whether nothing is due, ever."""
        return self._reactor._patience(None) is None


@pytest.fixture
def watched(reactor: Reactor, clock: FakeClock) -> Watched:
    return Watched(reactor, clock)


def test_tree_over_its_limit_is_told_with_what_it_uses_and_is_looked_at_no_more(watched: Watched) -> None:
    with tree(30 * MEGABYTE, 30 * MEGABYTE) as root:
        watched.begin("a", root, 50 * MEGABYTE)
        watched.after(PAUSE - 0.001)
        assert not watched.over
        watched.after(0.001)
        assert 60 * MEGABYTE < watched.over["a"] < 160 * MEGABYTE
        assert watched.idle


def test_memory_that_forks_share_counts_once(watched: Watched) -> None:
    with tree(*[0] * 6, shared=30 * MEGABYTE) as root:
        resident = sum(map(proc.resident_bytes, proc.below(root)))
        assert resident > 180 * MEGABYTE
        watched.begin("a", root, 150 * MEGABYTE)
        for _ in range(3):
            watched.after(PAUSE)
        assert not watched.over
        watched.watch.end("a")


def test_trees_are_looked_at_each_by_itself(watched: Watched) -> None:
    with tree(30 * MEGABYTE) as small, tree(30 * MEGABYTE, 30 * MEGABYTE) as large:
        watched.begin("small", small, 150 * MEGABYTE)
        watched.begin("large", large, 50 * MEGABYTE)
        watched.after(PAUSE)
        assert list(watched.over) == ["large"]
        watched.watch.end("small")


def test_nothing_is_due_when_there_is_nothing_to_look_at(watched: Watched) -> None:
    assert watched.idle
    with tree(0) as root:
        watched.begin("a", root, 1 << 40)
        watched.after(PAUSE)
        assert not watched.idle
        watched.watch.end("a")
        watched.after(PAUSE)
        assert watched.idle
        watched.begin("a", root, 1)
        watched.after(PAUSE)
        assert watched.over


@pytest.mark.parametrize(("limit", "pause"), [(1 << 40, PAUSE), (50 * MEGABYTE, SHORT_PAUSE)])
def test_tree_near_its_limit_is_looked_at_more_often(
    watched: Watched, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, limit: int, pause: float
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(memory_watch.proc, "below", lambda root: looks.append(clock.monotonic()) or [root])
    with tree(0, shared=20 * MEGABYTE) as root:
        wanted = limit if limit == 1 << 40 else 2 * proc.resident_bytes(root) - MEGABYTE
        watched.begin("a", root, wanted)
        for _ in range(200):
            watched.after(0.001)
        watched.watch.end("a")
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    # Time is moved on in milliseconds.
    assert pauses == pytest.approx([pause] * len(pauses), abs=0.0011)
    assert len(pauses) >= 2


def test_tree_that_has_ended_uses_nothing(watched: Watched) -> None:
    with tree(0) as root:
        pass
    assert proc.below(root) == []
    assert (proc.resident_bytes(root), proc.proportional_bytes(root), proc.cpu_seconds_below(root)) == (0, 0, 0)
    watched.begin("a", root, 1)
    watched.after(PAUSE)
    assert not watched.over
    watched.watch.end("a")


FINDERS = [proc._by_children_files, proc._by_all_of_proc]


@pytest.mark.parametrize("find", FINDERS)
def test_processes_below_are_found_however_they_are_started(find: Callable[[int], list[int]]) -> None:
    if find is proc._by_children_files and not proc._HAS_CHILDREN_FILES:
        pytest.skip("this kernel has no files of children")
    with tree(0, 0, 0) as root:
        assert sorted(find(root)) == sorted(descendants(root))
        assert len(find(root)) == 3
        assert set(find(root)) < set(find(os.getpid()))
