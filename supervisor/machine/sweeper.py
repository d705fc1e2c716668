"""What runs leave when their launcher dies: it is killed in rounds.

The kernel hands it to this process, if that has started the launcher; else it has to be looked for (remains.py).
"""

from collections.abc import Callable, Iterable

from runner.profile import TRUSTED
from supervisor.clock import Clock
from supervisor.machine import remains
from supervisor.machine.process_tree import AdoptedProcesses
from supervisor.machine.reactor import Reactor, Timer
from supervisor.machine.run import Run
from supervisor.machine.stopper import STUCK_ROUND_SECONDS, STUCK_SECONDS

_ROUND_SECONDS = 0.01


class Sweeper:
    """The runs of dead launchers, until nothing of them is left."""

    def __init__(
        self,
        our_pids: Callable[[], set[int]],
        on_gone: Callable[[Run], None],
        on_stuck: Callable[[Run], None],
        reactor: Reactor,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            our_pids: the server's own processes. on_gone: nothing of this run is left.
            on_stuck: called once for each run of which something may outlive SIGKILL; the killing goes on.
        """
        self._our_pids = our_pids
        self._on_gone = on_gone
        self._on_stuck = on_stuck
        self._reactor = reactor
        self._clock = clock
        self._adopted = AdoptedProcesses()
        self._waiting: dict[str, Run] = {}
        self._stuck: set[str] = set()
        self._launchers: set[str] = set()
        self._began = 0.0
        self._timer: Timer | None = None

    def take(self, runs: Iterable[Run], foreign_launcher: str | None) -> None:
        """End these runs, whose launcher has just died. One that it has already is no error.

        Args:
            foreign_launcher: its name, if it was not started by this process.
        """
        if foreign_launcher:
            self._launchers.add(foreign_launcher)
        self._waiting.update({run.name: run for run in runs})
        self._began = self._clock.monotonic()
        if self._timer:
            self._timer.cancel()
        self._sweep()

    def _sweep(self) -> None:
        adopted = self._adopted.kill(self._our_pids()) + self._kill_remains()
        for name, run in list(self._waiting.items()):
            if not adopted or run.namespace_is_gone():
                del self._waiting[name]
                self._stuck.discard(name)
                self._on_gone(run)
        if not adopted:
            return
        now = self._clock.monotonic()
        is_stuck = now - self._began >= STUCK_SECONDS
        self._timer = self._reactor.call_at(now + (STUCK_ROUND_SECONDS if is_stuck else _ROUND_SECONDS), self._sweep)
        if is_stuck:
            self._tell_stuck()

    def _kill_remains(self) -> int:
        if not self._launchers:
            return 0
        trusted = [run.memo.key for run in self._waiting.values() if run.tier == TRUSTED]
        killed = remains.kill(self._launchers, trusted)
        if not killed:
            self._launchers.clear()
        return killed

    def _tell_stuck(self) -> None:
        for name in self._waiting.keys() - self._stuck:
            self._stuck.add(name)
            self._on_stuck(self._waiting[name])
