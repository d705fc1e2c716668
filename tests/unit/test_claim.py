"""Who is claimed next, and what finding that out costs."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import database
from supervisor.states import Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.unit.builders import claim, end, submit

QUERIES = database.load_queries()
AGENTS = ("a", "b", "c")


def claim_all(store: Store, *full_agents: str) -> list[str]:
    """Return the ids of all that can be claimed, in the order in which they are."""
    claimed = []
    while next_one := claim(store, *full_agents):
        claimed.append(next_one.execution_id)
    return claimed


# -- order -------------------------------------------------------------------------------------------------------------


def test_claim_nothing_waits_gives_none(store: Store) -> None:
    assert claim(store) is None


def test_claim_gives_what_is_needed_to_launch(store: Store, clock: FakeClock) -> None:
    execution_id = submit(store, agent_id="a", payload='{"question":"?"}')
    clock.advance(60)
    claimed = claim(store)
    assert claimed is not None
    assert (claimed.execution_id, claimed.attempt, claimed.agent_id) == (
        execution_id,
        1,
        "a",
    )
    assert claimed.payload == '{"question":"?"}'
    execution = store.get(execution_id)
    assert (execution.status, execution.attempt, execution.started_at) == (
        Status.RUNNING,
        1,
        clock.now(),
    )


def test_claim_higher_priority_goes_first_whatever_its_agent_and_age(
    store: Store,
) -> None:
    low, middle, high = (submit(store, agent, priority) for agent, priority in (("b", 0), ("c", 50), ("a", 100)))
    assert claim_all(store) == [high, middle, low]


def test_claim_same_priority_older_goes_first_whatever_its_agent(store: Store) -> None:
    waiting = [submit(store, agent) for agent in ("c", "a", "b", "c", "a")]
    assert claim_all(store) == waiting


def test_claim_skips_full_agents_and_leaves_them_waiting(store: Store) -> None:
    first_of_a, of_b, second_of_a, of_c = (submit(store, agent) for agent in ("a", "b", "a", "c"))
    assert claim_all(store, "a", "c", "unknown") == [of_b]
    assert claim_all(store, "c") == [first_of_a, second_of_a]
    assert claim_all(store) == [of_c]


def test_claim_takes_only_what_waits(store: Store) -> None:
    canceled, running, waiting = (
        submit(store, priority=100),
        submit(store, priority=90),
        submit(store),
    )
    store.cancel(canceled)
    assert claim_all(store) == [running, waiting]
    end(store, running)
    assert claim_all(store) == []


@given(
    submissions=st.lists(
        st.tuples(st.sampled_from(AGENTS), st.integers(0, 100) | st.just(50)),
        max_size=12,
    ),
    full_agents=st.sets(st.sampled_from(AGENTS)),
)
def test_claim_order_is_priority_then_age_among_agents_that_are_not_full(
    fresh_store: Store, submissions: list[tuple[str, int]], full_agents: set[str]
) -> None:
    numbers = {submit(fresh_store, *submission): number for number, submission in enumerate(submissions)}
    claimed = [numbers[execution_id] for execution_id in claim_all(fresh_store, *full_agents)]
    expected = [number for number, (agent, _) in enumerate(submissions) if agent not in full_agents]
    assert claimed == sorted(expected, key=lambda number: (-submissions[number][1], number))
    assert len(claim_all(fresh_store)) == len(submissions) - len(claimed)


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples: each claims whatever it has submitted."""
    with closing(Store(tmp_path_factory.mktemp("claims") / "corral.db", FakeClock())) as store:
        yield store


# -- cost --------------------------------------------------------------------------------------------------------------


class AnyValue(dict[str, str | int]):
    """Values for the parameters of any query."""

    def __missing__(self, name: str) -> int:
        return 1


def plan(sql: sqlite3.Connection, query: str) -> list[str]:
    return [row["detail"] for row in sql.execute(f"EXPLAIN QUERY PLAN {query}", AnyValue(full_agents="[]"))]


@pytest.mark.parametrize("name", QUERIES)
def test_query_reads_no_table_from_end_to_end(sql: sqlite3.Connection, name: str) -> None:
    scans = [
        detail for detail in plan(sql, QUERIES[name]) if re.match(r"SCAN (executions|attempts|events|[ea])\b", detail)
    ]
    assert scans == []


def test_claim_is_one_statement_that_searches_the_queue_in_its_order(
    sql: sqlite3.Connection,
) -> None:
    assert QUERIES["claim"].count(";") == 1
    steps = plan(sql, QUERIES["claim"])
    queue = [step for step in steps if "executions_waiting" in step]
    assert len(queue) == 3
    assert all(step.startswith("SEARCH executions USING INDEX executions_waiting") for step in queue)
    # Only the firsts in line, one for each agent that waits, are put in order.
    assert [step for step in steps if "TEMP B-TREE" in step] == ["USE TEMP B-TREE FOR ORDER BY"]
    assert steps[-1] == "USE TEMP B-TREE FOR ORDER BY"


FAST = {
    "journal_mode": "OFF",
    "synchronous": "OFF",
    "ignore_check_constraints": "ON",
    "cache_size": -400_000,
}


def fill(path: Path, agents: int, rows: int) -> None:
    """Put so many waiting executions in a database, of all priorities, in a moment: nothing is checked or synced.

    Of many, those of the higher priorities wait for their time to be tried again.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name, value in FAST.items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.execute(
            """
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number LIMIT :rows)
            INSERT INTO executions (id, agent_id, agent_name, priority, payload, created_at, not_before)
            SELECT printf('%036d', n), 'agent-' || (n % :agents), 'agent', n / 1000 % 101, '{}', n,
                   CASE WHEN n / 1000 % 101 > 50 THEN 1 << 60 END
            FROM number
            """,
            {"agents": agents, "rows": rows},
        )


def effort(path: Path, query: str, full_agents: str = "[]") -> int:
    """Return how many steps SQLite's virtual machine takes for one query, which is not committed."""
    steps = count()
    with closing(database.connect(path)) as connection:
        values = AnyValue(full_agents=full_agents)
        connection.execute("BEGIN IMMEDIATE")
        connection.set_progress_handler(lambda: next(steps) * 0, 1)
        connection.execute(query, values).fetchall()
        connection.set_progress_handler(None, 1)
        connection.execute("ROLLBACK")
    return next(steps)


def test_claim_and_cancel_cost_the_same_with_a_thousand_and_a_million_waiting(
    tmp_path: Path,
) -> None:
    efforts = defaultdict(list)
    for rows in (1_000, 1_000_000):
        path = tmp_path / f"{rows}.db"
        Store(path, FakeClock()).close()
        fill(path, agents=10, rows=rows)
        efforts["claim"].append(effort(path, QUERIES["claim"]))
        efforts["with full agents"].append(effort(path, QUERIES["claim"], '["agent-0", "agent-5"]'))
        efforts["cancel requests"].append(effort(path, QUERIES["list_cancel_requested"]))
        efforts["next to be tried again"].append(effort(path, QUERIES["get_first_not_before"]))
        path.unlink()
    for name, (few, many) in efforts.items():
        assert few > 0, name
        assert many == pytest.approx(few, rel=0.1, abs=5), name
    assert efforts["claim"][1] < 2_000
