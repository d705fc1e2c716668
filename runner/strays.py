"""What comes to the launcher when the init of a run at tier "trusted" is killed: it is a subreaper, and kills it."""

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
        """Args: cleaners: pids of the children that remove work directories, and are no strays."""
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
        for run in over:
            if run.directory:
                self._cleaners.add(workdir.remove_in_background([run.directory]))
        return over
