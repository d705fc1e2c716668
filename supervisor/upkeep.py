"""The database as a whole: what has ended and is to be removed, and the room it takes. For a thread of its own."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor import database
from supervisor.clock import Clock
from supervisor.errors import StoreError
from supervisor.turns import Turns

_QUERIES = database.load_queries()

# A removal ends its transaction then, so that the other writers do not wait.
_WRITE_SECONDS = 0.02

# Deleted in one statement: a run of a day can have told its progress a hundred thousand times.
_EVENTS_AT_ONCE = 1000

# 1 MiB: given back to the disk in one transaction.
_PAGES_AT_ONCE = 256

# A database that has been converted once shrinks step by step. Larger ones are left to the operator: meanwhile the
# server would not start.
_MOST_CONVERTED_BYTES = 1 << 30
_INCREMENTAL = 2

# How long a checkpoint waits for those who read.
_READERS_MS = 100


@dataclass(frozen=True, slots=True)
class Ended:
    """An execution that can be removed. completed_at: instant in microseconds."""

    seq: int
    execution_id: str
    completed_at: int


class Upkeep:
    """A connection of its own to the database of a store. Every method but close raises StoreError."""

    def __init__(self, path: Path, clock: Clock, patience_seconds: float) -> None:
        """Open it. Args: patience_seconds: how long a write waits for that of another."""
        self._path = path
        self._clock = clock
        self._connection = database.connect(path)
        self._connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
        self._turns = Turns(path.with_suffix(".turns"), patience_seconds)

    def let_shrink(self) -> bool:
        """Convert a file of a version that could not give room back; return whether it can now.

        Before others use it: it is written anew, which takes as long as a copy.
        """
        if self._pragma("auto_vacuum") == _INCREMENTAL:
            return True
        if self._pragma("page_count") * self._pragma("page_size") > _MOST_CONVERTED_BYTES:
            return False
        with self._writing():
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._connection.execute("VACUUM")
        return self._pragma("auto_vacuum") == _INCREMENTAL

    def ended(self) -> tuple[int, int]:
        """Return how many executions have ended, and the number of the last event of that moment."""
        executions, last_event = self._read("count_ended")[0]
        return executions, last_event

    def ended_since(self, event: int) -> tuple[list[str], int]:
        """Return the ids of those that have ended since an event, and the number of the event to ask from next."""
        (until,) = self._read("last_event")[0]
        return [row["id"] for row in self._read("list_ended_between", after=event, until=until)], until

    def known(self, execution_ids: Sequence[str], last_event: int) -> dict[str, bool]:
        """Return those of some ids that executions have, and whether they had ended when an event was the last one."""
        rows = self._read("list_known", ids=json.dumps(execution_ids), last_event=last_event)
        return {row["id"]: bool(row["ended"]) for row in rows}

    def oldest(self, count: int) -> list[Ended]:
        """Return so many of the executions that have ended, first those that ended first."""
        return [Ended(*row) for row in self._read("list_oldest_ended", count=count)]

    def used_bytes(self) -> int:
        """Return the size of the database without its free pages."""
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        return pages * self._pragma("page_size")

    def remove(self, doomed: Sequence[Ended]) -> list[Ended]:
        """Remove executions for a moment; return those that are gone, from the first on. On disk when it returns."""
        gone = []
        with self._writing():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                until = self._clock.monotonic() + _WRITE_SECONDS
                for execution in doomed:
                    if not self._remove(execution.seq, until):
                        break
                    gone.append(execution)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        return gone

    def shrink(self) -> bool:
        """Give some free pages back to the disk; return whether there are more.

        A tenth of the pages may stay free, to be used again.
        """
        free = self._pragma("freelist_count")
        if free < self._pragma("page_count") // 10 + _PAGES_AT_ONCE or self._pragma("auto_vacuum") != _INCREMENTAL:
            return False
        with self._writing():
            # One row for each page.
            self._connection.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
        return True

    def checkpoint(self) -> None:
        """Have the write-ahead log begin anew if it has grown.

        Writers do that by themselves, but never while somebody reads from it, and under load somebody always does.
        """
        if self._path.with_name(f"{self._path.name}-wal").stat().st_size > database.LOG_BYTES:
            with self._writing():
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def close(self) -> None:
        self._connection.close()
        self._turns.close()

    def _remove(self, seq: int, until: float) -> bool:
        """Remove an execution; return False if the time was up before all of it was."""
        deleted = _EVENTS_AT_ONCE
        while deleted == _EVENTS_AT_ONCE:
            if self._clock.monotonic() > until:
                return False
            deleted = self._execute("delete_progress", seq=seq, count=_EVENTS_AT_ONCE).rowcount
        self._execute("delete_ended", seq=seq)
        return True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._turns.take():
                yield
        except (sqlite3.Error, TimeoutError) as error:
            raise StoreError(f"cannot write to the database: {error}") from error

    def _read(self, query: str, **values: str | int) -> list[sqlite3.Row]:
        try:
            return self._execute(query, **values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"cannot read from the database: {error}") from error

    def _pragma(self, name: str) -> int:
        try:
            return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])
        except sqlite3.Error as error:
            raise StoreError(f"cannot read from the database: {error}") from error

    def _execute(self, query: str, **values: str | int) -> sqlite3.Cursor:
        return self._connection.execute(_QUERIES[query], values)
