"""The limits of a whole process tree that the kernel does not hold, for all live runs."""

from collections.abc import Callable
from functools import partial

from runner.profile import TRUSTED
from supervisor.clock import Clock
from supervisor.machine.cpu_watch import CpuWatch
from supervisor.machine.layers import CGROUP
from supervisor.machine.memory_watch import MemoryWatch
from supervisor.machine.reactor import Reactor
from supervisor.machine.run import Run


class TreeLimits:
    """Watches what runs use, as far as nobody else does."""

    def __init__(
        self,
        on_cpu_time: Callable[[Run, float], None],
        on_memory: Callable[[Run, int], None],
        reactor: Reactor,
        clock: Clock,
    ) -> None:
        """Args: on_cpu_time, on_memory: told once of a run that is over its limit, with the seconds or bytes used."""
        self._on_cpu_time = on_cpu_time
        self._on_memory = on_memory
        self._reactor = reactor
        self._clock = clock
        self._memory_watch = MemoryWatch(reactor, clock)

    def begin(self, run: Run, cpu_file: str | None) -> None:
        """Watch a run that has an init. Args: cpu_file: see runner.protocol, ISOLATED."""
        assert run.pid is not None
        limits = run.memo.limits
        run.cpu_watch = CpuWatch(
            *(run.pid, cpu_file, limits.cpu_seconds, partial(self._on_cpu_time, run)),
            *(self._reactor, self._clock, run.cpu_seconds_before),
        )
        # Not of trusted runs: most wait for somebody else, and would be looked at all the while.
        if run.tier != TRUSTED and CGROUP not in run.layers:
            self._memory_watch.begin(run.name, run.pid, limits.memory_bytes, partial(self._on_memory, run))

    def end(self, run: Run) -> None:
        """Watch it no more. One that is not watched is no error."""
        if run.cpu_watch:
            run.cpu_watch.end()
        self._memory_watch.end(run.name)
