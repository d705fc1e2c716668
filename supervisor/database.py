"""Opening the database file: whose it is, pragmas, named queries, migrations."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

from supervisor.errors import ConfigurationError, StoreError

# In the header of each file of ours. Source: sqlite.org/pragma.html, "application_id".
APPLICATION_ID = int.from_bytes(b"Corr", "big")

# How long SQLite waits for another process. Those of ours take turns, so it is somebody else's, who may take for ever.
BUSY_SECONDS = 1.0

# More than this the write-ahead log has only while somebody reads from it.
LOG_BYTES = 16 << 20

# Copied between two looks for an interrupt.
_COPY_PAGES = 4096

# journal_size_limit: what the write-ahead log keeps of its size, to be used again, when all of it is in the database.
# Source: sqlite.org/pragma.html.
_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    f"journal_size_limit = {LOG_BYTES}",
)

_PACKAGE = resources.files("supervisor")

# What SQLite says, in an operator's words. Source: sqlite.org/rescode.html.
_REASONS = {
    sqlite3.SQLITE_BUSY: "another process has been writing for a while",
    sqlite3.SQLITE_CANTOPEN: "its file or its folder cannot be opened",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not do what it is told",
    sqlite3.SQLITE_NOTADB: "its file is damaged or no database",
    sqlite3.SQLITE_READONLY: "its file or its folder cannot be written",
}

_WAY_OUT = "restore it from a backup, or move it away to begin with an empty one"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_current(path: Path, now: int) -> sqlite3.Connection:
    """Open the file, creating it or bringing its schema up to date.

    Raises:
        ConfigurationError: it cannot be opened or written, or is damaged, another program's or a newer version's; it is
            left as it was.
    """
    try:
        if path.exists():
            _check_ours(path)
        connection = connect(path, mode="rwc")
        try:
            migrate(connection, now)
            _check_writable(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise _refusal(path, f"{explain(error)}{f'; {_WAY_OUT}' if is_damage(error) else ''}") from error
    return connection


def connect(path: Path, busy_seconds: float = BUSY_SECONDS, mode: str = "rw") -> sqlite3.Connection:
    """Open a connection with Corral's settings; transactions are begun and ended by hand.

    synchronous=FULL makes a commit durable before it returns, also in WAL mode.
    Source: sqlite.org/pragma.html, "synchronous".

    Args:
        mode: "rwc" creates the file. Source: sqlite.org/uri.html.
    Raises:
        sqlite3.Error.
    """
    connection = _open(path, f"mode={mode}", busy_seconds)
    connection.row_factory = sqlite3.Row
    try:
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            # Only a file without a page can be told so; others need a VACUUM.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file for reading only: all that is read is as it was at one moment, while others go on writing.

    Until it is closed the write-ahead log grows with what they write.

    Raises:
        StoreError: it is not there, cannot be read or is no database.
    """
    try:
        with closing(_open(path, "mode=ro")) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"cannot read database {str(path)!r}: {error}") from error


def copy(path: Path, target: Path) -> None:
    """Copy a database, as it is at one moment, into an empty file; that is not on disk yet.

    In steps within one snapshot: a copy without it would begin anew whenever another process has written, and never
    end. The copy needs no other file beside it. Source: sqlite.org/c3ref/backup_finish.html.

    Raises:
        StoreError: one of the two files cannot be used.
    """
    with snapshot(path) as source:
        try:
            with closing(sqlite3.connect(target, isolation_level=None)) as copied:
                copied.execute("PRAGMA synchronous = OFF")
                source.backup(copied, pages=_COPY_PAGES)
                copied.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise StoreError(f"cannot copy database {str(path)!r}: {error}") from error


def load_queries(file: str = "queries.sql") -> dict[str, str]:
    """Return the statements of a file by name."""
    text = (_PACKAGE / file).read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def migrate(connection: sqlite3.Connection, now: int) -> None:
    """Bring the schema up to date; each step and its record are one transaction. Raises sqlite3.Error."""
    done = _version(connection)
    for version, step in enumerate(_steps()[done:], start=done + 1):
        connection.executescript(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS schema_version"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT;"
            f"{(_PACKAGE / 'migrations' / step).read_text()};"
            f"INSERT INTO schema_version VALUES ({version}, '{step}', {now}); COMMIT"
        )


def explain(error: sqlite3.Error) -> str:
    """Return why, for an operator: in words as far as there are any, and as SQLite has it."""
    reason = _REASONS.get(_code(error))
    return f"{reason} ({error.sqlite_errorname}: {error})" if reason else str(error)


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another process is to blame."""
    return _code(error) == sqlite3.SQLITE_BUSY


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether the content of the file is to blame."""
    return _code(error) in _DAMAGED


def leaves_connection_good(error: sqlite3.Error) -> bool:
    """Tell whether a connection is as good as before: what was asked for was refused, and nothing else is wrong."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FULL)


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 if the error is not SQLite's but that of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _check_ours(path: Path) -> None:
    """Look at a file without changing it. Raises ConfigurationError: it is not for this program."""
    if not path.is_file():
        raise _refusal(path, "there is something else than a file")
    # Without a log there is nothing to know but what is in the file, and no reason to make files beside it.
    log = path.with_name(f"{path.name}-wal")
    with closing(_open(path, "mode=ro" if log.exists() else "mode=ro&immutable=1")) as connection:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        if application_id != APPLICATION_ID and not (application_id == 0 and _is_empty_or_older(connection)):
            raise _refusal(path, "it belongs to another program; move it away, or use another folder for the data")
        version, known = _version(connection), len(_steps())
    if version > known:
        raise _refusal(
            path,
            f"its schema is version {version}, this program knows {known}; start the newer version of Corral again,"
            " or restore a backup from before the update",
        )


def _is_empty_or_older(connection: sqlite3.Connection) -> bool:
    """Tell whether a file without an application id is ours all the same: the first versions had set none."""
    if not _has(connection, "sqlite_schema"):
        return True
    return _version(connection) > 0 and _has(connection, f"schema_version WHERE version = 1 AND name = '{_steps()[0]}'")


def _version(connection: sqlite3.Connection) -> int:
    """Return the number of steps that a file has behind it."""
    if not _has(connection, "sqlite_schema WHERE name = 'schema_version'"):
        return 0
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0])


def _has(connection: sqlite3.Connection, rows: str) -> bool:
    return bool(connection.execute(f"SELECT EXISTS (SELECT * FROM {rows})").fetchone()[0])


def _check_writable(connection: sqlite3.Connection) -> None:
    """Write without changing anything. Raises sqlite3.Error.

    What SQLite may not write it opens for reading only, and says so at the first write.
    """
    connection.execute("PRAGMA user_version = 0")


def _steps() -> list[str]:
    return sorted(step.name for step in (_PACKAGE / "migrations").iterdir())


def _open(path: Path, parameters: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{parameters}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )


def _refusal(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"cannot open the database {str(path)!r}: {reason}")
