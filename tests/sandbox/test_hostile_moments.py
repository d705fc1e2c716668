"""Things that happen at one moment: an agent's exit, its timeout, cancels, and the death of who should end it."""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.helpers import siege
from tests.helpers.control_groups import groups_of
from tests.helpers.processes import descendants, wait_for_exit
from tests.helpers.server import RunningServer
from tests.helpers.siege import assert_nothing_is_left, submit
from tests.helpers.wait import patience

FINAL = ("COMPLETED", "FAILED", "CANCELED")

RACES = 100

STORMS = 3
CANCELS = 100


# -- an exit and cancels ----------------------------------------------------------------------------------------------


def wait_busily(until: float) -> None:
    """Wait more exactly than a sleep can. Args: until: in seconds since the epoch."""
    while time.time() < until:
        pass


def seconds_of_a_run(server: RunningServer) -> float:
    """Return how long a run takes from its submit to its end."""
    execution = server.run("ok")
    submitted, ended = (datetime.fromisoformat(execution[name]) for name in ("created_at", "completed_at"))
    return (ended - submitted).total_seconds()


def assert_one_end(server: RunningServer, execution_id: str) -> str:
    """Check that an execution has gone one way to one end, and that nothing has changed it since; return its status."""
    execution = server.wait_for_end(execution_id)
    statuses = server.statuses(execution_id)
    assert statuses in (
        ["PENDING", "CANCELED"],
        *(["PENDING", "RUNNING", status] for status in ("COMPLETED", "FAILED")),
        *(["PENDING", "RUNNING", "CANCEL_REQUESTED", status] for status in ("COMPLETED", "CANCELED")),
    )
    assert statuses[-1] == execution["status"]
    assert (execution["final_result"] is not None) == (execution["status"] == "COMPLETED")
    assert len(server.events(execution_id, "kill")) <= 1
    return str(execution["status"])


def test_cancel_at_the_moment_of_the_exit_has_one_end(server: RunningServer) -> None:
    ends = []
    delay = seconds_of_a_run(server)
    for _ in range(RACES):
        execution_id = server.submit("ok")
        wait_busily(time.time() + delay)
        answer = server.cancel(execution_id)
        status = assert_one_end(server, execution_id)
        told = answer.json()["status"]
        assert (answer.status_code, told) == (202, "cancel_requested") or (200, told) == (200, status.lower())
        # Whoever has won has it a little harder next time, so that most races are close.
        delay *= 1.15 if status == "CANCELED" else 0.85
        ends.append(status)
    assert min(ends.count(status) for status in ("COMPLETED", "CANCELED")) >= RACES / 10, ends
    assert set(ends) == {"COMPLETED", "CANCELED"}


def cancel_often(server: RunningServer, execution_id: str) -> None:
    # A client of its own that keeps all connections: with fewer than there are threads it may close one that another
    # thread has just been given.
    with (
        httpx.Client(base_url=server.url, timeout=patience(30), verify=False) as http,
        ThreadPoolExecutor(12) as threads,
    ):
        answers = threads.map(lambda _: http.post(f"/executions/{execution_id}/cancel"), range(CANCELS))
        assert {answer.status_code for answer in answers} <= {200, 202}


def test_storm_of_cancels_at_timeout_and_exit_has_one_end(besieged: RunningServer) -> None:
    ends = []
    for number in range(STORMS):
        execution_id = submit(besieged, "end_at_the_deadline", agent="brief")
        deadline = besieged.wait_for_progress(execution_id)
        wait_busily(deadline - 0.02 * number)
        cancel_often(besieged, execution_id)
        ends.append(assert_one_end(besieged, execution_id))
    assert set(ends) <= set(FINAL)
    assert_nothing_is_left(besieged)


# -- the death of who should end it -----------------------------------------------------------------------------------


# For the user that runs these tests, test_lifecycle.py has the like.
@pytest.mark.parametrize("user", siege.USERS[-1:])
def test_daemons_do_not_outlive_whoever_of_the_server_is_killed(host_folder: Path, user: str) -> None:
    folder = host_folder / f"killed {user}"
    siege.prepare(folder, user)
    with siege.serve(folder, user, orphan_timeout_seconds=0) as server:
        launcher = server.launcher_pid
        lost = [kill(server, [launcher], server.runs)]
        assert_lost(server, lost[0])
        assert_nothing_is_left(server)
        lost.append(kill(server, [server.process.pid], lambda: descendants(server.process.pid)))
    assert not groups_of(launcher)
    with siege.serve(folder, user) as server:
        assert_lost(server, lost[1])
        both = [server.launcher_pid, server.process.pid]
        lost.append(kill(server, both, lambda: descendants(server.process.pid)))
    with siege.serve(folder, user) as server:
        assert_lost(server, lost[2])
        assert_nothing_is_left(server)


def kill(server: RunningServer, victims: list[int], doomed: Callable[[], set[int]]) -> str:
    """Kill processes of a server while daemons live, and wait for the end of all doomed; return the execution's id."""
    execution_id = server.submit("clan")
    server.wait_for_progress(execution_id)
    found = doomed()
    assert len(found) > 5
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    for pid in found:
        wait_for_exit(pid, 5)
    return execution_id


def assert_lost(server: RunningServer, execution_id: str) -> None:
    execution = server.wait_for_end(execution_id)
    assert (execution["status"], execution["termination"]["code"]) == ("FAILED", "LOST")


# -- a jump of the clock ----------------------------------------------------------------------------------------------

# Found by every Python that the server starts with the module "site": all but the launcher, which looks at no clock.
JUMPING = """
import time
told = time.time_ns
def time_ns():
    with open({path!r}) as file:
        return told() + int(file.read() or 0) * 10**9
time.time_ns = time_ns
"""
DAY = 86_400


def test_jumps_of_the_clock_move_no_deadline(tmp_path: Path) -> None:
    jump = tmp_path / "jump"
    jump.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(path=str(jump)))
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    with RunningServer(tmp_path / "data", wrapper=("env", f"PYTHONPATH={path}")) as server:
        patient = siege.begin(server, "ignore_everything")  # for 20 seconds
        for days in (-3, 7):
            jump.write_text(str(days * DAY))
            execution = server.run("half_line_hangs")  # for half a second
            assert execution["termination"]["code"] == "WALL_TIME"
            assert 0.5 <= execution["usage"]["wall_seconds"] < 10
            moved = datetime.fromisoformat(execution["created_at"]) - datetime.now(UTC)
            assert abs(moved.total_seconds() - days * DAY) < 60
            assert server.get(patient)["status"] == "RUNNING"
        assert siege.end(server, patient)["status"] == "CANCELED"
