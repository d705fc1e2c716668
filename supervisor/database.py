"""Opening the database file: pragmas, named queries, migrations."""

import re
import sqlite3
from importlib import resources
from pathlib import Path

from supervisor.errors import ConfigurationError

# How long a write waits for another process's write, which takes a millisecond or two.
BUSY_SECONDS = 10

_PACKAGE = resources.files("supervisor")


def open_current(path: Path, now: int) -> sqlite3.Connection:
    """Open the file, creating it or bringing its schema up to date.

    Raises:
        ConfigurationError: it cannot be opened, is no database, or is a newer version's; it is left as it was.
    """
    try:
        connection = connect(path)
    except sqlite3.Error as error:
        raise ConfigurationError(f"cannot open the database: {error}") from error
    try:
        migrate(connection, now)
    except ConfigurationError:
        connection.close()
        raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection with Corral's settings; transactions are begun and ended by hand.

    synchronous=FULL makes a commit durable before it returns, also in WAL mode.
    Source: sqlite.org/pragma.html, "synchronous".
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def load_queries() -> dict[str, str]:
    """Return the statements of queries.sql by name."""
    text = (_PACKAGE / "queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def migrate(connection: sqlite3.Connection, now: int) -> None:
    """Bring the schema up to date; each step and its record are one transaction.

    Raises:
        ConfigurationError: the file was written by a newer version, or a step cannot be applied.
    """
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version"
            " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT"
        )
        done = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0]
        steps = sorted((_PACKAGE / "migrations").iterdir(), key=lambda step: step.name)
        if done > len(steps):
            raise ConfigurationError(
                f"cannot open the database: its schema is version {done}, this program knows {len(steps)}"
            )
        for version, step in enumerate(steps[done:], start=done + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {step.read_text()};"
                f"INSERT INTO schema_version VALUES ({version}, '{step.name}', {now}); COMMIT"
            )
    except sqlite3.Error as error:
        raise ConfigurationError(f"cannot open the database: {error}") from error
