"""Any process of the server may be killed: what was accepted is kept, what ran ends or goes on, nothing survives."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from runner import protocol
from tests.helpers.command import ROOT, ready_line, started, url_in
from tests.helpers.processes import descendants, lives, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(tmp_path / "data", "--max-running", "2") as running:
        yield running


def begin(server: RunningServer, agent: str) -> tuple[str, set[int]]:
    """Start a run; return its id and the pids of all runs' processes once it has said that it is there."""
    execution = server.submit(agent)
    wait_until(lambda: server.get(execution)["progress"])
    return execution, server.runs()


def assert_lost(execution: dict[str, object], status: str, code: str) -> None:
    assert execution["status"] == status
    assert execution["termination"]["code"] == code  # type: ignore[index]
    assert execution["error_log"]
    assert execution["completed_at"]


# -- the API process ---------------------------------------------------------------------------------------------------


def test_killed_api_is_back_and_the_runs_go_on(own: RunningServer) -> None:
    running, runs = begin(own, "sleeper")
    waiting = [own.submit("ok", number=number) for number in range(10)]
    launcher_pid, old = own.launcher_pid, own.api_pid
    os.kill(old, signal.SIGKILL)
    wait_for_exit(old)
    with httpx.Client(base_url=own.url, timeout=20) as client:  # its request waits until there is an API again
        assert client.get(f"/executions/{running}").json()["status"] == "RUNNING"
    assert own.api_pid != old
    assert own.launcher_pid == launcher_pid
    assert all(lives(pid) for pid in runs)
    own.http.close()
    own.http = httpx.Client(base_url=own.url, timeout=30)
    for number, execution in enumerate(waiting):
        assert own.wait_for_end(execution)["final_result"] == {"echo": {"number": number}}
    assert own.cancel(running).status_code == 202
    assert own.wait_for_end(running)["status"] == "CANCELED"


def test_api_that_keeps_dying_is_started_ever_later_and_comes_back(own: RunningServer) -> None:
    began, cpu = time.monotonic(), cpu_seconds(own.process.pid)
    pids = []
    for _ in range(5):
        pids.append(own.api_pid)
        os.kill(pids[-1], signal.SIGKILL)
        wait_for_exit(pids[-1])
    with httpx.Client(base_url=own.url, timeout=20) as client:
        assert client.get("/admin/health").status_code == 200
    assert len({*pids, own.api_pid}) == 6
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.4 + 0.8
    assert cpu_seconds(own.process.pid) - cpu < 1.0


def test_server_whose_log_nobody_reads_any_more_goes_on(tmp_path: Path) -> None:
    with started("serve", "--port", "0", "--data", tmp_path / "data", "--agents", AGENTS) as process:
        url = url_in(ready_line(process))
        assert process.stderr is not None
        process.stderr.close()
        for child in psutil.Process(process.pid).children():  # each death is logged
            child.kill()
            wait_for_exit(child.pid)
        with httpx.Client(base_url=url, timeout=20) as client:
            execution = client.post("/executions/run", json={"agent_id": "ok"}).json()["execution_id"]
            wait_until(lambda: client.get(f"/executions/{execution}").json()["status"] == "COMPLETED")
        process.send_signal(signal.SIGTERM)
        wait_for_exit(process.pid)
        assert process.wait() == 0


def cpu_seconds(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])


# -- the launcher ------------------------------------------------------------------------------------------------------


def test_killed_launcher_takes_all_runs_with_it_and_the_next_one_runs_what_waits(own: RunningServer) -> None:
    lost, _ = begin(own, "hideout")
    canceled, runs = begin(own, "hideout")
    daemon = own.get(lost)["progress"]["daemon"]
    assert daemon in runs
    waiting = own.submit("ok", come="again")
    own.cancel(canceled)
    own.wait_for(canceled, "CANCEL_REQUESTED")
    old = own.launcher_pid
    everything_below = descendants(old)
    os.kill(old, signal.SIGKILL)
    assert_lost(own.wait_for_end(lost), "FAILED", "LOST")
    assert_lost(own.wait_for_end(canceled), "CANCELED", "CANCELED")
    assert not [pid for pid in everything_below if lives(pid)], "the end was recorded while something lived"
    assert own.wait_for_end(waiting)["final_result"] == {"echo": {"come": "again"}}
    assert own.launcher_pid != old
    wait_until(lambda: os.listdir(own.data / "work") == [])
    assert not zombies_of(own.process.pid)


def test_launcher_that_keeps_dying_is_replaced_each_time(own: RunningServer) -> None:
    for _ in range(3):
        execution, runs = begin(own, "sleeper")
        os.kill(own.launcher_pid, signal.SIGKILL)
        assert_lost(own.wait_for_end(execution), "FAILED", "LOST")
        assert not [pid for pid in runs if lives(pid)]
    assert own.run("ok")["status"] == "COMPLETED"


def test_killed_init_loses_its_run_alone_and_leaves_no_survivor(own: RunningServer) -> None:
    other, others = begin(own, "sleeper")
    execution, both = begin(own, "hideout")
    processes = both - others
    daemon = own.get(execution)["progress"]["daemon"]
    (init,) = {psutil.Process(pid).ppid() for pid in processes} - processes
    assert psutil.Process(init).ppid() == own.launcher_pid
    os.kill(init, signal.SIGKILL)
    assert_lost(own.wait_for_end(execution), "FAILED", "LOST")
    assert not [pid for pid in {daemon, init, *processes} if lives(pid)]
    assert own.get(other)["status"] == "RUNNING"
    assert own.run("ok")["status"] == "COMPLETED"


def zombies_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if child.status() == psutil.STATUS_ZOMBIE]


# -- supervisor and launcher (of the supervisor alone: tests/process/test_takeover.py) ---------------------------------


def test_agent_does_not_outlive_supervisor_and_launcher_killed_together(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        begin(server, "sleeper")
        everybody = descendants(server.process.pid)
        launcher_pid = server.launcher_pid
        os.kill(launcher_pid, signal.SIGSTOP)
        server.process.kill()
        os.kill(launcher_pid, signal.SIGKILL)
        for pid in everybody:
            wait_for_exit(pid, 5.0)


def test_what_outlives_supervisor_and_launcher_is_ended_before_the_next_start_records_it(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        execution, runs = begin(server, "hideout")
        launcher_pid = server.launcher_pid
        os.kill(launcher_pid, signal.SIGSTOP)
        server.kill()
        os.kill(launcher_pid, signal.SIGKILL)
        wait_for_exit(launcher_pid)
        assert any(lives(pid) for pid in runs)
        with RunningServer(tmp_path / "data") as following:
            assert not any(lives(pid) for pid in runs)
            assert_lost(following.get(execution), "FAILED", "LOST")


_DIES_AFTER_STARTING_ITS_LAUNCHER = """
import os, signal, subprocess, sys
from pathlib import Path
from supervisor.clock import Clock
from supervisor.machine.launcher import Launcher
from supervisor.machine.reactor import Reactor

class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

subprocess.Popen = Popen
clock = Clock()
Launcher(Path.cwd(), 0.0, print, print, Reactor(clock), clock).start()
"""


def test_launcher_whose_supervisor_dies_while_starting_it_ends(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    died = subprocess.run(
        [sys.executable, "-c", _DIES_AFTER_STARTING_ITS_LAUNCHER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=20,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    pid = int(died.stdout)
    try:
        wait_for_exit(pid, 5.0)
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


# -- who may talk to the launcher --------------------------------------------------------------------------------------

_START = Path(protocol.__file__).with_name("start.py")

_CONNECT_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect("\\0" + sys.argv[1])
print(len(connection.recv(1)))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_launcher_hangs_up_on_another_user_and_serves_its_own(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    name = f"corral-test-{os.getpid()}"
    address = f"\0{name}"  # an abstract address, to which anybody may connect
    first, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", _START, "name", "made from", f"{listener.fileno()},{theirs.fileno()}"),
                *(tmp_path / "work", tmp_path / "skeleton"),
            ],
            pass_fds=[listener.fileno(), theirs.fileno()],
        )
    adopt = {"do": protocol.ADOPT, "protocol": protocol.PROTOCOL, "orphan_seconds": 0}
    protocol.send(first, adopt)
    assert protocol.receive(first)[0]["event"] == protocol.ALL_HELD
    with process:
        stranger = subprocess.run(
            [sys.executable, "-c", _CONNECT_AS_NOBODY, name],
            stdout=subprocess.PIPE,
            text=True,
            timeout=20,
            check=True,
        )
        assert stranger.stdout.strip() == "0"  # end of file
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as ours:
            ours.connect(address)
            protocol.send(ours, adopt)
            told, _ = protocol.receive(ours)
            assert told == {"event": protocol.ALL_HELD, "launcher": "name", "made_from": "made from"}
            assert first.recv(1) == b""  # there is one supervisor, the last one
            first.close()
            assert lives(process.pid)
        wait_for_exit(process.pid)  # its only supervisor is gone
