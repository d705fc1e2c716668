"""The connections of one process to its database file: opened when they are needed, again after what spoils them."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from supervisor import database
from supervisor.errors import StoreBusy, StoreDamaged, StoreError


class DatabaseFile:
    """The file as this process has found it: which one it is, and whether its content can be trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._damage: str | None = None

    def check(self) -> None:
        """Let a write pass.

        Raises:
            StoreDamaged: SQLite has once found the content damaged: what is written would be damaged too, or damage.
            StoreError: it is not in its place, or another one is. What is written into a file without a name is lost.
        """
        if self._damage:
            raise StoreDamaged(self._damage)
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise StoreError(f"cannot write to the database: {error.strerror}: {str(self.path)!r}") from error
        found = (status.st_dev, status.st_ino)
        self._identity = self._identity or found
        if found != self._identity:
            raise StoreError("cannot write to the database: another file is in its place; restart the server to use it")

    def failure(self, verb: str, error: sqlite3.Error | TimeoutError) -> StoreError:
        """Return an error as what the caller is told, and remember it if it is damage. Args: verb: e.g. "write to"."""
        if isinstance(error, TimeoutError):
            return StoreBusy(f"cannot {verb} the database: {error}")
        text = f"cannot {verb} the database: {database.explain(error)}"
        if not database.is_damage(error):
            return StoreBusy(text) if database.is_busy(error) else StoreError(text)
        self._damage = f"{text}; stop the server and restore the database from a backup"
        return StoreDamaged(self._damage)


class _Connection:
    """One connection, opened when it is needed. After an error that may have spoilt it another one takes its place.

    The spoilt one is closed only then: if it were the last one to the file, SQLite would remove the index of the log,
    and could not make it again on a full disk, not even for reading. Source: sqlite.org/walformat.html, section 2.
    """

    def __init__(self, open_: Callable[[], sqlite3.Connection], opened: sqlite3.Connection | None = None) -> None:
        self._open = open_
        self._opened = opened
        self._is_spoilt = False

    def get(self) -> sqlite3.Connection:
        """Return it. Raises sqlite3.Error: there is none, and none can be opened."""
        if self._opened is None:
            self._opened = self._open()
        elif self._is_spoilt:
            with contextlib.suppress(sqlite3.Error):
                fresh = self._open()
                self._opened.close()
                self._opened, self._is_spoilt = fresh, False
        return self._opened

    def failed(self, error: sqlite3.Error | TimeoutError) -> None:
        """Note an error: one that was opened when the disk was read-only, for instance, never writes."""
        spoils = isinstance(error, sqlite3.Error) and not database.leaves_connection_good(error)
        self._is_spoilt = self._is_spoilt or spoils or (self._opened is not None and self._opened.in_transaction)

    def close(self) -> None:
        if self._opened:
            self._opened.close()


class Connections:
    """One connection that writes, for one thread at a time, and one for each thread that reads.

    With WAL a reader never waits for a writer. Source: sqlite.org/wal.html.
    """

    def __init__(self, file: DatabaseFile, busy_seconds: float, writer: sqlite3.Connection | None = None) -> None:
        """Args: busy_seconds: how long SQLite waits for others. writer: if there is one already."""
        self._file = file
        self._open = partial(database.connect, file.path, busy_seconds)
        self._writer = _Connection(self._open, writer)
        self._threads = threading.local()

    def writer(self) -> sqlite3.Connection:
        """Return the one that writes. Raises sqlite3.Error; StoreError: see DatabaseFile.check."""
        self._file.check()
        return self._writer.get()

    def reader(self) -> sqlite3.Connection:
        """Return the calling thread's own. Raises sqlite3.Error."""
        return self._reader().get()

    def writing_failed(self, error: sqlite3.Error | TimeoutError) -> StoreError:
        """Return what the caller is told."""
        self._writer.failed(error)
        return self._file.failure("write to", error)

    def reading_failed(self, error: sqlite3.Error | TimeoutError) -> StoreError:
        """Return what the caller is told."""
        self._reader().failed(error)
        return self._file.failure("read from", error)

    def close(self) -> None:
        """Close the writing connection and the calling thread's reading one; the others go with their threads."""
        self._writer.close()
        self._reader().close()

    def _reader(self) -> _Connection:
        if not hasattr(self._threads, "connection"):
            self._threads.connection = _Connection(self._open)
        connection: _Connection = self._threads.connection
        return connection
