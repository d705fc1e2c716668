"""Another attempt after one that failed: what the loop makes of the agent's retry policy."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.errors import AttemptStale
from supervisor.loop import STOPPED
from supervisor.machine.reactor import Reactor
from supervisor.models import Finished, Progress
from supervisor.recovery import settle
from supervisor.retry import Backoff, Retry
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.helpers.wal import commits
from tests.unit.builders import (
    ORIGIN,
    accept_writes,
    an_outcome,
    claim,
    contents,
    end,
    refuse_writes,
    run,
)
from tests.unit.test_loop import Setup

POLICY = """
[retry]
max_attempts = 3
backoff_seconds = 10
backoff_max_seconds = 15
on = ["LOST", "MEMORY"]
"""
TWICE = Retry(max_attempts=2, backoff_seconds=0)


class Chance:
    """In place of what is random: a number that the test sets."""

    value = 1.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def chance() -> Chance:
    return Chance()


@pytest.fixture
def store(path: Path, clock: FakeClock, chance: Chance) -> Iterator[Store]:
    with closing(Store(path, clock, chance=chance)) as store:
        yield store


@pytest.fixture
def setup(tmp_path: Path, store: Store, reactor: Reactor, clock: FakeClock) -> Setup:
    setup = Setup(tmp_path, store, reactor, clock)
    setup.write_agent("a", POLICY)
    return setup


def fail(setup: Setup, execution_id: str, cause: Cause = Cause.MEMORY) -> None:
    """Have the live attempt of an execution end, and be recorded."""
    setup.finish(execution_id, cause=cause)
    setup.step()
    setup.machine.take_orders("release")


def pass_time(setup: Setup, seconds: float) -> list[str]:
    """Let time pass, and return what is started then. Nobody tells the loop to look."""
    setup.clock.advance(seconds)
    setup.step()
    return setup.machine.take_orders("start")


def attempts(store: Store, execution_id: str) -> list[dict[str, Any]]:
    return list(json.loads(store.get(execution_id).attempts))


def codes(store: Store, execution_id: str) -> list[str | None]:
    """Return why each attempt has ended; None for the live one."""
    ends = [attempt["termination"] for attempt in attempts(store, execution_id)]
    return [end and end["code"] for end in ends]


# -- the policy --------------------------------------------------------------------------------------------------------


def test_failed_attempt_of_a_named_cause_is_followed_by_another_one_when_its_time_has_come(setup: Setup) -> None:
    execution_id = setup.start()
    setup.clock.advance(1)
    fail(setup, execution_id)
    waiting = setup.store.get(execution_id)
    assert (waiting.status, waiting.attempt, waiting.started_at) == (Status.PENDING, 1, None)
    assert waiting.not_before == setup.clock.now() + 10_000_000
    assert (waiting.error_log, waiting.termination, waiting.completed_at) == (None, None, None)
    assert pass_time(setup, 9.999) == []
    assert pass_time(setup, 0.001) == [execution_id]
    assert setup.machine.attempts == [1, 2]
    running = setup.store.get(execution_id)
    assert (running.status, running.attempt, running.started_at) == (Status.RUNNING, 2, setup.clock.now())
    assert running.not_before is None
    setup.finish(execution_id)
    setup.step()
    done = setup.store.get(execution_id)
    assert (done.status, done.attempt, done.final_result) == (Status.COMPLETED, 2, "{}")
    assert codes(setup.store, execution_id) == ["MEMORY", "EXITED_OK"]
    first, second = attempts(setup.store, execution_id)
    assert (first["completed_at"] - first["started_at"], second["started_at"]) == (1_000_000, done.started_at)
    assert first["error_log"] == "It failed."


def test_failed_attempt_of_another_cause_is_the_last(setup: Setup) -> None:
    execution_id = setup.start()
    fail(setup, execution_id, Cause.WALL_TIME)
    assert (setup.status(execution_id), codes(setup.store, execution_id)) == (Status.FAILED, ["WALL_TIME"])


def test_last_attempt_that_fails_ends_the_execution_with_its_own_record(setup: Setup) -> None:
    execution_id = setup.start()
    for cause in (Cause.MEMORY, Cause.LOST):
        fail(setup, execution_id, cause)
        assert pass_time(setup, 60) == [execution_id]
    fail(setup, execution_id)
    assert pass_time(setup, 60) == []
    execution = setup.store.get(execution_id)
    assert (execution.status, execution.attempt) == (Status.FAILED, 3)
    assert json.loads(execution.termination or "")["code"] == "MEMORY"
    assert codes(setup.store, execution_id) == ["MEMORY", "LOST", "MEMORY"]


def test_agent_without_a_policy_has_one_attempt_even_if_it_was_lost(setup: Setup) -> None:
    setup.write_agent("once")
    execution_id = setup.start("once")
    fail(setup, execution_id, Cause.LOST)
    assert setup.status(execution_id) is Status.FAILED


def test_policy_is_that_of_the_manifest_when_the_attempt_was_launched(setup: Setup) -> None:
    setup.write_agent("b")
    without = setup.start("b")
    having = setup.start("a")
    setup.write_agent("b", POLICY)
    setup.write_agent("a")
    setup.clock.advance(2)
    setup.finish(without, having, cause=Cause.MEMORY)
    setup.step()
    assert [setup.status(execution_id) for execution_id in (without, having)] == [Status.FAILED, Status.PENDING]
    setup.machine.take_orders("release")
    assert pass_time(setup, 10) == [having]
    fail(setup, having)
    assert setup.status(having) is Status.FAILED


def test_agent_that_is_gone_by_its_second_attempt_fails_then(setup: Setup) -> None:
    execution_id = setup.start()
    fail(setup, execution_id)
    (setup.agents / "a" / "agent.toml").unlink()
    assert pass_time(setup, 10) == []
    assert setup.status(execution_id) is Status.FAILED
    assert codes(setup.store, execution_id) == ["MEMORY", "LAUNCH_FAILED"]


def test_progress_of_an_attempt_is_not_that_of_the_next(setup: Setup) -> None:
    execution_id = setup.start()
    setup.machine.tell(Progress(execution_id, 1, "0.9"))
    fail(setup, execution_id)
    assert setup.store.get(execution_id).progress is None
    setup.machine.tell(Progress(execution_id, 1, "0.95"))
    pass_time(setup, 10)
    assert setup.store.get(execution_id).progress is None


def test_attempt_told_to_end_twice_is_followed_by_one_attempt(setup: Setup) -> None:
    execution_id = setup.start()
    twin = Finished(execution_id, 1, an_outcome(Cause.MEMORY))
    setup.machine.tell(twin)
    setup.step()
    with setup.store.transaction() as transaction, pytest.raises(AttemptStale):
        transaction.end(execution_id, 1, ORIGIN, twin.outcome)
    assert pass_time(setup, 10) == [execution_id]
    with setup.store.transaction() as transaction, pytest.raises(AttemptStale):
        transaction.end(execution_id, 1, ORIGIN, twin.outcome)
    assert codes(setup.store, execution_id) == ["MEMORY", None]


# -- when --------------------------------------------------------------------------------------------------------------


def test_delay_doubles_up_to_the_maximum_and_is_any_part_of_it(clock: FakeClock, chance: Chance) -> None:
    retry = Retry(max_attempts=100, backoff_seconds=0.5, backoff_max_seconds=60)
    backoff = Backoff(clock, chance)

    def seconds(attempt: int) -> float:
        not_before = backoff.not_before(retry, attempt)
        return ((not_before or clock.now()) - clock.now()) / 1e6

    assert [seconds(attempt) for attempt in (1, 2, 3, 7, 8, 9, 99)] == [0.5, 1, 2, 32, 60, 60, 60]
    chance.value = 0.25
    assert [seconds(attempt) for attempt in (1, 2, 99)] == [0.125, 0.25, 15]
    chance.value = 0.0
    assert backoff.not_before(retry, 5) is None


def test_delays_of_many_that_failed_together_are_spread_over_the_whole_time(clock: FakeClock) -> None:
    backoff, retry = Backoff(clock), Retry(max_attempts=2, backoff_seconds=60)
    delays = sorted(((backoff.not_before(retry, 1) or 0) - clock.now()) / 6e7 for _ in range(1000))
    assert 0 <= delays[0] < 0.1
    assert 0.4 < delays[500] < 0.6
    assert 0.9 < delays[-1] <= 1


def test_no_delay_means_the_next_attempt_begins_in_the_same_commit(setup: Setup, path: Path) -> None:
    setup.write_agent("now", "[retry]\nmax_attempts = 2\nbackoff_seconds = 0")
    execution_id = setup.start("now")
    setup.finish(execution_id, cause=Cause.LOST)
    before = commits(path)
    setup.step()
    assert commits(path) - before == 1
    assert setup.machine.orders == [
        ("release", execution_id, Status.RUNNING),
        ("start", execution_id, Status.RUNNING),
    ]
    assert setup.machine.attempts == [1, 2]


def test_one_that_waits_to_be_tried_again_keeps_its_place_and_holds_up_nobody(setup: Setup) -> None:
    setup.loop = setup.new_loop(max_running=1)
    first = setup.start()
    others = [setup.submit() for _ in range(3)]
    fail(setup, first)
    assert setup.machine.take_orders("start") == others[:1]
    assert pass_time(setup, 10) == []
    setup.finish(others[0])
    setup.step()
    assert setup.machine.take_orders("start") == [first]


def test_loop_does_nothing_until_the_next_one_is_due(setup: Setup, path: Path, chance: Chance) -> None:
    late, soon = setup.start(), setup.start()
    fail(setup, late)
    chance.value = 0.5
    fail(setup, soon)
    before = commits(path)
    assert pass_time(setup, 4.9) == []
    assert commits(path) == before
    assert pass_time(setup, 0.1) == [soon]
    assert pass_time(setup, 4.9) == []
    assert pass_time(setup, 0.1) == [late]


@pytest.mark.parametrize("hours", [-24, 24])
def test_clock_that_is_set_neither_holds_up_an_attempt_nor_hurries_it(setup: Setup, hours: int) -> None:
    early, execution_id = setup.start(), setup.start()
    fail(setup, early)
    setup.clock.set_wall(hours * 3600)
    fail(setup, execution_id)
    setup.loop.look()
    assert pass_time(setup, 9.9) == []
    assert sorted(pass_time(setup, 0.1)) == sorted([early, execution_id])


def test_many_that_are_due_get_in_line_in_bounded_numbers(store: Store, clock: FakeClock) -> None:
    for _ in range(5):
        end(store, run(store, Retry(max_attempts=2, backoff_seconds=1)), Cause.LOST)
    clock.advance(2)
    with store.transaction() as transaction:
        assert transaction.put_in_line(3) == pytest.approx(-1)
        assert [transaction.claim([]) is None for _ in range(4)] == [False, False, False, True]
        assert transaction.put_in_line(3) is None


# -- cancel, stop, and writes that fail --------------------------------------------------------------------------------


def test_cancel_of_one_that_waits_to_be_tried_again_is_its_end_at_once(setup: Setup) -> None:
    execution_id = setup.start()
    fail(setup, execution_id)
    assert setup.store.cancel(execution_id) is Status.PENDING
    execution = setup.store.get(execution_id)
    assert (execution.status, execution.attempt, execution.not_before) == (Status.CANCELED, 1, None)
    assert execution.error_log == "It was canceled before it was started again."
    assert pass_time(setup, 10) == []
    assert codes(setup.store, execution_id) == ["MEMORY"]


def test_attempt_that_was_to_be_canceled_is_the_last_however_it_ended(setup: Setup) -> None:
    execution_id = setup.start()
    setup.cancel(execution_id)
    fail(setup, execution_id, Cause.LOST)
    assert setup.status(execution_id) is Status.CANCELED


def test_cancel_of_the_second_attempt_stops_that_one(setup: Setup) -> None:
    execution_id = setup.start()
    setup.cancel(execution_id)
    setup.step()
    setup.machine.take_orders("stop")
    again = setup.start()
    fail(setup, again)
    pass_time(setup, 10)
    stopped = []
    setup.machine.stop = lambda *order: stopped.append(order[:2])  # type: ignore[method-assign]
    setup.cancel(again)
    setup.step()
    assert stopped == [(again, 2)]


def test_run_stopped_with_the_server_is_tried_again_by_the_next_one_if_its_policy_says_so(setup: Setup) -> None:
    setup.write_agent("a", POLICY.replace("MEMORY", "STOPPED"))
    execution_id = setup.start()
    setup.loop.shut_down(1)
    assert setup.machine.stopped == [(STOPPED, 1)]
    setup.finish(execution_id, cause=Cause.STOPPED)
    setup.loop.run()
    setup.machine.take_orders("release")
    assert setup.status(execution_id) is Status.PENDING
    assert pass_time(setup, 60) == []
    setup.loop = setup.new_loop(1)
    assert pass_time(setup, 0) == [execution_id]


def test_end_that_cannot_be_recorded_begins_no_attempt_and_is_tried_whole_later(
    setup: Setup, sql: sqlite3.Connection
) -> None:
    execution_id = setup.start()
    refuse_writes(sql)
    before = contents(sql)
    setup.finish(execution_id, cause=Cause.MEMORY)
    with capture_logs() as logs:
        setup.step()
    assert [entry["event"] for entry in logs] == ["write failed"]
    assert contents(sql) == before
    accept_writes(sql)
    assert pass_time(setup, 1.1) == []
    assert codes(setup.store, execution_id) == ["MEMORY"]
    assert pass_time(setup, 10) == [execution_id]


# -- a server that was killed ------------------------------------------------------------------------------------------


def test_settle_of_lost_ones_follows_the_policy_of_each(store: Store, clock: FakeClock) -> None:
    again, last, plain, canceled = (run(store, retry) for retry in (TWICE, Retry(), Retry(), TWICE))
    store.cancel(canceled)
    assert settle(store, clock, (), None).lost == 4
    statuses = [store.get(execution_id).status for execution_id in (again, last, plain, canceled)]
    assert statuses == [Status.PENDING, Status.FAILED, Status.FAILED, Status.CANCELED]
    claimed = claim(store, retry=TWICE)
    assert claimed
    assert (claimed.execution_id, claimed.attempt) == (again, 2)
    settle(store, clock, (), None)
    assert (store.get(again).status, codes(store, again)) == (Status.FAILED, ["LOST", "LOST"])


def test_settle_of_lost_ones_begins_no_attempt_beside_one_that_may_still_live(store: Store, clock: FakeClock) -> None:
    execution_id = run(store, TWICE)
    with store.transaction() as transaction:
        transaction.unkillable(execution_id, 1, clock.now())
    settle(store, clock, (), None)
    assert store.get(execution_id).status is Status.FAILED


def test_one_that_waits_to_be_tried_again_is_due_when_it_was_under_the_next_server(
    setup: Setup, path: Path, tmp_path: Path, reactor: Reactor
) -> None:
    execution_id = setup.start()
    fail(setup, execution_id)
    setup.clock.advance(4)
    with closing(Store(path, setup.clock)) as store:
        following = Setup(tmp_path, store, reactor, setup.clock)
        following.write_agent("a", POLICY)
        following.step()
        assert following.machine.orders == []
        assert pass_time(following, 5.9) == []
        assert pass_time(following, 0.1) == [execution_id]


def test_statuses_of_one_that_is_tried_again_are_all_on_record(store: Store, sql: sqlite3.Connection) -> None:
    execution_id = run(store, TWICE)
    end(store, execution_id, Cause.LOST)
    claim(store, retry=TWICE)
    events = sql.execute("SELECT attempt, data ->> 'status' FROM events WHERE kind = 'status' ORDER BY id").fetchall()
    assert [tuple(row) for row in events] == [
        *((0, "PENDING"), (1, "RUNNING")),
        *((1, "PENDING"), (2, "RUNNING")),
    ]
