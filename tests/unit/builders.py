"""Records for tests: what a test does not care about is filled in."""

import sqlite3
from typing import Any

from supervisor.limits import DEFAULTS, Limits
from supervisor.models import (
    Claim,
    Isolation,
    Origin,
    Outcome,
    Submission,
    Termination,
    Usage,
    new_execution_id,
)
from supervisor.retry import NO_RETRY, Retry
from supervisor.states import Cause
from supervisor.store import Store

AT = 1_767_323_045_000_000
ORIGIN = Origin("local", "boot", "epoch")
ISOLATION = Isolation("trusted", ("session",), ())


def an_outcome(code: Cause = Cause.EXITED_OK, **fields: Any) -> Outcome:
    """Return how an attempt ended; with a result if it completed, else with an error log."""
    content = {"result": "{}"} if code is Cause.EXITED_OK else {"error_log": "It failed."}
    return Outcome(
        Termination(code, "It failed.", "agent", AT),
        Usage(0.5),
        ISOLATION,
        **{**content, **fields},
    )


def submit(
    store: Store, agent_id: str = "agent", priority: int = 50, payload: str = "{}", limits: Limits = DEFAULTS
) -> str:
    """Record a submission and return its execution's id."""
    execution_id = new_execution_id()
    store.enqueue(Submission(execution_id, agent_id, f"{agent_id}-name", priority, payload, limits))
    return execution_id


def claim(store: Store, *full_agents: str, retry: Retry = NO_RETRY) -> Claim | None:
    """Claim the first in line and record its attempt."""
    with store.transaction() as transaction:
        claimed = transaction.claim(list(full_agents))
        if claimed:
            transaction.start_attempt(claimed, ORIGIN, "sha256:0", retry=retry)
    return claimed


def run(store: Store, retry: Retry = NO_RETRY, **submission: Any) -> str:
    """Submit an execution, claim it, and return its id. Nothing else may be waiting."""
    execution_id = submit(store, **submission)
    claimed = claim(store, retry=retry)
    assert claimed
    assert claimed.execution_id == execution_id
    return execution_id


def end(store: Store, execution_id: str, code: Cause = Cause.EXITED_OK, **fields: Any) -> None:
    """Record the end of an execution's first attempt."""
    with store.transaction() as transaction:
        transaction.end(execution_id, 1, ORIGIN, an_outcome(code, **fields))


def cancel_requested(store: Store) -> str:
    """Return the id of a new execution that is being stopped."""
    execution_id = run(store)
    store.cancel(execution_id)
    return execution_id


def ended(store: Store, code: Cause) -> str:
    """Return the id of a new execution that has ended."""
    execution_id = cancel_requested(store) if code is Cause.CANCELED else run(store)
    end(store, execution_id, code)
    return execution_id


def refuse_writes(sql: sqlite3.Connection, when: str = "true") -> None:
    """Make the database fail whenever something is going to be recorded, until accept_writes(). when: SQL."""
    sql.execute(f"CREATE TRIGGER refuse BEFORE INSERT ON events WHEN {when} BEGIN SELECT RAISE(ABORT, 'no room'); END")


def accept_writes(sql: sqlite3.Connection) -> None:
    sql.execute("DROP TRIGGER refuse")


def contents(sql: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Return every row of every table."""
    tables = ("executions", "attempts", "events")
    return [tuple(row) for table in tables for row in sql.execute(f"SELECT * FROM {table}")]
