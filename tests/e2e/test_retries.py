"""Attempts over the deaths of the server's processes: lost runs are tried again if their agents say so, and once."""

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.processes import descendants, lives, wait_for_exit
from tests.helpers.server import RunningServer


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(tmp_path / "data", "--max-running", "4") as running:
        yield running


def kill_all(server: RunningServer) -> None:
    """End every process of the server at once, as far as that is possible."""
    everybody = descendants(server.process.pid)
    server.process.kill()
    for pid in everybody:
        wait_for_exit(pid, 5.0)


def codes(execution: dict[str, object]) -> list[str]:
    return [attempt["termination"]["code"] for attempt in execution["attempts"]]  # type: ignore[attr-defined]


def test_killed_launcher_takes_a_run_with_it_that_is_then_run_again_to_its_own_result(own: RunningServer) -> None:
    plain = own.submit("sleeper")
    again = own.submit("stubborn", word="mine")
    daemon = own.wait_for_progress(again)["daemon"]
    own.wait_for_progress(plain)
    runs, launcher = own.runs(), own.launcher_pid
    assert daemon in runs
    os.kill(launcher, signal.SIGKILL)
    execution = own.wait_for_end(again)
    assert (execution["status"], execution["final_result"]) == ("COMPLETED", {"attempt": 2, "word": "mine"})
    assert codes(execution) == ["LOST", "EXITED_OK"]
    assert not [pid for pid in runs if lives(pid)]
    assert own.launcher_pid != launcher
    lost = own.wait_for_end(plain)
    assert (lost["status"], codes(lost)) == ("FAILED", ["LOST"])
    assert own.statuses(again) == ["PENDING", "RUNNING", "PENDING", "RUNNING", "COMPLETED"]


def test_stopped_server_leaves_a_run_that_the_next_one_tries_again(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        execution_id = server.submit("stubborn")
        server.wait_for_progress(execution_id)
        assert server.stop() == 0
    with RunningServer(tmp_path / "data") as server:
        execution = server.wait_for_end(execution_id)
        assert (execution["status"], codes(execution)) == ("COMPLETED", ["STOPPED", "EXITED_OK"])


def test_one_that_waits_for_another_attempt_still_does_after_everything_was_killed_and_is_due_when_it_was(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with RunningServer(data, orphan_timeout_seconds=0) as server:
        late, soon = server.submit("someday"), server.submit("someday")
        waiting = server.wait_for_retry(late)
        server.wait_for_retry(soon)
        kill_all(server)
    due = time.time_ns() // 1000 + 2_000_000
    with closing(sqlite3.connect(data / "corral.db", isolation_level=None)) as database:
        database.execute("UPDATE executions SET not_before = ? WHERE id = ?", (due, soon))
    with RunningServer(data) as server:
        execution = server.wait_for_end(soon)
        assert (execution["status"], codes(execution)) == ("COMPLETED", ["AGENT_ERROR", "EXITED_OK"])
        with closing(sqlite3.connect(data / "corral.db")) as database:
            ((started,),) = database.execute("SELECT claimed_at FROM attempts WHERE attempt = 2")
        assert started >= due
        assert server.get(late) == waiting
