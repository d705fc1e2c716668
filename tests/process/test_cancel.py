"""Cancel, from the request to the proof that nothing lives."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

T = TypeVar("T")

# Of the agent "tree".
GRACE_MS = 100


def start_tree(server: RunningServer, lifeline: Lifeline, shape: str, processes: int) -> str:
    """Return the id of an execution whose processes have all come to life."""
    execution_id = server.submit("tree", shape=shape, lifeline=lifeline.path)
    lifeline.wait_for("here", processes)
    return execution_id


def start_patient(server: RunningServer, lifeline: Lifeline, gate: Gate, **input: Any) -> str:
    execution_id = server.submit("patient", lifeline=lifeline.path, gate=gate.path, **input)
    lifeline.wait_for("here")
    return execution_id


def assert_accepted(server: RunningServer, execution_id: str) -> None:
    """Cancel an execution that has not ended."""
    answer = server.cancel(execution_id)
    assert answer.status_code == 202
    assert answer.json() == {"status": "cancel_requested", "execution_id": execution_id}


def in_threads(server: RunningServer, call: Callable[[httpx.Client, int], T]) -> list[T]:
    """Make a hundred calls, a dozen at a time, and return what they returned.

    The client is one of their own that keeps all connections: with fewer than there are threads it may close one that
    another thread has just been given.
    """
    with (
        httpx.Client(base_url=server.url, timeout=30, verify=False) as http,
        ThreadPoolExecutor(12) as threads,
    ):
        return list(threads.map(partial(call, http), range(100)))


# -- pending ----------------------------------------------------------------------------------------------------------


def test_cancel_pending_is_canceled_at_once_and_never_launched(server: RunningServer, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    ids = [server.submit("single", witness=str(witness)) for _ in range(3)]
    wait_until(witness.exists)
    assert_accepted(server, ids[1])
    execution = server.get(ids[1])
    assert (execution["status"], execution["attempt"], execution["started_at"]) == ("CANCELED", 0, None)
    assert (execution["termination"]["code"], execution["termination"]["by"]) == ("CANCELED", "client")
    assert execution["error_log"] == "It was canceled before it was started."
    assert (execution["kill"], execution["usage"]) == (None, None)
    # The third one runs when the first is gone: the second has had its turn.
    for running in (ids[0], ids[2]):
        wait_until(lambda running=running: running in witness.read_text())
        server.cancel(running)
        server.wait_for(running, "CANCELED")
    assert witness.read_text().split() == [ids[0], ids[2]]
    assert server.statuses(ids[1]) == ["PENDING", "CANCELED"]


def test_cancel_pending_a_hundred_times_at_once_ends_it_once(server: RunningServer, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    busy, pending = (server.submit("single", witness=str(witness)) for _ in range(2))
    server.wait_for(busy, "RUNNING")
    assert set(cancel_a_hundred_times(server, pending)) <= {(202, "cancel_requested"), (200, "canceled")}
    assert server.statuses(pending) == ["PENDING", "CANCELED"]
    server.cancel(busy)
    server.wait_for(busy, "CANCELED")


def test_cancel_right_after_submit_one_that_never_started_left_no_trace(server: RunningServer, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    def race(http: httpx.Client, _: int) -> str:
        body = {"agent_id": "witness", "input": {"witness": str(witness)}}
        execution_id = http.post("/executions/run", json=body).json()["execution_id"]
        http.post(f"/executions/{execution_id}/cancel")
        return str(execution_id)

    executions = [server.wait_for_end(execution_id) for execution_id in in_threads(server, race)]
    ran = set(witness.read_text().split()) if witness.exists() else set()
    assert {execution["status"] for execution in executions} <= {"CANCELED", "COMPLETED"}
    for execution in executions:
        if execution["status"] == "COMPLETED":
            assert execution["execution_id"] in ran
        if execution["started_at"] is None:
            assert execution["execution_id"] not in ran


# -- running ----------------------------------------------------------------------------------------------------------


def test_cancel_running_goes_through_cancel_requested_to_canceled(
    server: RunningServer, lifeline: Lifeline, gate: Gate
) -> None:
    execution_id = start_patient(server, lifeline, gate)
    assert_accepted(server, execution_id)
    lifeline.wait_for("asked")
    stopping = server.get(execution_id)
    assert stopping["status"] == "CANCEL_REQUESTED"
    assert (stopping["completed_at"], stopping["termination"], stopping["kill"]) == (None, None, None)
    gate.open()
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    assert server.statuses(execution_id) == ["PENDING", "RUNNING", "CANCEL_REQUESTED", "CANCELED"]
    assert (execution["termination"]["code"], execution["termination"]["by"]) == ("CANCELED", "client")
    assert (execution["termination"]["exit_code"], execution["final_result"]) == (0, None)
    assert execution["error_log"] == "It was canceled by the client."


def test_cancel_tree_that_obeys_is_only_asked(server: RunningServer, lifeline: Lifeline) -> None:
    execution_id = start_tree(server, lifeline, "obedient", 2)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    kill = execution["kill"]
    assert kill.keys() == {"method", "signaled", "killed", "survivors", "duration_ms", "verified_empty_at"}
    assert (kill["method"], kill["signaled"], kill["killed"], kill["survivors"]) == ("terminate", 2, 0, 0)
    assert execution["started_at"] < kill["verified_empty_at"] <= execution["completed_at"]
    assert execution["termination"]["signal"] == 15
    assert server.events(execution_id, "kill")[0]["signaled"] == 2


def test_cancel_stopped_tree_is_continued_and_only_asked(server: RunningServer, lifeline: Lifeline) -> None:
    execution_id = start_tree(server, lifeline, "stopped", 2)
    wait_until(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in server.runs()))
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    assert (execution["status"], execution["kill"]["method"]) == ("CANCELED", "terminate")


def test_cancel_tree_that_has_stopped_the_runs_init_continues_it(server: RunningServer, lifeline: Lifeline) -> None:
    execution_id = start_tree(server, lifeline, "stop_the_parent", 1)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    assert (execution["status"], execution["kill"]["method"]) == ("CANCELED", "terminate")
    assert execution["termination"]["signal"] == 15


# Shape, number of its processes, and how many of them survive SIGTERM.
STUBBORN = [
    ("deaf", 1, 1),
    ("deaf_child", 2, 1),
    ("sessions", 3, 2),
    ("daemon", 2, 2),
    ("groups", 41, 41),
    ("stop_again_and_again", 1, 1),
    ("chain", 12, 12),
    ("twenty_one", 21, 21),
    ("replace_the_dead", 41, 41),
]


@pytest.mark.parametrize(("shape", "processes", "deaf"), STUBBORN)
def test_cancel_tree_that_does_not_obey_is_killed_after_the_grace_period(
    server: RunningServer, lifeline: Lifeline, shape: str, processes: int, deaf: int
) -> None:
    execution_id = start_tree(server, lifeline, shape, processes)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    kill = execution["kill"]
    assert (execution["status"], kill["method"]) == ("CANCELED", "kill")
    assert (kill["signaled"], kill["killed"], kill["survivors"]) == (processes, deaf, 0)
    assert kill["duration_ms"] >= GRACE_MS


@pytest.mark.parametrize("shape", ["bomb", "hopper", "session_hopper"])
def test_cancel_tree_that_keeps_forking_is_killed_to_the_last(
    server: RunningServer, lifeline: Lifeline, shape: str
) -> None:
    execution_id = start_tree(server, lifeline, shape, 1)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert lifeline.ended()
    assert (execution["status"], execution["kill"]["method"]) == ("CANCELED", "kill")
    assert execution["kill"]["survivors"] == 0


def test_cancel_several_at_once_ends_each(server: RunningServer, tmp_path: Path) -> None:
    lifelines = [Lifeline(tmp_path / f"lifeline-{number}") for number in range(6)]
    ids = [start_tree(server, lifeline, "daemon", 2) for lifeline in lifelines]
    for execution_id in ids:
        assert_accepted(server, execution_id)
    for execution_id, lifeline in zip(ids, lifelines, strict=True):
        assert server.wait_for_end(execution_id)["status"] == "CANCELED"
        assert lifeline.ended()
        lifeline.close()


# -- more than once ---------------------------------------------------------------------------------------------------


def cancel_a_hundred_times(server: RunningServer, execution_id: str) -> list[tuple[int, str]]:
    """Return (status code, status) of each answer."""

    def cancel(http: httpx.Client, _: int) -> tuple[int, str]:
        answer = http.post(f"/executions/{execution_id}/cancel")
        return answer.status_code, answer.json()["status"]

    return in_threads(server, cancel)


def test_cancel_one_that_is_being_stopped_is_accepted_and_changes_nothing(
    server: RunningServer, lifeline: Lifeline, gate: Gate
) -> None:
    execution_id = start_patient(server, lifeline, gate)
    assert cancel_a_hundred_times(server, execution_id) == [(202, "cancel_requested")] * 100
    lifeline.wait_for("asked")
    assert_accepted(server, execution_id)
    gate.open()
    assert server.wait_for_end(execution_id)["status"] == "CANCELED"
    assert lifeline.lines == ["here", "asked"]
    assert server.statuses(execution_id) == ["PENDING", "RUNNING", "CANCEL_REQUESTED", "CANCELED"]
    assert len(server.events(execution_id, "kill")) == 1


def test_cancel_a_hundred_times_while_it_dies_ends_it_once(server: RunningServer, lifeline: Lifeline) -> None:
    execution_id = start_tree(server, lifeline, "obedient", 2)
    assert set(cancel_a_hundred_times(server, execution_id)) <= {(202, "cancel_requested"), (200, "canceled")}
    assert server.wait_for_end(execution_id)["status"] == "CANCELED"
    assert server.statuses(execution_id) == ["PENDING", "RUNNING", "CANCEL_REQUESTED", "CANCELED"]
    assert len(server.events(execution_id, "kill")) == 1


def completed(server: RunningServer) -> str:
    return str(server.run("ok")["execution_id"])


def failed(server: RunningServer) -> str:
    return str(server.run("import_fails")["execution_id"])


def canceled(server: RunningServer) -> str:
    execution_id = server.submit("single", witness="/dev/null")
    server.cancel(execution_id)
    server.wait_for_end(execution_id)
    return execution_id


@pytest.mark.parametrize("ended", [completed, failed, canceled])
def test_cancel_after_the_end_tells_the_end_and_changes_nothing(server: RunningServer, ended: Any) -> None:
    execution_id = ended(server)
    before = server.get(execution_id)
    statuses = server.statuses(execution_id)
    answer = server.cancel(execution_id)
    assert answer.status_code == 200
    assert answer.json() == {"status": ended.__name__, "execution_id": execution_id}
    assert server.get(execution_id) == before
    assert server.statuses(execution_id) == statuses


@pytest.mark.parametrize("execution_id", [str(uuid.UUID(int=1)), "not-a-uuid"])
def test_cancel_unknown_is_not_found(server: RunningServer, execution_id: str) -> None:
    assert server.cancel(execution_id).status_code == 404


# -- a result that came before or after -------------------------------------------------------------------------------


def test_cancel_after_the_whole_result_was_read_lets_it_stand(
    server: RunningServer, lifeline: Lifeline, gate: Gate
) -> None:
    execution_id = start_patient(server, lifeline, gate, result="at once")
    # What came before this on another pipe has been read too.
    wait_until(lambda: server.logs(execution_id)["text"] == "given\n")
    assert_accepted(server, execution_id)
    lifeline.wait_for("asked")
    assert server.get(execution_id)["status"] == "CANCEL_REQUESTED"
    gate.open()
    execution = server.wait_for_end(execution_id)
    assert (execution["status"], execution["final_result"]) == ("COMPLETED", {"given": True})
    assert (execution["termination"]["code"], execution["error_log"]) == ("EXITED_OK", None)
    assert execution["kill"]["method"] == "terminate"


def test_cancel_result_that_is_given_on_sigterm_does_not_count(
    server: RunningServer, lifeline: Lifeline, gate: Gate
) -> None:
    execution_id = start_patient(server, lifeline, gate, result="after SIGTERM")
    server.cancel(execution_id)
    lifeline.wait_for("asked")
    gate.open()
    execution = server.wait_for_end(execution_id)
    assert (execution["status"], execution["final_result"]) == ("CANCELED", None)
    assert execution["termination"]["code"] == "CANCELED"
