"""What another supervisor has left running, settled by the next one."""

import json
import sqlite3
from collections.abc import Callable

import pytest

from supervisor.models import Claim, Origin
from supervisor.recovery import Settled, settle, take_over
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import ORIGIN, cancel_requested, claim, ended, run, submit

NEXT = Origin(ORIGIN.node, ORIGIN.boot, "next epoch")


def start(store: Store, launcher: str | None = None, origin: Origin = ORIGIN) -> str:
    """Return the id of a new execution that a launcher was to launch. Nothing else may be waiting."""
    execution_id = submit(store)
    with store.transaction() as transaction:
        claimed = transaction.claim([])
        assert claimed
        transaction.start_attempt(claimed, origin, launcher=launcher)
    return execution_id


@pytest.mark.parametrize(
    ("begin", "status", "cause"),
    [(run, Status.FAILED, Cause.LOST), (cancel_requested, Status.CANCELED, Cause.CANCELED)],
    ids=["running", "being stopped"],
)
def test_settle_one_whose_launcher_is_dead_ends_with_the_cause_in_words(
    store: Store, clock: FakeClock, begin: Callable[[Store], str], status: Status, cause: Cause
) -> None:
    execution_id = begin(store)
    clock.advance(3600)
    assert settle(store, clock, set(), None) == Settled(lost=1)
    execution = store.get(execution_id)
    assert (execution.status, execution.completed_at, execution.usage) == (status, clock.now(), None)
    termination = json.loads(execution.termination or "")
    assert (termination["code"], termination["at"]) == (cause, clock.now())
    assert execution.error_log == termination["message"]
    assert "The server was killed, and the run with it" in (execution.error_log or "")


def test_settle_one_that_could_not_be_killed_says_so(store: Store, clock: FakeClock) -> None:
    execution_id = run(store)
    with store.transaction() as transaction:
        transaction.unkillable(execution_id, 1, clock.now())
    settle(store, clock, set(), None)
    execution = store.get(execution_id)
    assert execution.status is Status.FAILED
    assert "could not be killed" in (execution.error_log or "")


def test_settle_leaves_the_waiting_the_ended_and_the_held_as_they_are(store: Store, clock: FakeClock) -> None:
    held = start(store, "launcher")
    kept = [ended(store, Cause.EXITED_OK), ended(store, Cause.CANCELED), held, submit(store)]
    before = [store.get(execution_id) for execution_id in kept]
    assert settle(store, clock, {(held, 1)}, "launcher") == Settled()
    assert [store.get(execution_id) for execution_id in kept] == before


def test_settle_second_time_finds_nothing(store: Store, clock: FakeClock) -> None:
    run(store)
    assert [settle(store, clock, set(), None) for _ in range(2)] == [Settled(lost=1), Settled()]


def test_settle_one_that_the_living_launcher_never_got_waits_again_as_if_it_had_never_been_claimed(
    store: Store, clock: FakeClock, sql: sqlite3.Connection
) -> None:
    first = submit(store)
    second = submit(store)
    before = store.get(first)
    with store.transaction() as transaction:
        claimed = transaction.claim([])
        assert claimed
        transaction.start_attempt(claimed, ORIGIN, launcher="launcher")
    assert settle(store, clock, set(), "launcher") == Settled(unlaunched=1)
    assert store.get(first) == before
    assert sql.execute("SELECT count(*) FROM attempts").fetchone()[0] == 0
    again, other = claim(store), claim(store)
    assert again
    assert other
    assert [(found.execution_id, found.attempt) for found in (again, other)] == [(first, 1), (second, 1)]


def test_settle_one_canceled_before_the_launcher_got_it_is_canceled(store: Store, clock: FakeClock) -> None:
    execution_id = start(store, "launcher")
    store.cancel(execution_id)
    assert settle(store, clock, set(), "launcher") == Settled(unlaunched=1)
    execution = store.get(execution_id)
    assert execution.status is Status.CANCELED
    assert execution.error_log == "It was canceled before it was started."


@pytest.mark.parametrize("launcher", ["dead", None], ids=["another launcher", "an older version"])
def test_settle_one_that_another_launcher_may_have_run_is_never_run_again(
    store: Store, clock: FakeClock, launcher: str | None
) -> None:
    execution_id = start(store, launcher)
    assert settle(store, clock, set(), "living") == Settled(lost=1)
    assert store.get(execution_id).status is Status.FAILED


def test_take_over_is_of_this_node_and_boot_alone(store: Store, clock: FakeClock) -> None:
    ours = start(store)
    others = [start(store, origin=Origin(node, boot, "epoch")) for node, boot in (("n", ORIGIN.boot), ("local", "b"))]
    live = {attempt.execution_id: attempt.origin for attempt in take_over(store, NEXT)}
    assert live.pop(ours) == NEXT
    assert set(live) == set(others)
    assert NEXT not in live.values()
    assert settle(store, clock, {(ours, 1)}, "launcher") == Settled(lost=2)


def test_take_over_tells_how_much_progress_is_recorded(store: Store) -> None:
    execution_id = start(store, "launcher")
    with store.transaction() as transaction:
        transaction.progress(execution_id, 1, "1", 17)
    (attempt,) = take_over(store, NEXT)
    assert (attempt.key, attempt.status, attempt.launcher) == ((execution_id, 1), Status.RUNNING, "launcher")
    assert attempt.progress_offset == 17


def test_unclaimed_one_begins_anew_with_its_progress(store: Store, clock: FakeClock) -> None:
    execution_id = start(store, "launcher")
    with store.transaction() as transaction:
        transaction.progress(execution_id, 1, "1", 17)
    settle(store, clock, set(), "launcher")
    claimed: Claim | None = claim(store)
    assert claimed
    (attempt,) = take_over(store, NEXT)
    assert attempt.progress_offset == 0
