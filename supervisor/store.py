"""The executions, durably: one database, read and written by any thread."""

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from supervisor import database
from supervisor.breaker import Breaker
from supervisor.clock import Clock
from supervisor.connections import Connections, DatabaseFile
from supervisor.errors import ExecutionUnknown, StoreError
from supervisor.group_commit import GroupCommit
from supervisor.idempotency import Once, expired
from supervisor.models import Execution, Submission
from supervisor.retry import Backoff
from supervisor.states import Status
from supervisor.transaction import Transaction
from supervisor.turns import Turns

_QUERIES = database.load_queries()

# A write takes milliseconds; who takes longer was stopped, or has a very busy disk.
_PATIENCE_SECONDS = 5.0


class Store:
    """The database of one data directory; its methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        patience_seconds: float = _PATIENCE_SECONDS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Open the file, creating it or bringing it up to date.

        Args:
            patience_seconds: how long a write waits for that of another process. chance: see Backoff.
        Raises:
            ConfigurationError: see database.open_current.
        """
        writer = database.open_current(path, clock.now())
        self._attach(DatabaseFile(path), clock, patience_seconds, writer, chance)

    @classmethod
    def attach(cls, path: Path, clock: Clock, patience_seconds: float = _PATIENCE_SECONDS) -> Self:
        """Return the store of a file that another process keeps open and up to date.

        It is opened when it is needed, so whatever is wrong with it now is an error of the calls below.
        """
        store = cls.__new__(cls)
        store._attach(DatabaseFile(path), clock, patience_seconds)
        return store

    def impatient(self, patience_seconds: float) -> Self:
        """Return another store of the same file, which waits less for others; it is closed with this one."""
        other = self.__class__.__new__(self.__class__)
        other._attach(self._file, self._clock, patience_seconds)
        self._others.append(other)
        return other

    def _attach(
        self,
        file: DatabaseFile,
        clock: Clock,
        patience_seconds: float,
        writer: sqlite3.Connection | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._file = file
        self._clock = clock
        self._backoff = Backoff(clock, chance)
        self._connections = Connections(file, min(patience_seconds, database.BUSY_SECONDS), writer)
        self._turns = Turns(file.path.with_suffix(".turns"), patience_seconds)
        self._breaker = Breaker(clock)
        self._group = GroupCommit(self._shared)
        self._others: list[Self] = []

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a write transaction; for one thread at a time. At its end it is on disk.

        Raises:
            StoreError: it cannot be begun or recorded; nothing of it is.
        """
        try:
            with self._turns.take():
                writer = self._connections.writer()
                writer.execute("BEGIN IMMEDIATE")
                try:
                    yield Transaction(writer, self._clock.now(), self._backoff)
                    writer.execute("COMMIT")
                finally:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
        except (sqlite3.Error, TimeoutError) as error:
            raise self._connections.writing_failed(error) from error

    @contextmanager
    def _shared(self) -> Iterator[Transaction]:
        with self._breaker.attempt(), self.transaction() as transaction:
            yield transaction

    def enqueue(self, submission: Submission, once: Once | None = None) -> str:
        """See Transaction.enqueue; when this returns it is on disk. Raises StoreError too."""
        return self._group.run(lambda transaction: transaction.enqueue(submission, once))

    def recorded_for(self, once: Once) -> str | None:
        """Return the execution that was recorded under a key, None if none was. Raises KeyReused, StoreError."""
        rows = self._read("get_key", key=once.key, expired=expired(self._clock.now()))
        return once.earlier(tuple(rows[0]) if rows else None)

    def check_writing(self) -> None:
        """Write without changing anything. Raises StoreError: nothing can be recorded now."""
        self._group.run(Transaction.touch)

    def free_bytes(self) -> int:
        """Return the room on the file's disk for a user like ours. Raises OSError."""
        disk = os.statvfs(self._file.path.parent)
        return disk.f_bavail * disk.f_frsize

    def cancel(self, execution_id: str) -> Status:
        """See Transaction.cancel."""
        return self._group.run(lambda transaction: transaction.cancel(execution_id))

    def get(self, execution_id: str) -> Execution:
        """Return an execution as it was last committed. Raises ExecutionUnknown, StoreError."""
        row = next(iter(self._read("get_execution", id=execution_id)), None)
        if row is None:
            raise ExecutionUnknown(f"cannot find execution {execution_id!r}: there is none")
        identifier, agent_id, agent_name, status, *rest = row
        return Execution(identifier, agent_id, agent_name, Status(status), *rest)

    def unkillable(self) -> list[tuple[str, int]]:
        """Return (execution id, since when) of all that are live and outlive SIGKILL. Raises StoreError."""
        return [(row["id"], row["unkillable_since"]) for row in self._read("list_unkillable")]

    def file_bytes(self) -> dict[str, int]:
        """Return the sizes of the file and of its write-ahead log, by name. Raises StoreError."""
        try:
            return {
                "database_bytes": self._file.path.stat().st_size,
                "wal_bytes": self._file.path.with_name(f"{self._file.path.name}-wal").stat().st_size,
            }
        except OSError as error:
            raise StoreError(f"cannot look at the database: {error}") from error

    def close(self) -> None:
        """Close the writing connection and the calling thread's reading one; the others go with their threads."""
        for other in self._others:
            other.close()
        self._connections.close()
        self._turns.close()

    def _read(self, query: str, **values: str | int) -> list[sqlite3.Row]:
        try:
            return self._connections.reader().execute(_QUERIES[query], values).fetchall()
        except sqlite3.Error as error:
            raise self._connections.reading_failed(error) from error
