"""Waiting for descriptors and deadlines."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.machine.reactor import READ, WRITE, Reactor, Timer
from tests.helpers.clock import FakeClock


class Pipe:
    """A pipe with one byte in it, or none."""

    def __init__(self, full: bool = True) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        if full:
            self.fill()

    def fill(self) -> None:
        os.write(self.writer, b"x")

    def fileno(self) -> int:
        return self.reader

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self.writer = -1


@pytest.fixture
def pipes() -> Iterator[Callable[..., Pipe]]:
    made: list[Pipe] = []

    def make(full: bool = True) -> Pipe:
        made.append(Pipe(full))
        return made[-1]

    yield make
    for pipe in made:
        pipe.close()


Make = Callable[..., Pipe]


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_watch_calls_for_each_wait_in_which_the_source_is_ready(reactor: Reactor, pipes: Make) -> None:
    calls: list[str] = []
    full, empty = pipes(), pipes(full=False)
    reactor.watch(full, lambda: calls.append("full"))
    reactor.watch(empty.reader, lambda: calls.append("empty"))
    reactor.wait()
    reactor.wait(0)
    assert calls == ["full"] * 2
    os.read(full.reader, 1)
    empty.fill()
    reactor.wait()
    assert calls == ["full"] * 2 + ["empty"]


def test_watch_calls_in_the_order_in_which_sources_became_ready(reactor: Reactor, pipes: Make) -> None:
    calls: list[int] = []
    sources = [pipes(full=False) for _ in range(5)]
    for number, source in enumerate(sources):
        reactor.watch(source, lambda number=number: calls.append(number))
    for number in (3, 0, 4):
        sources[number].fill()
    reactor.wait()
    assert calls == [3, 0, 4]


def test_watch_end_of_file_is_ready(reactor: Reactor, pipes: Make) -> None:
    calls: list[bytes] = []
    pipe = pipes(full=False)
    reactor.watch(pipe, lambda: calls.append(os.read(pipe.reader, 1)))
    os.close(pipe.writer)
    pipe.writer = -1
    reactor.wait()
    assert calls == [b""]


def test_watch_again_replaces_the_call_and_what_is_waited_for(reactor: Reactor, pipes: Make) -> None:
    calls: list[str] = []
    pipe = pipes(full=False)
    reactor.watch(pipe.writer, lambda: calls.append("first"), READ)
    reactor.wait(0)
    assert calls == []
    reactor.watch(pipe.writer, lambda: calls.append("second"), READ | WRITE)
    reactor.wait()
    reactor.watch(pipe.writer, lambda: calls.append("third"), READ | WRITE)
    reactor.wait()
    reactor.watch(pipe.writer, lambda: calls.append("fourth"), READ)
    reactor.wait(0)
    assert calls == ["second", "third"]


def test_forget_stops_the_calls_and_twice_is_no_error(reactor: Reactor, pipes: Make) -> None:
    pipe = pipes()
    reactor.watch(pipe, lambda: pytest.fail("it was forgotten"))
    reactor.forget(pipe)
    reactor.forget(pipe)
    reactor.wait(0)


def test_forget_within_a_round_by_another_source_is_heeded(reactor: Reactor, pipes: Make) -> None:
    calls: list[str] = []
    first, second = pipes(), pipes()
    reactor.watch(first, lambda: (calls.append("first"), reactor.forget(second)))
    reactor.watch(second, lambda: (calls.append("second"), reactor.forget(first)))
    reactor.wait()
    reactor.wait()
    assert len(set(calls)) == 1
    assert len(calls) == 2


def test_number_that_is_reused_within_a_round_does_not_get_the_other_sources_call(
    reactor: Reactor, pipes: Make
) -> None:
    calls: list[str] = []
    sources = [pipes(), pipes()]

    def replace(mine: int) -> None:
        calls.append(f"old {mine}")
        other = sources[1 - mine]
        number = other.reader
        reactor.forget(other)
        other.close()
        sources[1 - mine] = fresh = pipes(full=False)
        assert number in (fresh.reader, fresh.writer)
        os.dup2(fresh.reader, number)
        reactor.watch(number, lambda: calls.append("new"))

    for mine in (0, 1):
        reactor.watch(sources[mine], lambda mine=mine: replace(mine))
    reactor.wait()
    assert len(calls) == 1
    assert calls[0].startswith("old")


def test_exception_in_a_call_is_the_callers_and_the_others_come_up_again(reactor: Reactor, pipes: Make) -> None:
    calls: list[str] = []
    broken, sound = pipes(), pipes()

    def fail() -> None:
        raise RuntimeError("bug")

    reactor.watch(broken, fail)
    reactor.watch(sound, lambda: calls.append("sound"))
    with pytest.raises(RuntimeError):
        reactor.wait()
    reactor.forget(broken)
    reactor.wait()
    assert calls[-1:] == ["sound"]


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_deadline_is_called_once_when_its_time_has_come(reactor: Reactor, clock: FakeClock) -> None:
    calls: list[str] = []
    reactor.call_at(clock.monotonic() + 5, lambda: calls.append("due"))
    clock.advance(4.999)
    reactor.wait(0)
    assert calls == []
    clock.advance(0.001)
    reactor.wait()
    reactor.wait(0)
    assert calls == ["due"]


def test_deadline_that_is_canceled_is_not_called_and_cancel_is_never_an_error(
    reactor: Reactor, clock: FakeClock
) -> None:
    calls: list[str] = []
    timer = reactor.call_at(clock.monotonic(), lambda: calls.append("canceled"))
    other = reactor.call_at(clock.monotonic(), lambda: calls.append("due"))
    timer.cancel()
    timer.cancel()
    reactor.wait()
    other.cancel()
    assert calls == ["due"]


def test_deadline_canceled_by_one_due_at_the_same_time_is_not_called(reactor: Reactor, clock: FakeClock) -> None:
    calls: list[str] = []
    timers: list[Timer] = []
    reactor.call_at(clock.monotonic(), lambda: (calls.append("first"), timers[0].cancel()))
    timers.append(reactor.call_at(clock.monotonic(), lambda: calls.append("second")))
    reactor.wait()
    reactor.wait(0)
    assert calls == ["first"]


def test_deadlines_of_one_time_are_called_in_the_order_in_which_they_were_set(
    reactor: Reactor, clock: FakeClock
) -> None:
    calls: list[int] = []
    for number in range(10):
        reactor.call_at(clock.monotonic() + 1, lambda number=number: calls.append(number))
    clock.advance(1)
    reactor.wait()
    assert calls == list(range(10))


def test_deadline_canceled_by_a_source_of_the_same_round_is_not_called(
    reactor: Reactor, clock: FakeClock, pipes: Make
) -> None:
    timer = reactor.call_at(clock.monotonic(), lambda: pytest.fail("the end came first"))
    reactor.watch(pipes(), timer.cancel)
    reactor.wait()


def test_deadline_in_the_past_is_called_with_the_next_wait_which_waits_for_nothing(
    reactor: Reactor, clock: FakeClock
) -> None:
    calls: list[str] = []
    reactor.call_at(clock.monotonic() - 100, lambda: calls.append("due"))
    reactor.wait(600)
    assert calls == ["due"]


@given(
    orders=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=600),
    steps=st.lists(st.integers(0, 5), max_size=8),
)
def test_deadlines_any_of_them_are_called_in_order_of_time_and_none_that_was_canceled(
    orders: list[tuple[int, bool]], steps: list[int]
) -> None:
    clock = FakeClock()
    start = clock.monotonic()
    called: list[tuple[int, int]] = []
    with closing(Reactor(clock)) as reactor:
        for number, (due, canceled) in enumerate(orders):
            timer = reactor.call_at(start + due, lambda due=due, number=number: called.append((due, number)))
            if canceled:
                timer.cancel()
        elapsed = 0
        for step in [0, *steps]:
            clock.advance(step)
            elapsed += step
            reactor.wait(0)
    expected = [(due, number) for number, (due, canceled) in enumerate(orders) if not canceled and due <= elapsed]
    assert called == sorted(expected)


def test_deadlines_many_of_which_most_are_canceled_are_all_kept_in_order(reactor: Reactor, clock: FakeClock) -> None:
    called: list[int] = []
    for due in reversed(range(2000)):
        timer = reactor.call_at(clock.monotonic() + due, lambda due=due: called.append(due))
        if due % 10:
            timer.cancel()
    clock.advance(2000)
    reactor.wait(0)
    assert called == list(range(0, 2000, 10))


def test_wait_takes_no_longer_than_asked(reactor: Reactor, clock: FakeClock, pipes: Make) -> None:
    reactor.call_at(clock.monotonic() + 3600, lambda: pytest.fail("too early"))
    reactor.watch(pipes(full=False), lambda: pytest.fail("nothing is there"))
    reactor.wait(0.01)
