"""Waiting: for descriptors to become readable and for deadlines to pass; one thread, no polling."""

import heapq
import itertools
import select
from collections.abc import Callable
from typing import Protocol

from supervisor.clock import Clock

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

# Number of waiting deadlines at which the canceled ones are first thrown out.
_FIRST_TIDY = 256


class HasFileno(Protocol):
    """What owns a descriptor and may be watched in its place."""

    def fileno(self) -> int: ...


class Timer:
    """A call that is due at some time, until it is canceled."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call. One that was called or canceled already is no error."""
        self.call = None


class _Watch:
    """What is waited for at one descriptor, and what is then called."""

    def __init__(self, call: Callable[[], None], events: int) -> None:
        self.call = call
        self.events = events


class Reactor:
    """Calls what was registered for each descriptor that is ready and for each deadline that has passed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._tidy_at = _FIRST_TIDY

    def watch(self, source: int | HasFileno, call: Callable[[], None], events: int = READ) -> None:
        """Call whenever the source is ready; a second call for the same source replaces the first."""
        descriptor = _number(source)
        known = self._watches.get(descriptor)
        if known is None:
            self._epoll.register(descriptor, events)
            self._watches[descriptor] = _Watch(call, events)
            return
        if known.events != events:
            self._epoll.modify(descriptor, events)
        known.call, known.events = call, events

    def forget(self, source: int | HasFileno) -> None:
        """Stop watching a source, before it is closed. One that is not watched is no error."""
        descriptor = _number(source)
        if self._watches.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call once when the monotonic clock has reached a time; returns the handle to cancel it with."""
        timer = Timer(call)
        if len(self._timers) >= self._tidy_at:
            self._drop_canceled()
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def wait(self, seconds: float | None = None) -> None:
        """Wait until something is ready or due, at most so long, and make all calls that have come up.

        Args:
            seconds: upper bound; None for none, 0 to look without waiting.
        """
        ready = [(number, self._watches[number]) for number, _ in self._epoll.poll(self._patience(seconds))]
        for number, watch in ready:
            # An earlier call of this round may have closed the source, and its number may be another's already.
            if self._watches.get(number) is watch:
                watch.call()
        self._call_due()

    def close(self) -> None:
        self._epoll.close()

    def _patience(self, seconds: float | None) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return seconds
        left = max(0.0, self._timers[0][0] - self._clock.monotonic())
        return left if seconds is None else min(left, seconds)

    def _drop_canceled(self) -> None:
        # Most deadlines are canceled long before they are due; without this the heap would hold hours of them.
        self._timers = [entry for entry in self._timers if entry[2].call is not None]
        heapq.heapify(self._timers)
        self._tidy_at = max(_FIRST_TIDY, 2 * len(self._timers))

    def _call_due(self) -> None:
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.call is not None:
                call, timer.call = timer.call, None
                call()


def _number(source: int | HasFileno) -> int:
    return source if isinstance(source, int) else source.fileno()
