"""What a check finds: each rule, broken on purpose; damage; and files that it cannot judge."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import check, inspection
from supervisor.errors import StoreError
from supervisor.machine.lock import FileLock
from supervisor.models import Kill
from supervisor.settings import Settings
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import AT, cancel_requested, end, ended, run, submit


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    """One execution of each status, and by "KILLED" one that had to be."""
    killed = run(store)
    end(store, killed, Cause.WALL_TIME, kill=Kill("kill", 1, 1, 0, 1.0, AT))
    canceled_in_time = submit(store)
    store.cancel(canceled_in_time)
    found = {
        "COMPLETED": ended(store, Cause.EXITED_OK),
        "FAILED": ended(store, Cause.LOST),
        "CANCELED": ended(store, Cause.CANCELED),
        "RUNNING": run(store),
        "CANCEL_REQUESTED": cancel_requested(store),
        "PENDING": submit(store),
    }
    with store.transaction() as transaction:
        transaction.progress(found["RUNNING"], 1, "1")
    return {**found, "KILLED": killed}


@pytest.fixture
def unprotected(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that may break every rule."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "PRAGMA ignore_check_constraints = ON; DROP TRIGGER executions_end_is_final;"
            "DROP TRIGGER attempts_end_is_final; DROP TRIGGER events_are_append_only"
        )
        yield connection


def violations(path: Path) -> list[tuple[str, str | None]]:
    """Return (rule, execution) of all, but for the triggers that a test has dropped."""
    found = inspection.inspect(path).violations
    return [(one.rule, one.execution_id) for one in found if not one.detail.startswith("trigger ")]


def test_inspection_of_ordinary_rows_finds_nothing(path: Path, ids: dict[str, str]) -> None:
    found = inspection.inspect(path)
    assert found.violations == ()
    assert found.executions == {**dict.fromkeys(Status, 1), "FAILED": 2, "CANCELED": 2}
    assert set(found.live) == {ids["RUNNING"], ids["CANCEL_REQUESTED"]}
    assert found.used_bytes + found.free_bytes > 0


# Each as (rule, status of the execution, statement); :seq is that one's number.
BROKEN = [
    ("status_path", "COMPLETED", "DELETE FROM events WHERE execution_seq = :seq AND data LIKE '%PENDING%'"),
    ("status_path", "COMPLETED", "DELETE FROM events WHERE execution_seq = :seq AND data LIKE '%RUNNING%'"),
    (
        "status_path",
        "FAILED",
        "INSERT INTO events (execution_seq, attempt, kind, data, at) SELECT execution_seq, attempt, kind, data, at"
        " FROM events WHERE execution_seq = :seq AND data LIKE '%FAILED%'",
    ),
    ("status_is_recorded", "PENDING", "DELETE FROM events WHERE execution_seq = :seq"),
    ("status_is_recorded", "RUNNING", "UPDATE executions SET status = 'CANCEL_REQUESTED' WHERE seq = :seq"),
    (
        "end_is_last",
        "CANCELED",
        "INSERT INTO events (execution_seq, attempt, kind, data, at) VALUES (:seq, 1, 'progress', '1', 1)",
    ),
    ("attempts_are_counted", "FAILED", "UPDATE attempts SET attempt = 2 WHERE execution_seq = :seq"),
    ("attempts_are_counted", "PENDING", "UPDATE executions SET attempt = 1 WHERE seq = :seq"),
    (
        "live_attempt_is_the_last",
        "FAILED",
        "UPDATE attempts SET ended_at = NULL, termination = NULL WHERE execution_seq = :seq",
    ),
    (
        "live_execution_has_an_attempt",
        "RUNNING",
        "UPDATE attempts SET ended_at = 1, termination = '{}' WHERE execution_seq = :seq",
    ),
    ("live_execution_has_an_attempt", "CANCEL_REQUESTED", "DELETE FROM attempts WHERE execution_seq = :seq"),
    ("result_or_error", "COMPLETED", "UPDATE executions SET final_result = NULL WHERE seq = :seq"),
    ("result_or_error", "FAILED", "UPDATE executions SET error_log = NULL WHERE seq = :seq"),
    ("result_or_error", "PENDING", "UPDATE executions SET error_log = '' WHERE seq = :seq"),
    (
        "completed_is_exited_ok",
        "COMPLETED",
        'UPDATE executions SET termination = \'{"code":"LOST"}\' WHERE seq = :seq',
    ),
    (
        "completed_is_exited_ok",
        "FAILED",
        'UPDATE attempts SET termination = \'{"code":"EXITED_OK"}\' WHERE execution_seq = :seq',
    ),
    (
        "nothing_survives",
        "KILLED",
        "UPDATE attempts SET kill = json_set(kill, '$.survivors', 1) WHERE execution_seq = :seq",
    ),
]


@pytest.mark.parametrize(("rule", "status", "statement"), BROKEN)
def test_inspection_finds_what_breaks_a_rule_and_names_the_execution(
    path: Path, ids: dict[str, str], unprotected: sqlite3.Connection, rule: str, status: str, statement: str
) -> None:
    assert violations(path) == []
    (seq,) = unprotected.execute("SELECT seq FROM executions WHERE id = ?", (ids[status],)).fetchone()
    unprotected.execute(statement, {"seq": seq})
    found = violations(path)
    assert (rule, ids[status]) in found
    assert {execution for _, execution in found} <= {ids[status], None}


def test_inspection_every_rule_has_been_broken_by_a_test() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(inspection.RULES) - {"integrity", "references", "schema"}


def test_inspection_finds_what_belongs_to_nothing_and_what_is_missing(
    path: Path, ids: dict[str, str], unprotected: sqlite3.Connection
) -> None:
    unprotected.execute("DELETE FROM executions WHERE id = ?", (ids["PENDING"],))
    unprotected.execute("DROP INDEX executions_waiting")
    found = {(one.rule, one.detail) for one in inspection.inspect(path).violations}
    assert ("schema", "index executions_waiting is missing") in found
    assert ("schema", "trigger executions_end_is_final is missing") in found
    assert {rule for rule, _ in found} == {"schema", "references"}


def test_inspection_tells_a_hundred_of_a_rule_and_counts_the_rest(
    path: Path, store: Store, unprotected: sqlite3.Connection
) -> None:
    for _ in range(103):
        submit(store)
    unprotected.execute("DELETE FROM events")
    found = [one for one in inspection.inspect(path).violations if one.rule == "status_is_recorded"]
    assert len(found) == 101
    assert (found[-1].execution_id, found[-1].detail) == (None, "and 3 more")


def test_inspection_finds_damage_also_where_it_cannot_be_read_past(path: Path, ids: dict[str, str]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()
    copy = path.with_name("damaged.db")
    shutil.copy(path, copy)
    with copy.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    assert {one.rule for one in inspection.inspect(copy).violations} == {"integrity"}
    with pytest.raises(StoreError):
        inspection.verify(copy)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "unable to open database file"),
        (lambda path: path.write_bytes(b"not a database\n" * 100), "file is not a database"),
        (lambda path: sqlite3.connect(path).close(), "it is no database of Corral's"),
    ],
)
def test_inspection_of_what_is_no_database_of_ours_is_refused(tmp_path: Path, make, reason: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "other.db")
    with pytest.raises(StoreError, match=reason):
        inspection.inspect(tmp_path / "other.db")


@pytest.mark.parametrize(
    ("version", "advice"), [(1, "brings it up to date$"), (99, r"is version 99, this program's is \d+$")]
)
def test_inspection_of_another_version_is_refused(path: Path, ids: dict[str, str], version: int, advice: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM schema_version WHERE version > 1")
        connection.execute("UPDATE schema_version SET version = ?", (version,))
        connection.commit()
    with pytest.raises(StoreError, match=advice):
        inspection.inspect(path)


def test_check_of_live_runs_without_a_server_names_them(tmp_path: Path, clock: FakeClock) -> None:
    settings = Settings(data=tmp_path)
    with closing(Store(settings.database, clock)) as store:
        live = {run(store), cancel_requested(store)}
    with closing(FileLock(settings.lock)) as lock:
        lock.acquire(0)
        assert check.check_server(settings).violations == ()
    found = check.check_server(settings).violations
    assert {(one.rule, one.execution_id) for one in found} == {("live_needs_a_server", one) for one in live}
