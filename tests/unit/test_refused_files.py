"""Files in the place of the database that are not for this program: refused with the way out, and left as they were."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import database
from supervisor.clock import Clock
from supervisor.errors import ConfigurationError
from supervisor.store import Store
from tests.unit.builders import submit


def contents(path: Path) -> dict[str, bytes]:
    """Return all files of the database's folder."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def of_another_program(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def damaged(path: Path, start: int, end: int) -> None:
    """Make a database of ours and overwrite a part of it."""
    with closing(Store(path, Clock())) as store:
        submit(store)
    data = bytearray(path.read_bytes())
    data[start:end] = b"\xff" * (min(end, len(data)) - start)
    path.write_bytes(data)


def of_newer_version(path: Path) -> None:
    Store(path, Clock()).close()
    of_another_program(path, "INSERT INTO schema_version VALUES (99, '0099_future.sql', 1)")


FOREIGN = "it belongs to another program; move it away"
NO_DATABASE = "SQLITE_NOTADB: file is not a database.; restore it from a backup, or move it away"

REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("my only copy" * 100), NO_DATABASE),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), NO_DATABASE),
    "header overwritten": (lambda path: damaged(path, 0, 100), NO_DATABASE),
    "schema overwritten": (
        lambda path: damaged(path, 100, 4096),
        "SQLITE_CORRUPT: database disk image is malformed.; restore it from a backup",
    ),
    "newer version": (of_newer_version, r"its schema is version 99, this program knows \d+; start the newer version"),
    "other tables": (lambda path: of_another_program(path, "CREATE TABLE bookmarks (a)"), FOREIGN),
    "other application": (lambda path: of_another_program(path, "PRAGMA application_id = 7"), FOREIGN),
    "other program's schema_version": (
        lambda path: of_another_program(
            path,
            "CREATE TABLE schema_version (version, name, applied_at)",
            "INSERT INTO schema_version VALUES (1, '0001_bookmarks.sql', 1)",
        ),
        FOREIGN,
    ),
    "other program's, with a log of writes": (
        lambda path: of_another_program(path, "PRAGMA journal_mode = WAL", "CREATE TABLE bookmarks (a)"),
        FOREIGN,
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_file_that_is_not_for_this_program_is_refused_and_left_as_it_was(
    path: Path, clock: Clock, make: Callable[[Path], object], reason: str
) -> None:
    make(path)
    before = contents(path)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=rf"^cannot open the database '{path}': .*{reason}"):
            Store(path, clock)
    assert contents(path) == before


def test_file_of_another_program_that_uses_it_now_is_refused(path: Path, clock: Clock) -> None:
    """Its tables are in its log only."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA wal_autocheckpoint = 0", "CREATE TABLE bookmarks (a)"):
            other.execute(statement)
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match=FOREIGN):
            Store(path, clock)
        other.execute("INSERT INTO bookmarks VALUES (1)")
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]
        assert path.read_bytes() == before


def test_file_of_ours_is_marked_as_such(path: Path, clock: Clock) -> None:
    Store(path, clock).close()
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA application_id").fetchone() == (database.APPLICATION_ID,)


@pytest.mark.parametrize("step", ["nothing", "the file", "the first step"])
def test_file_whose_making_was_cut_short_is_made_whole(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    if step == "nothing":
        path.touch()
    else:
        with monkeypatch.context() as patched:
            patched.setattr(database, "_steps", lambda: ["0001_executions.sql"] if step == "the first step" else [])
            database.open_current(path, 1).close()
    with closing(Store(path, clock)) as store:
        assert store.get(submit(store))


@pytest.mark.parametrize("place", ["folder", "pipe"])
def test_something_else_than_a_file_is_refused(path: Path, clock: Clock, place: str) -> None:
    {"folder": os.mkdir, "pipe": os.mkfifo}[place](path)
    with pytest.raises(ConfigurationError, match="there is something else than a file"):
        Store(path, clock)


def test_folder_that_is_not_there_is_refused(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot be opened \(SQLITE_CANTOPEN: unable to open database file\)$"
    ):
        Store(tmp_path / "nowhere" / "corral.db", clock)
