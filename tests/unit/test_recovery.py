"""What a dead supervisor has left, settled by the next one."""

import json
from collections.abc import Callable

import pytest

from supervisor.models import Origin
from supervisor.recovery import settle_lost
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import cancel_requested, claim, ended, run, submit


@pytest.mark.parametrize(
    ("start", "status", "cause"),
    [(run, Status.FAILED, Cause.LOST), (cancel_requested, Status.CANCELED, Cause.CANCELED)],
    ids=["running", "being stopped"],
)
def test_settle_lost_live_one_ends_with_the_cause_in_words(
    store: Store, clock: FakeClock, start: Callable[[Store], str], status: Status, cause: Cause
) -> None:
    execution_id = start(store)
    clock.advance(3600)
    assert settle_lost(store, clock) == 1
    execution = store.get(execution_id)
    assert (execution.status, execution.completed_at, execution.usage) == (status, clock.now(), None)
    termination = json.loads(execution.termination or "")
    assert (termination["code"], termination["at"]) == (cause, clock.now())
    assert execution.error_log == termination["message"]
    assert "The server was killed, and the run with it" in (execution.error_log or "")


def test_settle_lost_one_that_could_not_be_killed_says_so(store: Store, clock: FakeClock) -> None:
    execution_id = run(store)
    with store.transaction() as transaction:
        transaction.unkillable(execution_id, 1, clock.now())
    settle_lost(store, clock)
    execution = store.get(execution_id)
    assert execution.status is Status.FAILED
    assert "could not be killed" in (execution.error_log or "")


def test_settle_lost_whoever_ran_it_ends(store: Store, clock: FakeClock) -> None:
    for epoch in ("first", "second"):
        submit(store)
        with store.transaction() as transaction:
            claimed = transaction.claim([])
            assert claimed
            transaction.start_attempt(claimed, Origin("local", "other boot", epoch), None)
    assert settle_lost(store, clock) == 2
    with store.transaction() as transaction:
        assert transaction.live_attempts() == []


def test_settle_lost_leaves_the_waiting_and_the_ended_as_they_are(store: Store, clock: FakeClock) -> None:
    kept = [ended(store, Cause.EXITED_OK), ended(store, Cause.CANCELED), submit(store)]
    before = [store.get(execution_id) for execution_id in kept]
    assert settle_lost(store, clock) == 0
    assert [store.get(execution_id) for execution_id in kept] == before
    claimed = claim(store)
    assert claimed is not None
    assert claimed.execution_id == kept[-1]


def test_settle_lost_second_time_finds_nothing(store: Store, clock: FakeClock) -> None:
    run(store)
    assert [settle_lost(store, clock), settle_lost(store, clock)] == [1, 0]
