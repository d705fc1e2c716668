"""The stop ladder: SIGTERM, grace period, SIGKILL until nothing lives. Cancel, limits and shutdown all use it."""

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.clock import Clock
from supervisor.machine.process_tree import ProcessTree
from supervisor.machine.reactor import Reactor, Timer
from supervisor.models import Kill
from supervisor.states import Cause

# Between two rounds of SIGKILL: short at first, because mostly one round is enough, then ever longer.
_FIRST_ROUND_SECONDS = 0.005
_LONGEST_ROUND_SECONDS = 0.25

# While nobody is found and the init still lives, somebody moves faster than a look at /proc: only luck finds them, so
# it is tried often. After so long it is the init that was tampered with.
_HUNT_SECONDS = 5.0

# A tree that lives this long after the first SIGKILL is in the kernel's hands: an uninterruptible sleep, a frozen
# group. It dies of the signals that it has when the kernel lets go of it, so now and then is often enough.
STUCK_SECONDS = 10.0
STUCK_ROUND_SECONDS = 5.0


@dataclass(frozen=True)
class Reason:
    """Why a run is stopped, in the terms of models.Termination."""

    code: Cause
    message: str
    by: str
    limit: dict[str, float] | None = None
    observed: dict[str, float] | None = None


class Stopper:
    """Takes one process tree down the ladder. Its end is told by the launcher: the init exits when all are gone."""

    def __init__(self, tree: ProcessTree, reactor: Reactor, clock: Clock, on_stuck: Callable[[], None]) -> None:
        """Args: on_stuck: called once, if the tree outlives SIGKILL; the killing goes on."""
        self._tree = tree
        self._reactor = reactor
        self._clock = clock
        self._on_stuck = on_stuck
        self._began = clock.monotonic()
        self._kill_at = 0.0
        self._kill_began: float | None = None
        self._round = _FIRST_ROUND_SECONDS
        self._stuck = False
        self._signaled = 0
        self._timer: Timer | None = None

    def terminate(self, grace_seconds: float) -> None:
        """Ask the tree to end, and kill it after the grace period."""
        self._signaled = self._tree.terminate()
        self._kill_at = self._clock.monotonic() + grace_seconds
        self._timer = self._reactor.call_at(self._kill_at, self.kill)

    def hurry(self, grace_seconds: float) -> None:
        """Shorten the grace period that is running."""
        kill_at = self._clock.monotonic() + grace_seconds
        if self._kill_began is None and kill_at < self._kill_at:
            self.end()
            self._kill_at = kill_at
            self._timer = self._reactor.call_at(kill_at, self.kill)

    def kill(self) -> None:
        """Kill what lives, now and again until the end is told."""
        self.end()
        look_began = self._clock.monotonic()
        self._kill_began = self._kill_began or look_began
        found = self._tree.kill()
        now = self._clock.monotonic()
        lasted = now - self._kill_began
        hunting = not found and lasted <= _HUNT_SECONDS
        # A hunt leaves the loop as much time for the other runs as it takes itself.
        pause = max(_FIRST_ROUND_SECONDS, now - look_began) if hunting else self._next_round(lasted)
        self._timer = self._reactor.call_at(now + pause, self.kill)
        if not found and not hunting:
            self._tree.kill_root()
        if lasted >= STUCK_SECONDS and not self._stuck:
            self._stuck = True
            self._on_stuck()

    def _next_round(self, lasted: float) -> float:
        if lasted >= STUCK_SECONDS:
            return STUCK_ROUND_SECONDS
        pause, self._round = self._round, min(self._round * 2, _LONGEST_ROUND_SECONDS)
        return pause

    def end(self) -> None:
        """Nothing lives any more, or somebody else takes over: no further round."""
        if self._timer:
            self._timer.cancel()

    def certificate(self) -> Kill:
        """Return the record of what was done; only when the tree is known to be empty."""
        killed = len(self._tree.killed)
        return Kill(
            method="kill" if killed or self._tree.root_was_killed else "terminate",
            signaled=self._signaled,
            killed=killed,
            survivors=0,
            duration_ms=round((self._clock.monotonic() - self._began) * 1000, 3),
            verified_empty_at=self._clock.now(),
        )
