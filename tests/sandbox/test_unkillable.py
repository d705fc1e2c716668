"""Runs that outlive SIGKILL: they are told of, keep their slot and are recorded when they end; all else goes on."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.freezer import Freezer, freezer
from tests.helpers.processes import lives, wait_for_exit
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

# The server with less patience: what follows in its command is the interpreter and "-m".
IMPATIENT = """
import sys
from supervisor.machine import stopper
stopper.STUCK_SECONDS = 0.5
stopper.STUCK_ROUND_SECONDS = 0.2
from supervisor.cli import commands
sys.argv = sys.argv[3:]
commands.main()
"""


@pytest.fixture
def ice() -> Iterator[Freezer]:
    with freezer() as made:
        yield made


def impatient(data: Path, *flags: str) -> RunningServer:
    return RunningServer(data, *flags, wrapper=(sys.executable, "-c", IMPATIENT))


def freeze_run(server: RunningServer, ice: Freezer, agent: str) -> str:
    """Start a run and freeze all of it but its init; return its execution's id."""
    execution_id = server.submit(agent)
    server.wait_for_progress(execution_id)
    ice.freeze(server.runs())
    return execution_id


def alerts(server: RunningServer) -> list[dict[str, Any]]:
    return list(server.http.get("/admin/health").json()["alerts"])


def wait_until_unkillable(server: RunningServer, execution_id: str) -> dict[str, Any]:
    def told() -> dict[str, Any] | None:
        execution = server.get(execution_id)
        return execution if execution["unkillable_since"] else None

    return wait_until(told)


def test_freezer_holds_what_is_killed(ice: Freezer) -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        ice.freeze([pid])
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(AssertionError):
            wait_for_exit(pid, 0.2)
    finally:
        ice.thaw()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("agent", ["clan", "sleeper"], ids=["sandboxed", "trusted"])
def test_unkillable_run_stays_live_is_told_of_and_ends_when_the_kernel_lets_go(
    tmp_path: Path, ice: Freezer, agent: str
) -> None:
    with impatient(tmp_path / "data") as server:
        execution_id = freeze_run(server, ice, agent)
        assert server.get(execution_id)["unkillable_since"] is None
        assert alerts(server) == []
        server.cancel(execution_id)
        execution = wait_until_unkillable(server, execution_id)
        assert execution["status"] == "CANCEL_REQUESTED"
        assert alerts(server) == [
            {"kind": "unkillable", "execution_id": execution_id, "since": execution["unkillable_since"]}
        ]
        assert server.http.get("/admin/health").json()["status"] == "ok"
        assert server.run("ok")["status"] == "COMPLETED"
        assert server.get(execution_id)["status"] == "CANCEL_REQUESTED"
        ice.thaw()
        ended = server.wait_for_end(execution_id)
        assert (ended["status"], ended["termination"]["code"]) == ("CANCELED", "CANCELED")
        assert ended["unkillable_since"] == execution["unkillable_since"]
        assert ended["kill"]["survivors"] == 0
        assert ended["kill"]["duration_ms"] > 500
        assert alerts(server) == []
        assert len(server.events(execution_id, "unkillable")) == 1
        assert server.errors().count("processes survive SIGKILL") == 1


def test_unkillable_run_keeps_its_slot(tmp_path: Path, ice: Freezer) -> None:
    with impatient(tmp_path / "data", "--max-running", "1") as server:
        execution_id = freeze_run(server, ice, "clan")
        waiting = server.submit("ok")
        server.cancel(execution_id)
        wait_until_unkillable(server, execution_id)
        # Asked for after the fact: the loop has looked for what may start once more.
        assert server.cancel(server.submit("ok")).status_code == 202
        assert server.get(waiting)["status"] == "PENDING"
        ice.thaw()
        assert server.wait_for_end(waiting)["status"] == "COMPLETED"
        assert server.get(execution_id)["status"] == "CANCELED"


def test_server_with_an_unkillable_run_ends_in_time_and_the_next_one_records_it(tmp_path: Path, ice: Freezer) -> None:
    with impatient(tmp_path / "data") as server:
        execution_id = freeze_run(server, ice, "clan")
        frozen = server.runs()
        server.cancel(execution_id)
        wait_until_unkillable(server, execution_id)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(server.process.pid, 15)
        assert time.monotonic() - began < 15
        assert all(map(lives, frozen))
    with RunningServer(tmp_path / "data") as successor:
        ended = successor.get(execution_id)
        assert ended["status"] == "CANCELED"
        assert "could not be killed" in ended["termination"]["message"]
        assert successor.run("ok")["status"] == "COMPLETED"
        assert all(map(lives, frozen))
        ice.thaw()
        for pid in frozen:
            wait_for_exit(pid)


@pytest.mark.parametrize("agent", ["clan", "sleeper"], ids=["sandboxed", "trusted"])
def test_unkillable_run_is_watched_on_by_the_supervisor_that_takes_over(
    tmp_path: Path, ice: Freezer, agent: str
) -> None:
    first = impatient(tmp_path / "data")
    execution_id = freeze_run(first, ice, agent)
    first.cancel(execution_id)
    since = wait_until_unkillable(first, execution_id)["unkillable_since"]
    first.kill()
    try:
        with impatient(tmp_path / "data", "--max-running", "1") as second:
            assert [alert["since"] for alert in alerts(second)] == [since]
            waiting = second.submit("ok")
            wait_until(lambda: "processes survive SIGKILL" in second.errors())
            assert second.get(execution_id)["status"] == "CANCEL_REQUESTED"
            assert second.get(waiting)["status"] == "PENDING"
            ice.thaw()
            assert second.wait_for_end(execution_id)["status"] == "CANCELED"
            assert second.wait_for_end(waiting)["status"] == "COMPLETED"
            assert len(second.events(execution_id, "unkillable")) == 1
    finally:
        ice.thaw()
        first.stop()


def test_unkillable_run_of_a_launcher_that_dies_ends_when_the_kernel_lets_go(tmp_path: Path, ice: Freezer) -> None:
    with impatient(tmp_path / "data") as server:
        execution_id = freeze_run(server, ice, "clan")
        bystander = server.submit("clan")
        server.wait_for_progress(bystander)
        os.kill(server.launcher_pid, signal.SIGKILL)
        wait_until_unkillable(server, execution_id)
        assert server.wait_for_end(bystander)["termination"]["code"] == "LOST"
        assert server.run("ok")["status"] == "COMPLETED"
        assert server.get(execution_id)["status"] == "RUNNING"
        ice.thaw()
        assert server.wait_for_end(execution_id)["termination"]["code"] == "LOST"
        assert server.get(bystander)["unkillable_since"] is None
