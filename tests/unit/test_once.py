"""Keys of submissions in the store: how long they count, that they cost little, that nothing is recorded twice."""

import hashlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import database
from supervisor.errors import KeyReused, StoreError
from supervisor.idempotency import KEY_SECONDS, REMOVED_AT_ONCE, Once
from supervisor.limits import DEFAULTS
from supervisor.models import Submission, new_execution_id
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import accept_writes, contents, refuse_writes, submit


def once(key: str, body: str = "body") -> Once:
    return Once(key, hashlib.sha256(body.encode()).digest())


def enqueue(store: Store, key: Once | None) -> tuple[str, bool]:
    """Submit; return the execution's id, and whether it is a new one."""
    submission = Submission(new_execution_id(), "agent", "agent", 50, "{}", DEFAULTS)
    execution_id = store.enqueue(submission, key)
    return execution_id, execution_id == submission.execution_id


def keys(sql: sqlite3.Connection) -> list[str]:
    return [row["key"] for row in sql.execute("SELECT key FROM idempotency_keys ORDER BY created_at, key")]


def test_key_counts_for_a_day_and_then_anew(store: Store, clock: FakeClock) -> None:
    first, _ = enqueue(store, once("key"))
    clock.advance(KEY_SECONDS - 1)
    assert enqueue(store, once("key")) == (first, False)
    assert store.recorded_for(once("key")) == first
    with pytest.raises(KeyReused):
        enqueue(store, once("key", "other"))
    with pytest.raises(KeyReused):
        store.recorded_for(once("key", "other"))
    clock.advance(1)
    assert store.recorded_for(once("key")) is None
    second, is_new = enqueue(store, once("key", "other"))
    assert is_new
    assert enqueue(store, once("key", "other")) == (second, False)


def test_key_outlives_its_execution(store: Store, sql: sqlite3.Connection) -> None:
    first, _ = enqueue(store, once("key"))
    sql.execute("DELETE FROM executions")
    assert enqueue(store, once("key")) == (first, False)
    assert contents(sql) == []


def test_key_is_recorded_with_its_execution_or_not_at_all(store: Store, sql: sqlite3.Connection) -> None:
    refuse_writes(sql)
    with pytest.raises(StoreError):
        enqueue(store, once("key"))
    accept_writes(sql)
    assert keys(sql) == []
    assert enqueue(store, once("key"))[1]


def test_same_key_in_one_shared_commit_and_from_two_processes_is_one_execution(
    store: Store, path: Path, clock: FakeClock
) -> None:
    """Two stores are to the file what two processes are."""
    with closing(Store(path, clock)) as other, ThreadPoolExecutor(16) as pool:
        for number in range(20):
            results = [pool.submit(enqueue, each, once(f"{number}")) for each in (store, other) * 8]
            assert len({result.result(30)[0] for result in results}) == 1
            assert sum(result.result()[1] for result in results) == 1


def test_refused_key_does_not_take_its_group_along(store: Store) -> None:
    enqueue(store, once("key"))
    with ThreadPoolExecutor(16) as pool:
        results = [pool.submit(enqueue, store, once("key", "other") if odd else None) for odd in (0, 1) * 8]
    assert [result.exception() is None for result in results] == [True, False] * 8


def test_expired_keys_are_removed_in_small_steps_and_never_pile_up(
    store: Store, sql: sqlite3.Connection, clock: FakeClock
) -> None:
    for number in range(3 * REMOVED_AT_ONCE):
        enqueue(store, once(f"old {number:02}"))
        clock.advance(1)
    clock.advance(KEY_SECONDS)
    for round_ in (1, 2, 3):
        enqueue(store, once(f"new {round_}"))
        left = [key for key in keys(sql) if key.startswith("old")]
        assert left == [f"old {number:02}" for number in range(REMOVED_AT_ONCE * round_, 3 * REMOVED_AT_ONCE)]
    assert keys(sql) == ["new 1", "new 2", "new 3"]


def test_submit_without_a_key_has_nothing_to_do_with_keys(store: Store, sql: sqlite3.Connection) -> None:
    sql.execute("DROP TABLE idempotency_keys")
    assert store.get(submit(store))


@pytest.mark.parametrize("query", ["get_key", "delete_expired_keys"])
def test_queries_of_keys_search_and_do_not_scan(sql: sqlite3.Connection, query: str) -> None:
    values = {"key": "key", "expired": 1, "most": 8}
    text = database.load_queries()[query]
    used = {name: value for name, value in values.items() if f":{name}" in text}
    plan = [row["detail"] for row in sql.execute(f"EXPLAIN QUERY PLAN {text}", used)]
    assert not [step for step in plan if step.startswith("SCAN idempotency_keys")], plan
    assert [step for step in plan if step.startswith("SEARCH idempotency_keys")], plan
