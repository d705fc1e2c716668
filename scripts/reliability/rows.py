"""Databases with many rows, written as fast as SQLite takes them: through the schema, past the server."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from supervisor import database
from supervisor.models import new_execution_id

# Waiting executions are those of so many agents.
AGENTS = 20

# Of now: a server removes what has ended long ago.
_INSTANT = time.time_ns() // 1000
_TERMINATION = json.dumps({"code": "EXITED_OK", "message": "", "by": "agent", "at": _INSTANT})

_ENDED = """
INSERT INTO executions (id, agent_id, agent_name, status, priority, payload, attempt,
                        created_at, started_at, completed_at, final_result, termination)
VALUES (?, ?, ?, 'COMPLETED', ?, '{}', 1, ?, ?, ?, '{}', ?)"""

_WAITING = """
INSERT INTO executions (id, agent_id, agent_name, priority, payload, created_at) VALUES (?, ?, ?, ?, '{}', ?)"""

# Of all executions that are there.
_ATTEMPTS_OF_ENDED = """
INSERT INTO attempts (execution_seq, attempt, node, boot, epoch, claimed_at, ended_at, termination)
SELECT seq, 1, 'local', 'boot', 'epoch', started_at, completed_at, termination FROM executions"""

_EVENTS = """
INSERT INTO events (execution_seq, attempt, kind, data, at)
SELECT seq, attempt, 'status', json_object('status', value), created_at FROM executions, json_each(?)"""


def write_ended(path: Path, count: int) -> None:
    """Make a database of executions that have completed."""
    rows = ((*row, _INSTANT, _INSTANT, _TERMINATION) for row in _executions(count))
    _write(path, (_ENDED, rows), _ATTEMPTS_OF_ENDED, ["PENDING", "RUNNING", "COMPLETED"])


def write_waiting(path: Path, count: int) -> None:
    """Make a database of executions that wait, of several agents and of all priorities."""
    _write(path, (_WAITING, _executions(count)), "", ["PENDING"])


def _executions(count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(count):
        agent = f"agent-{number % AGENTS}"
        yield new_execution_id(), agent, agent, number % 101, _INSTANT


def _write(path: Path, executions: tuple[str, Iterator[tuple[Any, ...]]], attempts: str, statuses: list[str]) -> None:
    with closing(database.open_current(path, _INSTANT)) as connection:
        # Nobody loses anything if this does not live to its end.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        connection.executemany(*executions)
        connection.execute(attempts)
        connection.execute(_EVENTS, [json.dumps(statuses)])
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
