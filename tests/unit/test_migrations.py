"""Opening the database file: settings, and numbered steps."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import database
from supervisor.clock import Clock
from supervisor.errors import ConfigurationError
from supervisor.limits import DEFAULTS
from supervisor.states import Status
from supervisor.store import Store
from tests.unit.builders import ORIGIN, claim, end, submit

PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def pragmas(connection: sqlite3.Connection) -> dict[str, object]:
    return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations in place of the real ones; the first makes a table "first"."""
    package = tmp_path / "package"
    folder = package / "migrations"
    folder.mkdir(parents=True)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (a);")
    monkeypatch.setattr(database, "_PACKAGE", package)
    return folder


def versions(connection: sqlite3.Connection) -> list[tuple[int, str, int]]:
    return [tuple(row) for row in connection.execute("SELECT version, name, applied_at FROM schema_version")]


def migrated(path: Path, now: int) -> list[tuple[int, str, int]]:
    """Bring the database up to date; return the steps on record."""
    with closing(database.open_current(path, now)) as connection:
        return versions(connection)


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]


def test_store_every_connection_is_durable_and_keeps_references(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        opened.append(real(*arguments, **options))
        return opened[-1]

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    with closing(Store(path, clock)) as store:
        store.get(submit(store))
        assert [pragmas(connection) for connection in opened] == [PRAGMAS] * 2
        assert path.with_name("corral.db-wal").stat().st_size > 0


def test_database_new_file_gets_every_step_on_record(path: Path) -> None:
    names = sorted(step.name for step in Path(database.__file__).with_name("migrations").glob("*.sql"))
    assert migrated(path, now=7) == [(version, name, 7) for version, name in enumerate(names, start=1)]
    assert [name[:5] for name in names] == [f"{version:04}_" for version in range(1, len(names) + 1)]


def test_database_second_opening_applies_nothing_again(path: Path, steps: Path) -> None:
    assert migrated(path, now=1) == migrated(path, now=2) == [(1, "0001_first.sql", 1)]


def test_database_of_an_older_version_gets_only_what_is_new(path: Path, steps: Path) -> None:
    migrated(path, now=1)
    (steps / "0002_second.sql").write_text("CREATE TABLE second (a); CREATE TABLE third (a);")
    assert migrated(path, now=2) == [
        (1, "0001_first.sql", 1),
        (2, "0002_second.sql", 2),
    ]
    assert {"second", "third"} <= set(tables(path))


@pytest.mark.parametrize(
    "mistake",
    ["CREATE TABLE first (a);", "no SQL at all;", "INSERT INTO nowhere VALUES (1);"],
)
def test_database_step_that_fails_leaves_neither_its_tables_nor_its_record(
    path: Path, steps: Path, mistake: str
) -> None:
    migrated(path, now=1)
    step = steps / "0002_second.sql"
    step.write_text(f"CREATE TABLE second (a); {mistake}")
    with pytest.raises(ConfigurationError, match=r"^cannot open the database '/.*/corral.db': "):
        migrated(path, now=2)
    assert "second" not in tables(path)
    step.write_text("CREATE TABLE second (a);")
    assert migrated(path, now=3) == [
        (1, "0001_first.sql", 1),
        (2, "0002_second.sql", 3),
    ]


def test_database_step_whose_record_cannot_be_written_is_not_applied(path: Path, steps: Path) -> None:
    migrated(path, now=1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER no_record BEFORE INSERT ON schema_version BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    (steps / "0002_second.sql").write_text("CREATE TABLE second (a);")
    with pytest.raises(ConfigurationError):
        migrated(path, now=2)
    assert "second" not in tables(path)


@pytest.mark.parametrize("old", sorted(Path(__file__).with_name("databases").iterdir()), ids=lambda old: old.stem)
def test_store_file_of_each_older_version_opens_and_goes_on(path: Path, clock: Clock, old: Path) -> None:
    """Each was written by the program of its version, and has one execution of each status."""
    path.write_bytes(old.read_bytes())
    with closing(Store(path, clock)) as store, closing(database.connect(path)) as sql:
        ids = {row["status"]: row["id"] for row in sql.execute("SELECT status, id FROM executions")}
        assert set(ids) == set(Status)
        assert all(store.get(execution_id).status == status for status, execution_id in ids.items())
        claimed = claim(store)
        assert claimed
        assert claimed.execution_id == ids["PENDING"]
        for status in ("PENDING", "RUNNING", "CANCEL_REQUESTED"):
            end(store, ids[status])
            assert store.get(ids[status]).status is Status.COMPLETED


def test_store_execution_that_is_older_than_limits_has_none_to_show_until_it_is_launched(
    path: Path, clock: Clock
) -> None:
    path.write_bytes((Path(__file__).with_name("databases") / "0001.db").read_bytes())
    with closing(Store(path, clock)) as store:
        with store.transaction() as transaction:
            claimed = transaction.claim([])
            assert claimed
            assert claimed.limits == {}
            assert store.get(claimed.execution_id).limits is None
            transaction.start_attempt(claimed, ORIGIN, "sha256:0", DEFAULTS)
        assert store.get(claimed.execution_id).limits == DEFAULTS.model_dump_json()


def test_store_opened_again_has_what_was_recorded(path: Path, clock: Clock) -> None:
    with closing(Store(path, clock)) as store:
        before = store.get(submit(store))
    with closing(Store(path, clock)) as store:
        assert store.get(before.execution_id) == before


def test_database_with_a_table_made_anew_keeps_its_rows_and_their_numbers(
    path: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "package" / "migrations"
    first.mkdir(parents=True)
    shutil.copy(Path(database.__file__).with_name("migrations") / "0001_executions.sql", first)
    with monkeypatch.context() as older:
        older.setattr(database, "_PACKAGE", first.parent)
        migrated(path, now=1)
    with closing(database.connect(path)) as sql:
        sql.execute(
            "INSERT INTO executions (id, agent_id, agent_name, priority, payload, created_at)"
            " VALUES (printf('%036d', 1), 'a', 'a', 1, '{}', 1)"
        )
        sql.executemany("INSERT INTO events VALUES (?, 1, 0, 'progress', '1', 1)", [(3,), (7,)])
        sql.execute("DELETE FROM events WHERE id = 7")
        before = [tuple(row) for row in sql.execute("SELECT * FROM events")]
    Store(path, clock).close()
    with closing(database.connect(path)) as sql:
        assert [tuple(row) for row in sql.execute("SELECT * FROM events")] == before
        sql.execute("INSERT INTO events (execution_seq, attempt, kind, data, at) VALUES (1, 0, 'unkillable', '{}', 1)")
        assert sql.execute("SELECT max(id) FROM events").fetchone()[0] == 8
