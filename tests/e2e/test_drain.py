"""The end of a server that lets its runs end first, and what /livez and /readyz say of a server meanwhile."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.command import corral, ready_line, started
from tests.helpers.named_pipes import Gate
from tests.helpers.problems import check
from tests.helpers.processes import lives, wait_for_exit
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def own(data: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(data) as running:
        yield running


def not_ready(server: RunningServer) -> str:
    """Return why the server is not ready. Raises AssertionError: it is, or it is not alive."""
    assert server.http.get("/livez").json() == {"status": "ok"}
    answer = server.http.get("/readyz")
    assert answer.headers["Retry-After"]
    return str(check(answer, 503)["detail"])


def is_ready(server: RunningServer) -> bool:
    return server.http.get("/readyz").status_code == 200


def test_drained_server_ends_with_its_runs_and_keeps_what_waits(data: Path, gate: Gate) -> None:
    with RunningServer(data, "--max-running", "1") as server:
        running = server.submit("gated", gate=gate.path)
        server.wait_for(running, "RUNNING")
        waiting = server.submit("ok", came="before")
        assert is_ready(server)
        with started("drain", "--data", data) as drain:
            assert ready_line(drain) == "The server launches nothing more. Runs that it waits for: 1\n"
            assert not_ready(server) == "cannot be given work: the server is about to end"
            late = server.submit("ok", came="meanwhile")
            assert [server.get(name)["status"] for name in (running, waiting, late)] == [
                *("RUNNING", "PENDING", "PENDING")
            ]
            gate.open()
            out, errors = drain.communicate(timeout=60)
            assert (out, errors, drain.returncode) == ("The server has ended.\n", "", 0)
            wait_for_exit(server.process.pid)
        assert server.stop() == 0
        assert not server.errors()
        assert not list(data.glob("*.sock"))
    with RunningServer(data) as server:
        assert server.get(running)["final_result"] == {"passed": True}
        assert server.wait_for_end(waiting)["final_result"] == {"echo": {"came": "before"}}
        assert server.wait_for_end(late)["final_result"] == {"echo": {"came": "meanwhile"}}
        assert server.get(waiting)["attempt"] == server.get(late)["attempt"] == 1


def test_runs_that_outlast_the_drain_are_stopped_and_run_again_if_they_ask_for_it(data: Path) -> None:
    with RunningServer(data, drain_timeout_seconds=0.3, shutdown_grace_seconds=0.3) as server:
        for_good, again = server.submit("sleeper"), server.submit("stubborn")
        for execution_id in (for_good, again):
            server.wait_for_progress(execution_id)
        runs = server.runs()
        answer = corral("drain", "--data", data)
        assert (answer.returncode, answer.stdout.count("\n")) == (0, 2)
        assert not [pid for pid in runs if lives(pid)]
        wait_for_exit(server.process.pid)
        assert server.stop() == 0
    with RunningServer(data) as server:
        stopped = server.get(for_good)
        assert (stopped["status"], stopped["termination"]["code"]) == ("FAILED", "STOPPED")
        assert server.wait_for_end(again)["final_result"] == {"attempt": 2}


def test_server_set_to_drain_does_so_at_the_first_signal_and_stops_at_the_second(data: Path) -> None:
    settings = data.with_suffix(".toml")
    settings.write_text('on_stop = "drain"')
    with RunningServer(data, "--config", str(settings)) as server:
        running = server.submit("sleeper")
        server.wait_for_progress(running)
        runs = server.runs()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_ready(server))
        assert not_ready(server) == "cannot be given work: the server is about to end"
        assert server.get(running)["status"] == "RUNNING"
        assert all(lives(pid) for pid in runs)
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(server.process.pid)
        assert server.stop() == 0
    with RunningServer(data) as server:
        assert server.get(running)["termination"]["code"] == "STOPPED"


def test_drain_with_nothing_running_is_the_end_at_once_and_then_there_is_no_server(own: RunningServer) -> None:
    assert corral("drain", "--data", own.data).returncode == 0
    wait_for_exit(own.process.pid)
    assert own.stop() == 0
    answer = corral("drain", "--data", own.data)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"corral: cannot ask the server: there is none that uses '{own.data}'\n"


def test_drain_of_a_server_that_is_killed_meanwhile_says_so(own: RunningServer) -> None:
    own.wait_for_progress(own.submit("sleeper"))
    with started("drain", "--data", own.data) as drain:
        ready_line(drain)
        own.process.kill()
        assert drain.communicate(timeout=60)[1] == "corral: cannot wait for the end of the server: it was killed\n"
        assert drain.returncode == 1
    assert corral("drain", "--data", own.data).returncode == 1  # its socket is still there


def test_server_that_cannot_do_its_work_is_not_ready_and_says_why(own: RunningServer) -> None:
    assert own.http.get("/readyz").json() == {"status": "ready"}
    assert own.http.head("/readyz").status_code == own.http.head("/livez").status_code == 200
    os.kill(own.process.pid, signal.SIGSTOP)
    assert not_ready(own) == "cannot be given work: cannot ask the server: timed out"
    os.kill(own.process.pid, signal.SIGCONT)
    assert is_ready(own)
    with closing(sqlite3.connect(own.data / "corral.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert "another process has been writing for a while" in not_ready(own)
        database.execute("ROLLBACK")
    wait_until(lambda: is_ready(own))
    for _ in range(6):  # each time it comes back later
        os.kill(own.launcher_pid, signal.SIGKILL)
    wait_until(lambda: not is_ready(own))
    assert not_ready(own) == "cannot be given work: the launcher is not there"
    wait_until(lambda: is_ready(own))
