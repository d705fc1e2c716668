"""The CPU time of a whole process tree, held to its limit: the kernel's own limit is of each process by itself.

No fixed period: the next look is when the limit can be reached at the earliest, with every core at work. So a run far
from its limit costs nothing.
"""

import os
from collections.abc import Callable

from supervisor.clock import Clock
from supervisor.machine import proc
from supervisor.machine.reactor import Reactor, Timer

# Close to the limit it is looked at so often, which is also how far a core can get beyond it.
_SHORTEST_PAUSE_SECONDS = 0.05

_CORES = os.cpu_count() or 1


class CpuWatch:
    """Looks at one tree until it is over its limit or end() is called."""

    def __init__(
        self,
        root_pid: int,
        counter: str | None,
        limit_seconds: float,
        on_over: Callable[[float], None],
        reactor: Reactor,
        clock: Clock,
        before_seconds: float | None = None,
    ) -> None:
        """Begin.

        Args:
            root_pid: the tree is what is below it.
            counter: path of the file in which a control group counts the time of the tree; None without one. Either
                way what was used before does not count: a run before may have had the same root.
            on_over: called once, with the seconds that were used.
            before_seconds: what was used before; None if that is all until now.
        """
        self._root_pid = root_pid
        self._counter = counter
        self._limit = limit_seconds
        self._on_over = on_over
        self._reactor = reactor
        self._clock = clock
        # What lives in the tree at this time is the run's: nobody has to be looked for.
        waited_for = proc.cpu_seconds_waited_for(root_pid) if counter is None else _counted(counter)
        self._before = waited_for if before_seconds is None else before_seconds
        self._timer: Timer
        self._look_again(0.0)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        used = self._used()
        if used >= self._limit:
            self._on_over(used)
        else:
            self._look_again(used)

    def _look_again(self, used: float) -> None:
        pause = max(_SHORTEST_PAUSE_SECONDS, (self._limit - used) / _CORES)
        self._timer = self._reactor.call_at(self._clock.monotonic() + pause, self._look)

    def _used(self) -> float:
        if self._counter is None:
            return proc.cpu_seconds_below(self._root_pid) - self._before
        return _counted(self._counter) - self._before


def _counted(counter: str) -> float:
    try:
        with open(counter) as file:
            return parse_counter(file.readline())
    except OSError:  # the group has gone with the run, whose end is about to be told
        return 0.0


def parse_counter(line: str) -> float:
    """Return the seconds that the first line of a control group's counter tells.

    Source: cgroup-v2.rst, cpu.stat: "usage_usec MICROSECONDS"; cgroup-v1/cpuacct.rst, cpuacct.usage: NANOSECONDS.
    """
    name, _, number = line.rpartition(" ")
    return int(number) / (1e6 if name else 1e9)
