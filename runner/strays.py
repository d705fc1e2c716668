"""The launcher's children that are no inits.

Orphans of a run at tier "trusted" whose init was killed: the launcher is a subreaper, gets them, and kills them. And
cleaners, which remove work directories.
"""

from __future__ import annotations

import os

from runner import tree, workdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from runner.run import Run


class Strays:
    """The runs whose init was killed, until nothing of them is left."""

    def __init__(self, cleaners: set[int]) -> None:
        """Args: cleaners: pids of the children that remove work directories already."""
        self._cleaners = cleaners
        self._orphaned: list[Run] = []

    @property
    def expected(self) -> bool:
        """Whether there may be some now."""
        return bool(self._orphaned)

    def expect(self, run: Run) -> None:
        """Note a run whose init was killed."""
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
