"""The thread that keeps the data folder within its bounds, while the loop does more urgent things."""

import threading
import time

import structlog

from supervisor.clock import Clock
from supervisor.errors import StoreError
from supervisor.retention import Retention
from supervisor.settings import Settings
from supervisor.upkeep import Upkeep

# Between two looks; each takes about a millisecond when there is nothing to do.
_INTERVAL_SECONDS = 30.0

# After so much work it rests for as long as that took: others get the core, the disk and their turns at the database.
_WORK_SECONDS = 0.02

_PATIENCE_SECONDS = 1.0

_log = structlog.get_logger()


class _Closing(Exception):
    """There is no time for another step."""


class Keeper:
    """Sweeps once, then applies the retention again and again."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Prepare. Before anybody else writes to the database: an old file may be written anew."""
        self._upkeep = Upkeep(settings.database, clock, _PATIENCE_SECONDS)
        self._let_shrink()
        self._retention = Retention(settings, self._upkeep, clock)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._work_began = 0.0

    def start(self) -> None:
        """Begin; while signals are put off, which are none of the thread's."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the step that is being made."""
        self._closing.set()
        self._thread.join()
        self._upkeep.close()

    def _let_shrink(self) -> None:
        """What does not shrink is used again all the same, so this is no reason not to start."""
        try:
            why = None if self._upkeep.let_shrink() else "it is too large to be converted at the start"
        except StoreError as error:
            why = str(error)
        if why:
            _log.warning("the database file gives no room back to the disk", reason=why)

    def _run(self) -> None:
        swept = False
        while not self._closing.is_set():
            self._work_began = time.monotonic()
            try:
                if not swept:
                    self._retention.sweep(self._rest)
                    swept = True
                self._retention.apply(self._rest)
            except _Closing:
                return
            except (StoreError, OSError) as error:
                _log.error("retention put off", error=str(error))
            self._closing.wait(_INTERVAL_SECONDS)

    def _rest(self) -> None:
        took = time.monotonic() - self._work_began
        if took < _WORK_SECONDS:
            return
        if self._closing.wait(took):
            raise _Closing
        self._work_began = time.monotonic()
