"""The launcher's children that are no inits.

Orphans of a run at tier "trusted" whose init was killed: the launcher is a subreaper, gets them, and kills them. And
cleaners, which remove work directories.
"""

from __future__ import annotations

import os
import time

from runner import tree, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from runner.run import Run


# Between two rounds of killing: of what outlives SIGKILL, after a while.
_ROUND_SECONDS, _STUCK_ROUND_SECONDS = 0.01, 5.0
_STUCK_SECONDS = 10.0


class Strays:
    """The runs whose init was killed, until nothing of them is left."""

    def __init__(self, cleaners: set[int]) -> None:
        """Args: cleaners: pids of the children that remove work directories already."""
        self._cleaners = cleaners
        self._orphaned: list[Run] = []
        self._expected_since = 0.0

    def patience(self) -> float | None:
        """Return after how many seconds kill() is to be called again, None while none is expected."""
        if not self._orphaned:
            return None
        is_stuck = time.monotonic() - self._expected_since > _STUCK_SECONDS
        return _STUCK_ROUND_SECONDS if is_stuck else _ROUND_SECONDS

    def expect(self, run: Run) -> None:
        """Note a run whose init was killed."""
        self._expected_since = time.monotonic()
        self._orphaned.append(run)

    def note_end(self, pid: int) -> None:
        """Note that a child of this process has ended."""
        self._cleaners.discard(pid)

    def is_cleaner(self, pid: int) -> bool:
        """Tell whether a child of this process only removes a directory."""
        return pid in self._cleaners

    def clear_up(self, directory: str) -> None:
        """Remove the work directory of a run that is over; not in this process if that may take long."""
        if not workdir.remove_at_once(directory):
            self._cleaners.add(workdir.remove_in_background([directory]))

    def kill(self, inits: Collection[int]) -> list[Run]:
        """Kill what there is; when nothing is left, return the runs of which that is now certain.

        Args:
            inits: pids of the children that are no strays.
        """
        if not self._orphaned:
            return []
        found = [pid for pid in tree.children(os.getpid()) if pid not in inits and pid not in self._cleaners]
        if found:
            tree.kill(found)
            return []
        over, self._orphaned = self._orphaned, []
        return over
