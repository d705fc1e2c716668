"""`corral restart` and SIGHUP: the server starts anew in the same process; runs go on, and no client is refused."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.helpers.command import corral, ready_line, started, url_in
from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.processes import descriptors, lives, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until


@contextmanager
def asked_all_the_while(url: str) -> Iterator[list[object]]:
    """Ask for the health on a new connection, again and again; yield what went wrong."""
    wrong: list[object] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answer = httpx.get(f"{url}/admin/health", timeout=20)
            except httpx.TransportError as error:
                wrong.append(error)
            else:
                wrong.extend([answer] * (answer.status_code != 200))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        done.set()
        for thread in threads:
            thread.join()


def restart(data: Path) -> tuple[int, str]:
    """Return exit code and what was said."""
    done = corral("restart", "--data", str(data))
    return done.returncode, (done.stdout + done.stderr).strip()


def test_restarted_server_is_the_same_process_with_the_same_runs_and_refuses_nobody(tmp_path: Path, gate: Gate) -> None:
    with RunningServer(tmp_path / "data") as server:
        pid, launcher_pid, api_pid = server.process.pid, server.launcher_pid, server.api_pid
        server.run("ok")
        gated, sandboxed = server.submit("gated", gate=gate.path), server.submit("clan")
        server.wait_for_progress(sandboxed)
        runs, held = server.runs(), descriptors(pid)
        with asked_all_the_while(server.url) as wrong:
            for _ in range(2):
                assert restart(tmp_path / "data") == (0, f"The server with pid {pid} has started anew.")
        assert not wrong
        assert (server.process.pid, server.launcher_pid) == (pid, launcher_pid)
        assert server.api_pid != api_pid
        assert not lives(api_pid)
        assert runs <= server.runs()
        gate.open()
        assert server.wait_for_end(gated)["status"] == "COMPLETED"
        server.cancel(sandboxed)
        assert server.wait_for_end(sandboxed)["status"] == "CANCELED"
        assert server.run("ok")["status"] == "COMPLETED"
        wait_until(lambda: descriptors(pid) <= held)
        assert '"level": "error"' not in server.errors()


def test_restarted_server_has_its_settings_anew_and_refuses_those_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"

    def write(more: str) -> None:
        file.write_text(f'port = 0\ndata = "data"\nagents = "{AGENTS}"\ntrusted_agents = ["*"]\n{more}')

    write("max_running = 1")
    with started("serve", cwd=tmp_path) as process:
        url = url_in(ready_line(process))
        with httpx.Client(base_url=url, timeout=20) as client:
            ids = [client.post("/executions/run", json={"agent_id": "sleeper"}).json()["execution_id"] for _ in "ab"]

            def statuses() -> list[str]:
                return [client.get(f"/executions/{execution_id}").json()["status"] for execution_id in ids]

            wait_until(lambda: statuses() == ["RUNNING", "PENDING"])
            write("max_running = 0")
            code, said = restart(tmp_path / "data")
            assert code == 1
            assert f"cannot restart the server with pid {process.pid}: cannot read settings: max_running: " in said
            assert statuses() == ["RUNNING", "PENDING"]
            write("max_running = 2")
            assert restart(tmp_path / "data")[0] == 0
            wait_until(lambda: statuses() == ["RUNNING", "RUNNING"])


@pytest.mark.parametrize("made", [True, False])
def test_restart_without_a_server_says_so(tmp_path: Path, made: bool) -> None:
    data = tmp_path / "data"
    if made:
        with RunningServer(data):
            pass
    code, said = restart(data)
    assert code == 1
    assert said == (
        f"corral: cannot restart: no server is using '{data}'"
        if made
        else f"corral: cannot restart: no server has ever used '{data}'"
    )


def test_server_that_is_stopped_while_it_starts_anew_ends_its_runs(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        execution_id = server.submit("clan")
        server.wait_for_progress(execution_id)
        runs, launcher_pid, api_pid = server.runs(), server.launcher_pid, server.api_pid
        server.process.send_signal(signal.SIGHUP)
        wait_for_exit(api_pid)
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(server.process.pid)
        assert server.stop() == 0
        assert not any(map(lives, {*runs, launcher_pid}))
    with RunningServer(tmp_path / "data") as following:
        assert following.get(execution_id)["termination"]["code"] == "STOPPED"


def test_server_that_is_stopping_does_not_start_anew(tmp_path: Path) -> None:
    lifeline, gate = Lifeline(tmp_path / "lifeline"), Gate(tmp_path / "gate")
    with RunningServer(tmp_path / "data", shutdown_grace_seconds=60) as server, closing(lifeline):
        server.submit("patient", lifeline=lifeline.path, gate=gate.path)
        lifeline.wait_for("here")
        server.process.send_signal(signal.SIGTERM)
        lifeline.wait_for("asked")
        server.process.send_signal(signal.SIGHUP)
        gate.open()
        wait_for_exit(server.process.pid)
        assert server.stop() == 0
        assert "restarting" not in server.errors()


def test_server_whose_terminal_goes_away_stops(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    wrapper = ("sh", "-c", f'exec setsid -c "$@" <{os.ttyname(theirs)}', "sh")
    with RunningServer(tmp_path / "data", wrapper=wrapper) as server:
        launcher_pid = server.launcher_pid
        os.close(theirs)
        os.close(ours)
        for pid in (server.process.pid, launcher_pid):
            wait_for_exit(pid)
        assert server.stop() == 0


def test_service_manager_is_told_when_the_server_starts_anew_and_when_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with RunningServer(tmp_path / "data"):
            assert manager.recv(100) == b"READY=1"
            assert restart(tmp_path / "data")[0] == 0
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
