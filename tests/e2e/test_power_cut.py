"""The power goes at any instant: what was acknowledged is there, what ran is LOST, and what waited runs."""

import os
import random
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import power_cut
from tests.helpers.database import query
from tests.helpers.power_cut import DATABASE, LOG, Disk, Load
from tests.helpers.processes import lives
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until
from tests.helpers.wal import end_of_last_commit

_OK = {"agent_id": "ok", "input": {"come": "again"}}
_LEAVES = {"agent_id": "leaves", "input": {"steps": [["file", "left.txt", "all of it"]]}}

_INSTANTS = 5


def test_copies_of_the_database_at_any_instant_under_load_have_every_acknowledged_execution(tmp_path: Path) -> None:
    moments = random.Random(4)
    with RunningServer(tmp_path / "data", "--max-running", "4") as server:
        server.wait_for_progress(server.submit("sleeper"))
        with Load(server, _OK, _OK, _LEAVES, _LEAVES) as load:
            acknowledged = []
            for instant in range(_INSTANTS):
                load.wait_for(moments.randrange(1, 30))
                with power_cut.all_writers_stopped(server):
                    acknowledged.append(list(load.acknowledged))
                    power_cut.copy_database(server.data, tmp_path / f"copy{instant}")
    for instant, before in enumerate(acknowledged):
        assert set(before) <= power_cut.executions(tmp_path / f"copy{instant}").keys()
    before = power_cut.executions(tmp_path / f"copy{_INSTANTS - 1}")
    with RunningServer(tmp_path / f"copy{_INSTANTS - 1}", "--max-running", "8") as server:
        assert_settled(server, before, acknowledged[-1])


def assert_settled(server: RunningServer, before: dict[str, str], acknowledged: list[str]) -> None:
    """Check that what was RUNNING has been lost, what was PENDING runs, and what had ended stays as it was."""
    assert {"PENDING", "RUNNING", "COMPLETED"} <= set(before.values())
    for execution_id in acknowledged:
        execution = server.wait_for_end(execution_id, seconds=60)
        assert (execution["status"], code_of(execution)) == {
            "RUNNING": ("FAILED", "LOST"),
            "PENDING": ("COMPLETED", "EXITED_OK"),
            "COMPLETED": ("COMPLETED", "EXITED_OK"),
        }[before[execution_id]]


def code_of(execution: dict[str, Any]) -> str:
    return str(execution["termination"]["code"])


def test_log_cut_anywhere_after_an_acknowledged_commit_has_all_that_was_acknowledged_by_then(tmp_path: Path) -> None:
    """Of what was written after the last fsync(2), a disk may have any part, and anything in place of the rest."""
    cuts = random.Random(5)
    with RunningServer(tmp_path / "data", "--max-running", "1") as server:
        server.wait_for_progress(server.submit("sleeper"))
        acknowledged = []
        for _ in range(8):
            execution_id = server.submit("ok")
            with power_cut.all_writers_stopped(server):
                acknowledged.append((execution_id, end_of_last_commit(server.data / LOG)))
        with power_cut.all_writers_stopped(server):
            power_cut.copy_database(server.data, tmp_path / "copy")
    log = (tmp_path / "copy" / LOG).read_bytes()
    ends = [end for _, end in acknowledged]
    assert ends == sorted(set(ends))
    for number, (_, end) in enumerate(acknowledged):
        following = ends[number + 1] if number + 1 < len(ends) else len(log)
        for at in (end, *(cuts.randrange(end, following + 1) for _ in range(3))):
            for rest in (b"", bytes(len(log) - at), cuts.randbytes(len(log) - at)):
                found = executions_of(tmp_path / "torn", tmp_path / "copy" / DATABASE, log[:at] + rest)
                assert {execution_id for execution_id, _ in acknowledged[: number + 1]} <= found.keys()


def executions_of(folder: Path, database: Path, log: bytes) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / DATABASE).write_bytes(database.read_bytes())
    (folder / LOG).write_bytes(log)
    return power_cut.executions(folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    with ExitStack() as mounted:
        try:
            disk = Disk.new(tmp_path / "disk.img", tmp_path / "disk")
            mounted.enter_context(disk)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount a file system here: {error}")
        yield disk


def test_disk_after_a_power_cut_has_every_acknowledged_execution_and_all_files_of_what_had_ended(
    disk: Disk, tmp_path: Path
) -> None:
    """What only the kernel's memory had is gone here, so it shows that answers and ends wait for fsync(2)."""
    moments = random.Random(6)
    cut, acknowledged = [], []
    with RunningServer(disk.folder / "data", "--max-running", "4") as server:
        server.wait_for_progress(server.submit("sleeper"))
        with Load(server, _OK, _OK, _LEAVES, _LEAVES) as load:
            for instant in range(3):
                load.wait_for(moments.randrange(10, 40))
                with power_cut.all_writers_stopped(server):
                    acknowledged.append(list(load.acknowledged))
                    cut.append(disk.cut_power(tmp_path / f"cut{instant}.img", tmp_path / f"cut{instant}"))
    for found, before in zip(cut, acknowledged, strict=True):
        with found:
            assert set(before) <= power_cut.executions(found.folder / "data").keys()
    with cut[-1] as found:
        before = power_cut.executions(found.folder / "data")
        with RunningServer(found.folder / "data", "--max-running", "8") as server:
            assert_settled(server, before, acknowledged[-1])
            for execution_id in acknowledged[-1]:
                if server.get(execution_id)["payload"] == _LEAVES["input"] and before[execution_id] != "RUNNING":
                    assert server.file(execution_id, "left.txt") == b"all of it"


def test_server_after_a_reboot_takes_no_process_for_one_of_an_earlier_boot(tmp_path: Path) -> None:
    """What a disk has of a time when its pids were others': the pid of a server, sockets, rows of live attempts."""
    with RunningServer(tmp_path / "data") as server:
        server.wait_for_progress(server.submit("sleeper"))
        server.submit("sleeper")
        wait_until(lambda: len(query(server.data, "SELECT 1 FROM attempts")) == 2)
        with power_cut.all_writers_stopped(server):
            power_cut.copy_database(server.data, tmp_path / "copy")
            lost = list(power_cut.executions(tmp_path / "copy"))
    copy = tmp_path / "copy"
    with closing(sqlite3.connect(copy / DATABASE)) as connection, connection:
        connection.execute("UPDATE attempts SET boot = 'an earlier one'")
    with (
        subprocess.Popen(["sleep", "60"]) as stranger,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale,
    ):
        (copy / "lock").write_text(f"{stranger.pid}\n")
        stale.bind(str(copy / "launcher.sock"))
        (copy / "work" / f"corral-run-{lost[0]}").mkdir(parents=True)
        with RunningServer(copy) as server:
            for execution_id in lost:
                assert code_of(server.get(execution_id)) == "LOST"
            assert server.run("ok")["status"] == "COMPLETED"
        assert lives(stranger.pid)
        stranger.send_signal(signal.SIGKILL)
