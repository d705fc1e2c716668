"""The memory of whole process trees that have no control group, held to their limits by looking, again and again.

A look sums up what is resident, which is cheap and counts what processes share once for each. Only where that is over
the limit, each process's own part is asked for, which is dear; only that counts. So between two looks a tree can take
more than its limit, and memory that no process has mapped at a look is not seen: this limit is soft.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from supervisor.clock import Clock
from supervisor.machine import proc
from supervisor.machine.reactor import Reactor

_PAUSE_SECONDS = 0.05
# While a tree has used more than half of its limit.
_SHORT_PAUSE_SECONDS = 0.02

# Looking leaves the loop so many times as long for everything else.
_REST = 10


@dataclass(slots=True)
class _Tree:
    root_pid: int
    limit_bytes: int
    on_over: Callable[[int], None]
    confirm_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Look:
    key: Hashable
    tree: _Tree
    members: list[int]
    resident: int


class MemoryWatch:
    """Looks at all of them in rounds, as long as there are any."""

    def __init__(self, reactor: Reactor, clock: Clock) -> None:
        self._reactor = reactor
        self._clock = clock
        self._trees: dict[Hashable, _Tree] = {}
        self._round_is_due = False

    def begin(self, key: Hashable, root_pid: int, limit_bytes: int, on_over: Callable[[int], None]) -> None:
        """Look at what is below a process until it is over its limit or end() is called.

        Args:
            key: for end(). on_over: called once, with the bytes that were used.
        """
        self._trees[key] = _Tree(root_pid, limit_bytes, on_over)
        if not self._round_is_due:
            self._rest(_PAUSE_SECONDS)

    def end(self, key: Hashable) -> None:
        """Look no more at one. One that is not looked at is no error."""
        self._trees.pop(key, None)

    def _rest(self, seconds: float) -> None:
        self._round_is_due = True
        self._reactor.call_at(self._clock.monotonic() + seconds, self._look_at_all)

    def _look_at_all(self) -> None:
        self._round_is_due = False
        began = self._clock.monotonic()
        looks = [_look_at(key, tree) for key, tree in self._trees.items()]
        took = self._clock.monotonic() - began
        for look in looks:
            if look.resident > look.tree.limit_bytes:
                self._confirm(look)
        if self._trees:
            near = any(2 * look.resident > look.tree.limit_bytes for look in looks)
            self._rest(max(_SHORT_PAUSE_SECONDS if near else _PAUSE_SECONDS, _REST * took))

    def _confirm(self, look: _Look) -> None:
        began = self._clock.monotonic()
        if began < look.tree.confirm_at:
            return
        used = sum(map(proc.proportional_bytes, look.members))
        now = self._clock.monotonic()
        look.tree.confirm_at = now + _REST * (now - began)
        if used > look.tree.limit_bytes and look.key in self._trees:
            self.end(look.key)
            look.tree.on_over(used)


def _look_at(key: Hashable, tree: _Tree) -> _Look:
    members = proc.below(tree.root_pid)
    return _Look(key, tree, members, sum(map(proc.resident_bytes, members)))
