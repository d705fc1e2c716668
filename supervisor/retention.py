"""What has ended is not kept for ever: the oldest ends go first, with their logs and files.

In small steps, each of which nobody waits long for. The rows go before the folders: so nobody is told of an execution
whose files are missing, and what a killed server has left is a folder without a row, which sweep() finds at the start.
"""

from collections.abc import Callable, Sequence

import structlog

from supervisor.clock import MICROSECONDS, Clock
from supervisor.execution_folders import ExecutionFolders
from supervisor.settings import Settings
from supervisor.upkeep import Ended, Upkeep

_DAY_SECONDS = 86_400

_AT_ONCE = 50

_log = structlog.get_logger()


class Retention:
    """Knows what is kept, and removes what is too much."""

    def __init__(self, settings: Settings, upkeep: Upkeep, clock: Clock) -> None:
        self._settings = settings
        self._upkeep = upkeep
        self._clock = clock
        self._folders = [ExecutionFolders(settings.logs), ExecutionFolders(settings.files)]
        self._executions = 0
        self._folder_bytes = 0
        self._last_event = 0

    def sweep(self, rest: Callable[[], None]) -> None:
        """Remove folders of executions that are not there, and find out how much is kept.

        Args:
            rest: called between two steps; it may raise.
        Raises:
            StoreError, OSError: it must be done again.
        """
        self._executions, self._last_event = self._upkeep.ended()
        self._folder_bytes = 0
        removed = 0
        for folders in self._folders:
            for ids in folders.ids():
                # Listed before it is looked up: the row of an execution is there before its folders.
                known = self._upkeep.known(ids, self._last_event)
                for execution_id in ids:
                    if execution_id not in known:
                        _tried(folders.remove, execution_id)
                        removed += 1
                    elif known[execution_id]:
                        self._folder_bytes += _tried(folders.size, execution_id)
                rest()
        if removed:
            _log.warning("folders without an execution removed", folders=removed)

    def apply(self, rest: Callable[[], None]) -> None:
        """Remove what is too much, then give room back; see sweep, which must have been done."""
        removed = 0
        self._count_new()
        while doomed := self._doomed():
            gone = self._upkeep.remove(doomed)
            self._executions -= len(gone)
            self._folder_bytes -= sum(
                _tried(folders.remove, one.execution_id) for folders in self._folders for one in gone
            )
            removed += len(gone)
            rest()
        while self._upkeep.shrink():
            rest()
        self._upkeep.checkpoint()
        if removed:
            _log.info("old executions removed", executions=removed, left=self._executions)

    def _count_new(self) -> None:
        ids, self._last_event = self._upkeep.ended_since(self._last_event)
        self._executions += len(ids)
        self._folder_bytes += sum(map(self._size, ids))

    def _doomed(self) -> Sequence[Ended]:
        """Return some that are to go, in the order in which they are to."""
        oldest = self._upkeep.oldest(_AT_ONCE)
        return oldest[: max(self._too_many(), self._too_old(oldest), self._too_large(oldest))]

    def _too_many(self) -> int:
        return self._executions - self._settings.keep_executions

    def _too_old(self, oldest: Sequence[Ended]) -> int:
        since = self._clock.now() - round(self._settings.keep_days * _DAY_SECONDS * MICROSECONDS)
        return sum(one.completed_at < since for one in oldest)

    def _too_large(self, oldest: Sequence[Ended]) -> int:
        """Return how many have to go for the bytes. The rows' own are not looked at, only the folders'."""
        excess = self._upkeep.used_bytes() + self._folder_bytes - self._settings.keep_bytes
        count = 0
        while excess > 0 and count < len(oldest):
            excess -= self._size(oldest[count].execution_id)
            count += 1
        return count

    def _size(self, execution_id: str) -> int:
        return sum(_tried(folders.size, execution_id) for folders in self._folders)


def _tried(work: Callable[[str], int], execution_id: str) -> int:
    """Do something with an execution's folder, and return its size. What cannot be done is left to the next sweep."""
    try:
        return work(execution_id)
    except OSError as error:
        _log.error("folder left as it is", execution=execution_id, error=str(error))
        return 0
