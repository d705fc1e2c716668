"""The store: what it records, for whom, and that it is on disk when it says so."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from supervisor.errors import ExecutionUnknown, InvalidTransition, StoreError
from supervisor.limits import DEFAULTS
from supervisor.models import Execution, Kill, Origin, Submission, new_execution_id
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.helpers.wal import commits
from tests.unit.builders import (
    ISOLATION,
    ORIGIN,
    accept_writes,
    an_outcome,
    cancel_requested,
    claim,
    contents,
    end,
    ended,
    refuse_writes,
    run,
    submit,
)

NOBODY = new_execution_id()


def events(sql: sqlite3.Connection, execution_id: str) -> list[tuple[int, str, object]]:
    """Return (attempt, kind, data) of each event of an execution."""
    query = (
        "SELECT events.attempt, kind, data FROM events JOIN executions ON execution_seq = seq"
        " WHERE executions.id = ? ORDER BY events.id"
    )
    return [(row["attempt"], row["kind"], json.loads(row["data"])) for row in sql.execute(query, (execution_id,))]


def statuses(sql: sqlite3.Connection, execution_id: str) -> list[str]:
    return [data["status"] for _, kind, data in events(sql, execution_id) if kind == "status"]  # type: ignore[index]


# -- submit and read ---------------------------------------------------------------------------------------------------


def test_enqueue_records_what_was_submitted_and_nothing_else(store: Store, clock: FakeClock) -> None:
    submission = Submission(new_execution_id(), "agent-id", "agent-name", 70, '{"question":"é\\u0000"}', DEFAULTS)
    store.enqueue(submission)
    clock.advance(60)
    assert store.get(submission.execution_id) == Execution(
        execution_id=submission.execution_id,
        agent_id="agent-id",
        agent_name="agent-name",
        status=Status.PENDING,
        priority=70,
        payload='{"question":"é\\u0000"}',
        final_result=None,
        error_log=None,
        attempt=0,
        created_at=clock.now() - 60_000_000,
        started_at=None,
        completed_at=None,
        progress=None,
        termination=None,
        usage=None,
        kill=None,
        isolation=None,
        limits=DEFAULTS.model_dump_json(),
        unkillable_since=None,
        not_before=None,
        attempts="[]",
    )


@pytest.mark.parametrize("execution_id", [pytest.param(NOBODY, id="nobody"), "", "\x00", "%", "' OR ''='"])
def test_get_unknown_id_raises(store: Store, execution_id: str) -> None:
    submit(store)
    with pytest.raises(ExecutionUnknown):
        store.get(execution_id)


def test_enqueue_same_id_twice_raises_and_keeps_the_first(store: Store) -> None:
    first = Submission(new_execution_id(), "a", "a", 1, "{}", DEFAULTS)
    store.enqueue(first)
    with pytest.raises(StoreError):
        store.enqueue(replace(first, agent_id="b"))
    assert store.get(first.execution_id).agent_id == "a"


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_cancel_waiting_one_ends_it_at_once_and_it_is_never_claimed(store: Store, clock: FakeClock) -> None:
    execution_id = submit(store)
    clock.advance(1)
    assert store.cancel(execution_id) is Status.PENDING
    execution = store.get(execution_id)
    assert (execution.status, execution.completed_at, execution.started_at) == (
        Status.CANCELED,
        clock.now(),
        None,
    )
    termination = json.loads(execution.termination or "")
    assert (termination["code"], termination["by"], termination["at"]) == (
        "CANCELED",
        "client",
        clock.now(),
    )
    assert execution.error_log == termination["message"] == "It was canceled before it was started."
    assert claim(store) is None


def test_cancel_running_one_is_requested_once(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = run(store)
    assert store.cancel(execution_id) is Status.RUNNING
    assert store.cancel(execution_id) is Status.CANCEL_REQUESTED
    execution = store.get(execution_id)
    assert (execution.status, execution.completed_at, execution.termination) == (
        Status.CANCEL_REQUESTED,
        None,
        None,
    )
    assert statuses(sql, execution_id) == ["PENDING", "RUNNING", "CANCEL_REQUESTED"]


@pytest.mark.parametrize("cause", [Cause.EXITED_OK, Cause.LOST, Cause.CANCELED])
def test_cancel_ended_one_tells_its_status_and_changes_nothing(
    store: Store, sql: sqlite3.Connection, cause: Cause
) -> None:
    execution_id = ended(store, cause)
    before = contents(sql)
    assert store.cancel(execution_id) is store.get(execution_id).status
    assert contents(sql) == before


def test_cancel_unknown_id_raises(store: Store) -> None:
    with pytest.raises(ExecutionUnknown):
        store.cancel(NOBODY)


def test_cancel_and_claim_at_the_same_time_have_one_truth(store: Store, path: Path, clock: FakeClock) -> None:
    winners = set()
    with closing(Store(path, clock)) as loop, ThreadPoolExecutor(1) as pool:
        for number in range(1000):
            execution_id = submit(store)
            racers: list[Callable[[], object]] = [
                partial(claim, loop),
                partial(store.cancel, execution_id),
            ]
            # Whoever has the head start wins more often; each has it every other time.
            with_head_start = pool.submit(racers[number % 2])
            results = [racers[1 - number % 2](), with_head_start.result()]
            claimed, before = results[::-1] if number % 2 == 0 else results
            if claimed:
                assert (before, store.get(execution_id).status) == (
                    Status.RUNNING,
                    Status.CANCEL_REQUESTED,
                )
                end(loop, execution_id, Cause.CANCELED)
            else:
                assert before is Status.PENDING
            assert store.get(execution_id).status is Status.CANCELED
            winners.add(before)
    assert winners == {Status.PENDING, Status.RUNNING}


# -- the end -----------------------------------------------------------------------------------------------------------

KILL = Kill("kill", signaled=3, killed=2, survivors=0, duration_ms=12.5, verified_empty_at=7)


def test_end_completed_records_result_usage_and_isolation(store: Store, clock: FakeClock) -> None:
    execution_id = run(store)
    clock.advance(2)
    with store.transaction() as transaction:
        status = transaction.end(execution_id, 1, ORIGIN, an_outcome(result='{"answer":42}'))
    execution = store.get(execution_id)
    assert status is execution.status is Status.COMPLETED
    assert (execution.completed_at, execution.final_result, execution.error_log) == (
        clock.now(),
        '{"answer":42}',
        None,
    )
    assert json.loads(execution.termination or "")["code"] == "EXITED_OK"
    assert json.loads(execution.usage or "")["wall_seconds"] == 0.5
    assert json.loads(execution.isolation or "") == {
        "tier": ISOLATION.tier,
        "effective": ["session"],
        "missing": [],
    }
    assert execution.kill is None


def test_end_failed_records_error_log_and_what_was_killed(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = run(store)
    end(store, execution_id, Cause.WALL_TIME, error_log="Too long.", kill=KILL)
    execution = store.get(execution_id)
    assert (execution.status, execution.final_result, execution.error_log) == (
        Status.FAILED,
        None,
        "Too long.",
    )
    kill = json.loads(execution.kill or "")
    assert kill == {
        "method": "kill",
        "signaled": 3,
        "killed": 2,
        "survivors": 0,
        "duration_ms": 12.5,
        "verified_empty_at": 7,
    }
    assert (1, "kill", kill) in events(sql, execution_id)


def test_end_after_a_cancel_is_canceled_and_a_completion_that_came_first_stands(
    store: Store,
) -> None:
    canceled, completed = cancel_requested(store), cancel_requested(store)
    end(store, canceled, Cause.SIGNALED)
    end(store, completed)
    assert store.get(canceled).status is Status.CANCELED
    assert json.loads(store.get(canceled).termination or "")["code"] == "CANCELED"
    assert store.get(completed).status is Status.COMPLETED


GUARDS = {
    "attempt": (2, ORIGIN),
    "machine": (1, replace(ORIGIN, node="other")),
    "start of the supervisor": (1, replace(ORIGIN, epoch="other")),
}


@pytest.mark.parametrize(("attempt", "origin"), GUARDS.values(), ids=GUARDS)
@pytest.mark.parametrize("cause", [Cause.EXITED_OK, Cause.LOST])
def test_end_told_by_another_attempt_machine_or_supervisor_changes_nothing(
    store: Store, sql: sqlite3.Connection, attempt: int, origin: Origin, cause: Cause
) -> None:
    execution_id = run(store)
    before = contents(sql)
    with pytest.raises(StoreError), store.transaction() as transaction:
        transaction.end(execution_id, attempt, origin, an_outcome(cause))
    assert contents(sql) == before
    end(store, execution_id)


def test_end_second_time_changes_nothing(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = ended(store, Cause.EXITED_OK)
    before = contents(sql)
    with pytest.raises(InvalidTransition):
        end(store, execution_id, Cause.LOST)
    assert contents(sql) == before


def test_end_unknown_id_raises(store: Store) -> None:
    with pytest.raises(ExecutionUnknown):
        end(store, NOBODY)


# -- progress, events, lists -------------------------------------------------------------------------------------------


def tell(store: Store, execution_id: str, data: str, attempt: int = 1) -> None:
    with store.transaction() as transaction:
        transaction.progress(execution_id, attempt, data)


@pytest.mark.parametrize("start", [run, cancel_requested])
def test_progress_keeps_the_latest_and_logs_each(
    store: Store, sql: sqlite3.Connection, start: Callable[[Store], str]
) -> None:
    execution_id = start(store)
    for data in ("1", '{"step":"two"}', "null"):
        tell(store, execution_id, data)
    assert store.get(execution_id).progress == "null"
    told = [data for _, kind, data in events(sql, execution_id) if kind == "progress"]
    assert told == [1, {"step": "two"}, None]


@pytest.mark.parametrize(
    ("start", "attempt"),
    [(submit, 0), (run, 2), (lambda store: ended(store, Cause.LOST), 1)],
)
def test_progress_of_an_attempt_that_is_not_live_is_neither_kept_nor_logged(
    store: Store, sql: sqlite3.Connection, start: Callable[[Store], str], attempt: int
) -> None:
    execution_id = start(store)
    before = contents(sql)
    tell(store, execution_id, "1", attempt)
    assert contents(sql) == before


def test_events_tell_the_whole_life_in_order_with_attempts_and_times(
    store: Store, sql: sqlite3.Connection, clock: FakeClock
) -> None:
    began = clock.now()
    execution_id = submit(store)
    clock.advance(1)
    claim(store)
    clock.advance(1)
    tell(store, execution_id, "1")
    store.cancel(execution_id)
    clock.advance(1)
    end(store, execution_id, Cause.CANCELED, kill=KILL)
    told = events(sql, execution_id)
    assert [(attempt, kind) for attempt, kind, _ in told] == [
        (0, "status"),
        (1, "status"),
        (1, "progress"),
        (1, "status"),
        (1, "kill"),
        (1, "status"),
    ]
    assert statuses(sql, execution_id) == [
        "PENDING",
        "RUNNING",
        "CANCEL_REQUESTED",
        "CANCELED",
    ]
    times = [row["at"] - began for row in sql.execute("SELECT at FROM events ORDER BY id")]
    assert times == [0, 1_000_000, 2_000_000, 2_000_000, 3_000_000, 3_000_000]


def test_attempt_keeps_where_and_as_what_it_was_launched(
    store: Store, sql: sqlite3.Connection, clock: FakeClock
) -> None:
    run(store)
    row = dict(sql.execute("SELECT * FROM attempts").fetchone())
    assert (
        row
        | {
            "node": "local",
            "boot": "boot",
            "epoch": "epoch",
            "agent_digest": "sha256:0",
        }
        == row
    )
    assert (row["attempt"], row["claimed_at"], row["ended_at"]) == (
        1,
        clock.now(),
        None,
    )


def test_live_attempts_and_cancel_requests_list_exactly_those(store: Store) -> None:
    ended(store, Cause.EXITED_OK)
    ended(store, Cause.CANCELED)
    running, stopping = run(store), cancel_requested(store)
    submit(store)
    with store.transaction() as transaction:
        live = {(attempt.key, attempt.status, attempt.origin) for attempt in transaction.live_attempts()}
        assert live == {
            ((running, 1), Status.RUNNING, ORIGIN),
            ((stopping, 1), Status.CANCEL_REQUESTED, ORIGIN),
        }
        assert transaction.cancel_requested() == [(stopping, 1)]


def tell_unkillable(store: Store, execution_id: str, since: int) -> None:
    with store.transaction() as transaction:
        transaction.unkillable(execution_id, 1, since)


def test_unkillable_is_recorded_once_and_listed_while_it_is_live(store: Store, sql: sqlite3.Connection) -> None:
    run(store)
    later, earlier = run(store), cancel_requested(store)
    assert store.unkillable() == []
    for execution_id, since in ((later, 7), (earlier, 5), (later, 9)):
        tell_unkillable(store, execution_id, since)
    assert store.unkillable() == [(earlier, 5), (later, 7)]
    assert store.get(later).unkillable_since == 7
    end(store, earlier, Cause.CANCELED)
    assert store.unkillable() == [(later, 7)]
    assert store.get(earlier).unkillable_since == 5
    assert [event for event in events(sql, later) if event[1] == "unkillable"] == [(1, "unkillable", {"since": 7})]


def test_unkillable_of_an_attempt_that_has_ended_is_not_recorded(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = ended(store, Cause.EXITED_OK)
    before = contents(sql)
    tell_unkillable(store, execution_id, 5)
    assert contents(sql) == before


# -- transactions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreError, ValueError, KeyboardInterrupt])
def test_transaction_left_by_an_error_records_nothing_and_the_next_one_works(
    store: Store, sql: sqlite3.Connection, error: type[BaseException]
) -> None:
    execution_id = run(store)
    before = contents(sql)

    def fail_in_the_middle() -> None:
        with store.transaction() as transaction:
            transaction.cancel(execution_id)
            transaction.end(execution_id, 1, ORIGIN, an_outcome())
            raise error

    with pytest.raises(error):
        fail_in_the_middle()
    assert contents(sql) == before
    end(store, execution_id)


def test_write_that_the_database_cannot_take_raises_and_nothing_of_it_is_recorded(
    store: Store, sql: sqlite3.Connection
) -> None:
    waiting = submit(store)
    refuse_writes(sql)
    before = contents(sql)
    for write in (
        lambda: submit(store),
        lambda: store.cancel(waiting),
        lambda: claim(store),
    ):
        with pytest.raises(StoreError, match=r"^cannot write to the database: no room$"):
            write()
    assert contents(sql) == before
    accept_writes(sql)
    running = claim(store)
    assert running is not None
    assert running.execution_id == waiting


def test_read_does_not_wait_for_a_write_and_sees_what_was_committed(
    store: Store,
) -> None:
    execution_id = submit(store)
    with store.transaction() as transaction:
        transaction.cancel(execution_id)
        assert store.get(execution_id).status is Status.PENDING
    assert store.get(execution_id).status is Status.CANCELED


def test_read_that_fails_raises(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = submit(store)
    sql.execute("ALTER TABLE attempts RENAME TO gone")
    with pytest.raises(StoreError, match=r"^cannot read from the database: "):
        store.get(execution_id)


# -- durability and shared commits -------------------------------------------------------------------------------------

SUBMIT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from supervisor.clock import Clock
from supervisor.limits import DEFAULTS
from supervisor.models import Submission
from supervisor.store import Store

store = Store(Path(sys.argv[1]), Clock())
for execution_id in sys.argv[2:]:
    store.enqueue(Submission(execution_id, "agent", "agent", 50, "{}", DEFAULTS))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_enqueue_has_recorded_when_it_returns_also_if_the_process_is_killed_then(path: Path, clock: FakeClock) -> None:
    ids = [new_execution_id() for _ in range(3)]
    died = subprocess.run([sys.executable, "-c", SUBMIT_AND_DIE, str(path), *ids], timeout=30)
    assert died.returncode == -signal.SIGKILL
    with closing(Store(path, clock)) as store:
        assert [store.get(execution_id).status for execution_id in ids] == [Status.PENDING] * 3


DIE_IN_A_TRANSACTION = """
import os, signal, sys
from pathlib import Path
from supervisor.clock import Clock
from supervisor.limits import DEFAULTS
from supervisor.models import Submission
from supervisor.store import Store

store = Store(Path(sys.argv[1]), Clock())
with store.transaction() as transaction:
    transaction.enqueue(Submission(sys.argv[2], "agent", "agent", 50, "{}", DEFAULTS))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_process_killed_in_its_transaction_records_nothing_and_holds_up_nobody(store: Store, path: Path) -> None:
    execution_id = new_execution_id()
    died = subprocess.run(
        [sys.executable, "-c", DIE_IN_A_TRANSACTION, str(path), execution_id],
        timeout=30,
    )
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(ExecutionUnknown):
        store.get(execution_id)
    submit(store)


def test_concurrent_submits_share_commits(store: Store, path: Path) -> None:
    before = commits(path)
    threads, each = 16, 10
    together = threading.Barrier(threads)

    def submit_some() -> list[str]:
        together.wait(30)
        return [submit(store) for _ in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        submitting = [pool.submit(submit_some) for _ in range(threads)]
        ids = [execution_id for result in submitting for execution_id in result.result()]
    assert len({store.get(execution_id).execution_id for execution_id in ids}) == threads * each
    assert 0 < commits(path) - before < threads * each


def test_single_submit_is_one_commit(store: Store, path: Path) -> None:
    before = commits(path)
    for _ in range(3):
        submit(store)
    assert commits(path) - before == 3


SUBMIT_MANY = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from supervisor.clock import Clock
from supervisor.limits import DEFAULTS
from supervisor.models import Submission, new_execution_id
from supervisor.store import Store

store = Store(Path(sys.argv[1]), Clock())
def submit(_):
    store.enqueue(Submission(new_execution_id(), "agent", "agent", 50, "{}", DEFAULTS))
with ThreadPoolExecutor(4) as pool:
    list(pool.map(submit, range(100)))
"""


def test_two_processes_write_at_once_and_nothing_is_lost(store: Store, path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUBMIT_MANY, str(path)]) as other:
        claimed = set()
        while other.poll() is None:
            if next_one := claim(store):
                claimed.add(next_one.execution_id)
    assert other.returncode == 0
    while next_one := claim(store):
        claimed.add(next_one.execution_id)
    assert len(claimed) == 100
