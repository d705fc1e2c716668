"""Whether a database is whole and keeps the rules: every page, reference and row, as they are at one moment."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from supervisor import database
from supervisor.errors import StoreError
from supervisor.states import TRANSITIONS, Status

_QUERIES = database.load_queries("invariants.sql")

RULES = {
    "integrity": "Every page, index and constraint is as SQLite left it.",
    "references": "Every attempt and event is of an execution that is there.",
    "schema": "Every table, index and trigger of Corral's is there.",
    # In words they are the comment that each statement begins with.
    **{name: query.partition("\n")[0].removeprefix("-- ") for name, query in _QUERIES.items()},
}

# Of one rule; more are only counted.
_MOST_TOLD = 100


@dataclass(frozen=True)
class Violation:
    """What breaks a rule. execution_id: None if it is no single execution."""

    rule: str
    execution_id: str | None
    detail: str


@dataclass(frozen=True)
class Inspection:
    """What was found in one database.

    executions: their number, by status. live: ids of those that are running or being stopped. used_bytes, free_bytes:
    of its pages; the free ones are used again. violations: at most a hundred of each rule, then one that counts the
    rest.
    """

    schema_version: int
    executions: dict[str, int]
    live: tuple[str, ...]
    used_bytes: int
    free_bytes: int
    violations: tuple[Violation, ...]


def inspect(path: Path) -> Inspection:
    """Look at every row of a database, also of one that a server is writing to; nothing is changed.

    Raises:
        StoreError: it cannot be read, is no database of Corral's, or is another version's.
    """
    with database.snapshot(path) as connection:
        version = _version(connection, path)
        try:
            return _inspected(connection, version)
        except sqlite3.DatabaseError as error:
            if not error.sqlite_errorname.startswith("SQLITE_CORRUPT"):
                raise
            # Damage that SQLite cannot read past.
            return Inspection(version, {}, (), 0, 0, (Violation("integrity", None, str(error)),))


def live(path: Path) -> tuple[str, ...]:
    """Return the ids of all that are running or being stopped. Raises StoreError: it cannot be read."""
    with database.snapshot(path) as connection:
        return _live(connection)


def verify(path: Path) -> None:
    """Read every page of a database. Raises StoreError: it is damaged."""
    with database.snapshot(path) as connection:
        found = [*_integrity(connection), *_references(connection)]
    if found:
        raise StoreError(f"cannot trust database {str(path)!r}: {found[0].detail}")


def _inspected(connection: sqlite3.Connection, version: int) -> Inspection:
    statuses = dict(map(tuple, connection.execute("SELECT status, count(*) FROM executions GROUP BY status")))
    page, pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    violations = [*_integrity(connection), *_references(connection), *_schema(connection)]
    for rule, query in _QUERIES.items():
        violations += _broken(connection, rule, query)
    return Inspection(
        version,
        {status: statuses.get(status, 0) for status in Status},
        _live(connection),
        (pages - free) * page,
        free * page,
        tuple(violations),
    )


def _live(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute("SELECT id FROM executions WHERE status IN ('RUNNING', 'CANCEL_REQUESTED')")
    return tuple(row["id"] for row in rows)


def _integrity(connection: sqlite3.Connection) -> Iterator[Violation]:
    for (found,) in connection.execute(f"PRAGMA integrity_check({_MOST_TOLD})"):
        if found != "ok":
            yield Violation("integrity", None, found)


def _references(connection: sqlite3.Connection) -> Iterator[Violation]:
    for row in connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_TOLD):
        yield Violation("references", None, f"row {row['rowid']} of {row['table']} is of no row of {row['parent']}")


def _schema(connection: sqlite3.Connection) -> Iterator[Violation]:
    with closing(_fresh()) as fresh:
        missing = _objects(fresh) - _objects(connection)
    for kind, name in sorted(missing):
        yield Violation("schema", None, f"{kind} {name} is missing")


def _broken(connection: sqlite3.Connection, rule: str, query: str) -> Iterator[Violation]:
    values = {"moves": json.dumps(_moves())} if ":moves" in query else {}
    told = 0
    for execution_id, detail in connection.execute(query, values):
        told += 1
        if told <= _MOST_TOLD:
            yield Violation(rule, execution_id, detail)
    if told > _MOST_TOLD:
        yield Violation(rule, None, f"and {told - _MOST_TOLD} more")


def _moves() -> list[str]:
    """Return the steps that a status can take, as invariants.sql writes them."""
    return [f"nothing>{Status.PENDING}", *(f"{before}>{after}" for (before, _), after in TRANSITIONS.items())]


def _version(connection: sqlite3.Connection, path: Path) -> int:
    with closing(_fresh()) as fresh:
        known = _newest(fresh)
    try:
        found = _newest(connection)
    except sqlite3.OperationalError as error:
        raise StoreError(f"cannot check {str(path)!r}: it is no database of Corral's: {error}") from error
    if found != known:
        advice = "; a server that is started on it brings it up to date" if found < known else ""
        raise StoreError(
            f"cannot check {str(path)!r}: its schema is version {found}, this program's is {known}{advice}"
        )
    return found


def _newest(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0])


def _fresh() -> sqlite3.Connection:
    """Return an empty database of this version."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    database.migrate(connection, now=0)
    return connection


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(map(tuple, connection.execute("SELECT type, name FROM sqlite_schema")))
