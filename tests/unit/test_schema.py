"""What the database refuses by itself, whatever the program says."""

import sqlite3
from typing import Any

import pytest

from supervisor.errors import CorralError
from supervisor.retry import Retry
from supervisor.states import TRANSITIONS, Cause, Event, Status
from supervisor.store import Store
from tests.unit.builders import (
    cancel_requested,
    claim,
    contents,
    end,
    ended,
    run,
    submit,
)

Row = dict[str, Any]

WAITING: Row = {
    "id": "0" * 36,
    "agent_id": "agent",
    "agent_name": "name",
    "status": "PENDING",
    "priority": 50,
    "payload": "{}",
    "attempt": 0,
    "created_at": 1,
}
RUNNING = WAITING | {"status": "RUNNING", "attempt": 1, "started_at": 2}
ENDED: Row = {"completed_at": 3, "termination": "{}"}
COMPLETED = RUNNING | ENDED | {"status": "COMPLETED", "final_result": "{}"}
CANCELED = WAITING | ENDED | {"status": "CANCELED"}
FAILED = RUNNING | ENDED | {"status": "FAILED"}

ATTEMPT: Row = {
    "execution_seq": 1,
    "attempt": 1,
    "node": "local",
    "boot": "boot",
    "epoch": "epoch",
    "claimed_at": 1,
}
ENDED_ATTEMPT = ATTEMPT | {"ended_at": 2, "termination": "{}"}
EVENT: Row = {"execution_seq": 1, "attempt": 1, "kind": "status", "data": "{}", "at": 1}


def insert(sql: sqlite3.Connection, table: str, row: Row) -> None:
    columns = ", ".join(row)
    sql.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})",
        tuple(row.values()),
    )


GOOD_EXECUTIONS = {
    "waiting": WAITING,
    "waiting for another attempt": WAITING | {"attempt": 1, "not_before": 3},
    "running": RUNNING,
    "cancel requested": RUNNING | {"status": "CANCEL_REQUESTED"},
    "completed": COMPLETED,
    "failed": FAILED,
    "failed before its start": CANCELED | {"status": "FAILED"},
    "canceled before its start": CANCELED,
    "canceled": FAILED | {"status": "CANCELED"},
    "least priority": WAITING | {"priority": 0},
    "highest priority": WAITING | {"priority": 100},
}

BAD_EXECUTIONS = {
    "no id": WAITING | {"id": None},
    "short id": WAITING | {"id": "0" * 35},
    "no agent": WAITING | {"agent_id": None},
    "no agent's name": WAITING | {"agent_name": None},
    "unknown status": WAITING | {"status": "QUEUED"},
    "status in lower case": WAITING | {"status": "pending"},
    "priority below": WAITING | {"priority": -1},
    "priority above": WAITING | {"priority": 101},
    "priority is text": WAITING | {"priority": "high"},
    "payload is a list": WAITING | {"payload": "[]"},
    "payload is no JSON": WAITING | {"payload": "{"},
    "no payload": WAITING | {"payload": None},
    "payload is bytes": WAITING | {"payload": b"{}"},
    "attempt below zero": WAITING | {"attempt": -1},
    "no time of creation": WAITING | {"created_at": None},
    "time is text": WAITING | {"created_at": "2026-01-02T03:04:05Z"},
    "waiting, but started": WAITING | {"started_at": 2},
    "waiting, but ended": WAITING | ENDED,
    "running, but not yet": RUNNING | {"not_before": 3},
    "ended, but not yet": FAILED | {"not_before": 3},
    "running, but not started": RUNNING | {"started_at": None},
    "running, but ended": RUNNING | ENDED,
    "running, with a result": RUNNING | {"final_result": "{}"},
    "being stopped, but not started": WAITING | {"status": "CANCEL_REQUESTED"},
    "being stopped, but ended": RUNNING | ENDED | {"status": "CANCEL_REQUESTED"},
    "completed without a result": COMPLETED | {"final_result": None},
    "completed, but not started": COMPLETED | {"started_at": None},
    "result is a list": COMPLETED | {"final_result": "[]"},
    "result is no JSON": COMPLETED | {"final_result": "nothing"},
    "failed with a result": FAILED | {"final_result": "{}"},
    "canceled with a result": CANCELED | {"final_result": "{}"},
    "ended at no time": FAILED | {"completed_at": None},
    "ended for no reason": FAILED | {"termination": None},
    "termination is a text": FAILED | {"termination": '"lost"'},
}

BAD_ATTEMPTS = {
    "of no execution": ATTEMPT | {"execution_seq": 2},
    "number zero": ATTEMPT | {"attempt": 0},
    "nowhere": ATTEMPT | {"node": None},
    "in no boot": ATTEMPT | {"boot": None},
    "of no supervisor": ATTEMPT | {"epoch": None},
    "never claimed": ATTEMPT | {"claimed_at": None},
    "ended for no reason": ATTEMPT | {"ended_at": 2},
    "a reason without an end": ATTEMPT | {"termination": "{}"},
    "termination is a list": ENDED_ATTEMPT | {"termination": "[]"},
    "usage is a number": ATTEMPT | {"usage": "1"},
    "kill is a text": ATTEMPT | {"kill": '"kill"'},
    "isolation is no JSON": ATTEMPT | {"isolation": "none"},
    "retry is a list": ATTEMPT | {"retry": "[]"},
}

BAD_EVENTS = {
    "of no execution": EVENT | {"execution_seq": 2},
    "of no attempt": EVENT | {"attempt": None},
    "unknown kind": EVENT | {"kind": "log"},
    "no JSON": EVENT | {"data": "{"},
    "nothing": EVENT | {"data": None},
    "at no time": EVENT | {"at": None},
}


def test_every_table_is_strict(sql: sqlite3.Connection) -> None:
    tables = sql.execute("PRAGMA table_list").fetchall()
    ours = {row["name"]: row["strict"] for row in tables if not row["name"].startswith("sqlite_")}
    names = ("executions", "attempts", "events", "idempotency_keys", "schema_version", "supervisor")
    assert ours == dict.fromkeys(names, 1)


@pytest.mark.parametrize("row", GOOD_EXECUTIONS.values(), ids=GOOD_EXECUTIONS)
def test_execution_sound_row_is_taken(sql: sqlite3.Connection, row: Row) -> None:
    insert(sql, "executions", row)


@pytest.mark.parametrize("row", BAD_EXECUTIONS.values(), ids=BAD_EXECUTIONS)
def test_execution_unsound_row_is_refused(sql: sqlite3.Connection, row: Row) -> None:
    with pytest.raises(
        sqlite3.DatabaseError,
        match=r"CHECK constraint|NOT NULL|cannot store|malformed JSON",
    ):
        insert(sql, "executions", row)


def test_execution_same_id_twice_is_refused(sql: sqlite3.Connection) -> None:
    insert(sql, "executions", WAITING)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(sql, "executions", RUNNING)


@pytest.mark.parametrize(
    ("table", "row"),
    [("attempts", row) for row in BAD_ATTEMPTS.values()] + [("events", row) for row in BAD_EVENTS.values()],
    ids=[f"attempt {name}" for name in BAD_ATTEMPTS] + [f"event {name}" for name in BAD_EVENTS],
)
def test_attempt_and_event_unsound_row_is_refused(sql: sqlite3.Connection, table: str, row: Row) -> None:
    insert(sql, "executions", RUNNING)
    with pytest.raises(sqlite3.DatabaseError, match=r"CHECK|NOT NULL|FOREIGN KEY|malformed JSON"):
        insert(sql, table, row)
    insert(sql, table, {"attempts": ENDED_ATTEMPT, "events": EVENT}[table])


@pytest.mark.parametrize("row", [COMPLETED, FAILED, CANCELED], ids=lambda row: row["status"])
@pytest.mark.parametrize(
    "change",
    [
        "status = 'PENDING', started_at = NULL, completed_at = NULL, termination = NULL, final_result = NULL",
        "status = 'FAILED', final_result = NULL",
        "error_log = 'other'",
        "payload = '{\"other\": 1}'",
        "progress = '1'",
        "priority = priority",
    ],
)
def test_execution_that_has_ended_cannot_be_changed(sql: sqlite3.Connection, row: Row, change: str) -> None:
    insert(sql, "executions", row)
    with pytest.raises(sqlite3.IntegrityError, match=r"^cannot change execution: it has ended$"):
        sql.execute(f"UPDATE executions SET {change}")


def test_attempt_that_has_ended_cannot_be_changed(sql: sqlite3.Connection) -> None:
    insert(sql, "executions", RUNNING)
    insert(sql, "attempts", ATTEMPT)
    sql.execute("""UPDATE attempts SET ended_at = 2, termination = '{}'""")
    for change in (
        "ended_at = 3",
        "usage = '{}'",
        "ended_at = NULL, termination = NULL",
    ):
        with pytest.raises(sqlite3.IntegrityError, match=r"^cannot change attempt: it has ended$"):
            sql.execute(f"UPDATE attempts SET {change}")


def test_event_cannot_be_changed(sql: sqlite3.Connection) -> None:
    insert(sql, "executions", WAITING)
    insert(sql, "events", EVENT)
    with pytest.raises(sqlite3.IntegrityError, match=r"^cannot change event: events are append-only$"):
        sql.execute("UPDATE events SET at = 2")


def test_execution_deleted_takes_its_attempts_and_events_along_and_its_number_stays_used(
    sql: sqlite3.Connection,
) -> None:
    insert(sql, "executions", FAILED)
    insert(sql, "attempts", ATTEMPT)
    insert(sql, "events", EVENT)
    sql.execute("DELETE FROM executions")
    assert [sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("attempts", "events")] == [0, 0]
    insert(sql, "executions", WAITING)
    assert sql.execute("SELECT seq FROM executions").fetchone()[0] == 2


# -- the state machine, against the store ------------------------------------------------------------------------------

# A waiting execution fails only when it expires, and nothing expires yet.
NOT_OFFERED = {(Status.PENDING, Event.FAIL)}
PAIRS = [(status, event) for status in Status for event in Event]
CAUSES = {
    Event.COMPLETE: Cause.EXITED_OK,
    Event.FAIL: Cause.EXIT_NONZERO,
    Event.LOSE: Cause.LOST,
    Event.RETRY: Cause.MEMORY,
}

# There the store does not ask for another attempt, whatever the end: it is a failure.
NOT_CHOSEN = {(Status.CANCEL_REQUESTED, Event.RETRY)}


def bring_to(store: Store, status: Status) -> str:
    """Return the id of a new execution that has this status."""
    match status:
        case Status.PENDING:
            return submit(store)
        case Status.RUNNING:
            return run(store, Retry(max_attempts=2, on=(Cause.MEMORY,)))
        case Status.CANCEL_REQUESTED:
            return cancel_requested(store)
        case Status.COMPLETED:
            return ended(store, Cause.EXITED_OK)
        case Status.FAILED:
            return ended(store, Cause.SIGNALED)
    return ended(store, Cause.CANCELED)


def apply(store: Store, execution_id: str, event: Event) -> None:
    if event is Event.CLAIM:
        claim(store)
    elif event is Event.CANCEL:
        store.cancel(execution_id)
    elif event is Event.REQUEUE:
        with store.transaction() as transaction:
            transaction.unclaim(execution_id, 1)
    else:
        end(store, execution_id, CAUSES[event])


@pytest.mark.parametrize(("status", "event"), [pair for pair in TRANSITIONS if pair not in NOT_OFFERED])
def test_store_possible_event_gives_the_following_status(store: Store, status: Status, event: Event) -> None:
    execution_id = bring_to(store, status)
    assert store.get(execution_id).status is status
    apply(store, execution_id, event)
    assert store.get(execution_id).status is TRANSITIONS[status, event]


@pytest.mark.parametrize(
    ("status", "event"),
    [pair for pair in PAIRS if pair in NOT_OFFERED or pair not in NOT_CHOSEN | set(TRANSITIONS)],
)
def test_store_impossible_event_changes_nothing(
    store: Store, sql: sqlite3.Connection, status: Status, event: Event
) -> None:
    execution_id = bring_to(store, status)
    before = contents(sql)
    if event in {*CAUSES, Event.REQUEUE}:
        with pytest.raises(CorralError):
            apply(store, execution_id, event)
    else:
        apply(store, execution_id, event)
    assert contents(sql) == before
