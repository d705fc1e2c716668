"""Two processes want the same PENDING execution: the supervisor, to run it, and the API, to cancel it."""

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from supervisor.models import Claim
from supervisor.states import Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import claim, submit

RACES = 1000
_ADJUSTMENT_SECONDS = 10e-6


@pytest.fixture
def canceler(store: Store, path: Path, clock: FakeClock) -> Iterator[Connection]:
    """A process that is sent (execution id, seconds to wait), cancels, and answers with the status there was."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=cancel_each, args=(theirs, path, clock))
    process.start()
    with ours, theirs:
        yield ours
        ours.send(None)
        process.join()
    process.close()


def cancel_each(connection: Connection, path: Path, clock: FakeClock) -> None:
    with closing(Store(path, clock)) as store:
        while race := connection.recv():
            execution_id, delay_seconds = race
            wait_busily(delay_seconds)
            connection.send(store.cancel(execution_id))


def test_cancel_against_claim_each_race_has_one_truth(
    store: Store, canceler: Connection, sql: sqlite3.Connection
) -> None:
    claims = 0
    cancel_delay_seconds = 0.0
    for _ in range(RACES):
        execution_id = submit(store)
        canceler.send((execution_id, cancel_delay_seconds))
        wait_busily(-cancel_delay_seconds)
        claimed = claim(store)
        assert_one_truth(sql, execution_id, claimed, canceler.recv())
        # Whoever has won starts a little later next time, so that most races are close.
        cancel_delay_seconds -= _ADJUSTMENT_SECONDS if claimed else -_ADJUSTMENT_SECONDS
        claims += bool(claimed)
    assert RACES / 10 < claims < RACES - RACES / 10


def wait_busily(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def assert_one_truth(sql: sqlite3.Connection, execution_id: str, claimed: Claim | None, status_before: Status) -> None:
    """Check that both were told the same as is recorded."""
    status, started_at, attempts = sql.execute(
        "SELECT status, started_at, (SELECT count(*) FROM attempts WHERE execution_seq = seq)"
        " FROM executions WHERE id = ?",
        (execution_id,),
    ).fetchone()
    if claimed:
        assert claimed.execution_id == execution_id
        assert (status_before, status, attempts) == (Status.RUNNING, Status.CANCEL_REQUESTED, 1)
    else:
        assert (status_before, status, attempts) == (Status.PENDING, Status.CANCELED, 0)
        assert started_at is None
