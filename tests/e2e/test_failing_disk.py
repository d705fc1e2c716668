"""A server whose database fails it: nobody hangs, nothing is lost, and when it can, it recovers by itself."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.command import corral
from tests.helpers.full_disk import files_of_at_most
from tests.helpers.named_pipes import Gate
from tests.helpers.problems import check
from tests.helpers.processes import wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import patience, wait_until

# As many connections as a test likes.
MANY = httpx.Limits(max_connections=None)


def alerts(server: RunningServer, kind: str = "database") -> list[dict[str, Any]]:
    """Return the alerts of a kind; health itself is always there."""
    answer = server.http.get("/admin/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    return [alert for alert in answer.json()["alerts"] if alert["kind"] == kind]


def assert_refused(answer: httpx.Response, word: str) -> None:
    assert word in check(answer, 503)["detail"]
    assert int(answer.headers["Retry-After"]) > 0


def assert_whole(data: Path) -> None:
    with closing(sqlite3.connect(data / "corral.db")) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class Work:
    """Runs that are live before the trouble: one ends during it by itself, one by its timeout, one not at all."""

    def __init__(self, server: RunningServer, gate: Gate) -> None:
        self.server = server
        self._gate = gate
        self.done = server.submit("gated", gate=gate.path)
        self.late = self._submit_with_timeout("sleeper", 2)
        self.stays = server.submit("sleeper")
        for execution_id in (self.late, self.stays):
            server.wait_for_progress(execution_id)
        server.wait_for(self.done, "RUNNING")
        self.waits = server.submit("ok", come="again")

    def goes_on(self, word: str, left: int = 1) -> None:
        """What runs goes on and ends, also by its limits; what is recorded can be read; what is new is refused.

        Args:
            word: of the reason that is told. left: processes that are to be there still.
        """
        self._gate.open()
        assert_refused(self.server.http.post("/executions/run", json={"agent_id": "ok"}), word)
        assert_refused(self.server.cancel(self.stays), word)
        (alert,) = alerts(self.server)
        assert word in alert["reason"]
        wait_until(lambda: len(self.server.runs()) == left)
        assert all(self.server.get(each)["status"] == "RUNNING" for each in (self.done, self.late, self.stays))
        assert self.server.get(self.waits)["status"] == "PENDING"

    def is_recorded(self) -> None:
        """All of it is as it would have been without the trouble."""
        assert self.server.wait_for_end(self.done)["final_result"] == {"passed": True}
        assert self.server.wait_for_end(self.late)["termination"]["code"] == "WALL_TIME"
        assert self.server.wait_for_end(self.waits)["final_result"] == {"echo": {"come": "again"}}
        assert self.server.cancel(self.stays).status_code == 202
        assert self.server.wait_for_end(self.stays)["status"] == "CANCELED"
        assert self.server.run("ok")["status"] == "COMPLETED"
        assert alerts(self.server) == []
        assert_whole(self.server.data)

    def _submit_with_timeout(self, agent: str, seconds: float) -> str:
        body = {"agent_id": agent, "timeout_seconds": seconds}
        return str(self.server.http.post("/executions/run", json=body).json()["execution_id"])


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(tmp_path / "data", "--max-running", "3") as running:
        yield running


def test_disk_that_takes_nothing_delays_what_is_recorded_and_no_run(own: RunningServer, gate: Gate) -> None:
    work = Work(own, gate)
    with files_of_at_most(0, own.process.pid, own.api_pid):
        work.goes_on("SQLITE_IOERR_WRITE")
        # One that has opened nothing yet is no worse off.
        old = own.api_pid
        os.kill(old, 9)
        wait_for_exit(old)
        own.http.close()
        own.http = httpx.Client(base_url=own.url, timeout=30)
        assert_refused(own.http.post("/executions/run", json={"agent_id": "ok"}), "SQLITE_IOERR")
        assert own.get(work.stays)["status"] == "RUNNING"
        api = own.api_pid
    with files_of_at_most(2**40, api):  # it has got its limit from the supervisor
        work.is_recorded()


def test_database_locked_by_another_program_delays_what_is_recorded_and_no_run(own: RunningServer, gate: Gate) -> None:
    work = Work(own, gate)
    with closing(sqlite3.connect(own.data / "corral.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(80) as pool, httpx.Client(base_url=own.url, timeout=patience(30), limits=MANY) as http:
            # More than the server has threads: all are answered soon, and so is health.
            import time

            t = time.monotonic()
            submits = [pool.submit(http.post, "/executions/run", json={"agent_id": "ok"}) for _ in range(80)]
            assert alerts(own)
            print("health", time.monotonic() - t)
            for submit in submits:
                assert_refused(submit.result(), "another process has been writing for")
            print("all", time.monotonic() - t)
        work.goes_on("another process has been writing for")
    wait_until(lambda: own.http.post("/executions/run", json={"agent_id": "ok"}).status_code == 202)
    wait_until(lambda: not alerts(own))
    work.is_recorded()


def test_damage_that_a_running_server_finds_stops_submits_until_a_backup_is_restored(own: RunningServer) -> None:
    kept = own.run("ok", kept=True)
    database = own.data / "corral.db"
    with closing(sqlite3.connect(database)) as sql, closing(sqlite3.connect(own.data / "backup.db")) as backup:
        sql.backup(backup)
    damaged = [own.submit("ok", text="x" * 4000) for _ in range(40)]
    for execution_id in damaged:
        own.wait_for_end(execution_id)
    overwrite_second_half(database)
    os.kill(own.api_pid, 9)  # what it has read before, it would not read again
    own.http.close()
    own.http = httpx.Client(base_url=own.url, timeout=30)
    answers = {own.http.get(f"/executions/{execution_id}").status_code for execution_id in damaged}
    assert 503 in answers
    assert answers <= {200, 404, 503}
    assert_refused(own.http.post("/executions/run", json={"agent_id": "ok"}), "restore the database from a backup")
    assert "SQLITE_CORRUPT" in alerts(own)[0]["reason"]
    own.stop()
    for leftover in own.data.glob("corral.db*"):
        leftover.unlink()
    (own.data / "backup.db").rename(database)
    with RunningServer(own.data) as restored:
        assert restored.get(kept["execution_id"])["final_result"] == {"echo": {"kept": True}}
        assert restored.run("ok")["status"] == "COMPLETED"
        assert alerts(restored) == []


def overwrite_second_half(database: Path) -> None:
    with closing(sqlite3.connect(database)) as sql:
        assert sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        (pages,) = sql.execute("PRAGMA page_count").fetchone()
    with database.open("r+b") as file:
        for page in range(pages // 2, pages):
            file.seek(page * 4096)
            file.write(os.urandom(4096))


# -- a real disk that is full ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 12 MB. Skips the test if we may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "corral-test", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the disk of a folder to its last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    assert shutil.disk_usage(folder).free == 0
    yield
    filler.unlink()


def test_full_disk_delays_what_is_recorded_and_no_run(small_disk: Path, gate: Gate, tmp_path: Path) -> None:
    data = small_disk / "data"
    second = Gate(tmp_path / "second-gate")
    with RunningServer(data, "--max-running", "4") as server:
        hello = b"hello ".hex()
        steps = [["stdout", hello], ["wait", gate.path], ["stdout", hello], ["wait", second.path], ["stdout", hello]]
        printer = server.submit("printer", steps=steps)
        wait_until(lambda: server.logs(printer)["size"] == 6)
        other_gate = Gate(tmp_path / "other-gate")
        work = Work(server, other_gate)
        with full(small_disk):
            gate.open()
            work.goes_on("the disk is full", left=2)
            (alert,) = alerts(server, "disk")
            assert alert["free_bytes"] == 0
        second.open()
        work.is_recorded()
        assert server.wait_for_end(printer)["status"] == "COMPLETED"
        # What was printed meanwhile found no room, or some at the end of a page.
        assert server.logs(printer)["text"].startswith("hello ")


def test_start_on_a_full_disk_is_refused_with_the_reason_and_harms_nothing(small_disk: Path) -> None:
    data = small_disk / "data"
    with full(small_disk):
        answer = corral("serve", "--port", "0", "--data", data, "--agents", AGENTS)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert "No space left on device" in answer.stderr
    with RunningServer(data) as server:
        kept = server.run("ok", kept=True)["execution_id"]
    with full(small_disk):
        answer = corral("serve", "--port", "0", "--data", data, "--agents", AGENTS)
        assert (answer.returncode, answer.stdout) == (1, "")
        assert answer.stderr.startswith("corral: cannot ")
        assert len(answer.stderr.splitlines()) == 1
    with RunningServer(data) as server:
        assert server.get(kept)["final_result"] == {"echo": {"kept": True}}
        assert server.run("ok")["status"] == "COMPLETED"
    assert_whole(data)
