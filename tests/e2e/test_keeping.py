"""Backup, check and retention of a server: while it works, after it was killed, and on what was restored."""

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import httpx
import psutil

from supervisor.clock import Clock
from supervisor.inspection import inspect
from supervisor.logs import attempt_folder
from supervisor.models import Submission, new_execution_id
from supervisor.store import Store
from tests.helpers import problems
from tests.helpers.command import corral, started
from tests.helpers.database import query
from tests.helpers.processes import wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until
from tests.unit.builders import DEFAULTS, ORIGIN, an_outcome


def submit_until(stop: Event, url: str) -> list[str]:
    """Submit one execution after another; return the ids of those that were accepted."""
    accepted = []
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stop.is_set():
            answer = client.post("/executions/run", json={"agent_id": "ok", "input": {}})
            assert answer.status_code == 202
            accepted.append(answer.json()["execution_id"])
    return accepted


def test_backup_of_a_busy_server_has_what_was_accepted_before_and_can_be_started(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    stop = Event()
    with (
        RunningServer(tmp_path / "data", "--max-running", "2", max_body_bytes=4 << 20) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        running = server.submit("sleeper")
        server.wait_for_progress(running)
        # Large, so that the copy takes many steps.
        early = [server.submit("ok", text="x" * 1_000_000) for _ in range(12)]
        load = threads.submit(submit_until, stop, server.url)
        try:
            saved = corral("backup", copy, "--data", server.data)
            looked = corral("check", "--data", server.data, "--json")
        finally:
            stop.set()
        assert (saved.returncode, saved.stderr) == (0, "")
        assert (looked.returncode, looked.stderr) == (0, "")
        assert json.loads(looked.stdout)["violations"] == []
        assert len(load.result()) > 1
        server.cancel(running)
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(copy, restored / "corral.db")
    looked = corral("check", copy)
    assert (looked.returncode, looked.stderr) == (0, "")
    looked = corral("check", "--data", restored)
    assert looked.returncode == 1
    assert f"{running} it is live, but no server runs" in looked.stdout
    with RunningServer(restored, "--max-running", "2") as server:
        assert server.wait_for_end(running)["termination"]["code"] == "LOST"
        assert {server.wait_for_end(execution)["termination"]["code"] for execution in early} <= {"EXITED_OK", "LOST"}
        assert corral("check", "--data", restored).returncode == 0


def test_check_of_what_is_not_there_ends_with_2(tmp_path: Path) -> None:
    answer = corral("check", "--data", "nowhere", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith("corral: cannot read database ")
    assert os.listdir(tmp_path) == []


def fill(data: Path, count: int) -> list[str]:
    """Make the data folder of a server in which so many executions have ended, each with a log and files."""
    ids = [new_execution_id() for _ in range(count)]
    data.mkdir()
    with closing(Store(data / "corral.db", Clock())) as store, store.transaction() as transaction:
        for execution_id in ids:
            transaction.enqueue(Submission(execution_id, "agent", "agent", 50, "{}", DEFAULTS))
            claim = transaction.claim([])
            assert claim
            transaction.start_attempt(claim, ORIGIN)
            transaction.end(execution_id, 1, ORIGIN, an_outcome())
    for execution_id in ids:
        leave(data, execution_id)
    return ids


def leave(data: Path, execution_id: str) -> None:
    for root, name in (("logs", "stdout.0"), ("files", "contents")):
        folder = attempt_folder(data / root, execution_id, 1)
        folder.mkdir(parents=True)
        (folder / name).write_text("left")


def rows(data: Path) -> set[str]:
    return {row[0] for row in query(data, "SELECT id FROM executions")}


def folders(data: Path, root: str) -> set[str]:
    return {path.name for path in (data / root).glob("??/*")}


def test_retention_that_was_killed_leaves_nothing_for_ever(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ids = fill(data, 600)
    keep = {"CORRAL_KEEP_EXECUTIONS": "10", "CORRAL_ORPHAN_TIMEOUT_SECONDS": "0"}
    with started("serve", "--port", "0", "--data", data, "--agents", AGENTS, **keep) as process:
        wait_until(lambda: len(rows(data)) < len(ids))
        services = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
        for pid in (process.pid, *(service.pid for service in services)):
            wait_for_exit(pid)
    left = rows(data)
    assert 10 < len(left) < len(ids), "it was not killed in the middle"
    assert left == set(ids[-len(left) :]), "the oldest go first"
    # A row without its folders is what nobody may ever see.
    assert left <= folders(data, "logs") & folders(data, "files")
    assert inspect(data / "corral.db").violations == ()
    leave_what_a_crash_leaves(data)
    with RunningServer(data, keep_executions=10) as server:
        kept = set(ids[-10:])
        wait_until(lambda: rows(data) == kept == folders(data, "logs") == folders(data, "files"), 60)
        wait_until(lambda: os.listdir(data / "work") == [])
        assert not (data / "files" / "unfinished").exists()
        for path in ("", "/logs", "/files", "/files/contents"):
            problems.check(server.http.get(f"/executions/{ids[0]}{path}"), 404)
        assert server.get(ids[-1])["status"] == "COMPLETED"
        assert server.logs(ids[-1])["text"] == "left"
        storage = server.http.get("/admin/health").json()["storage"]
        assert storage["database_bytes"] >= 4096
        assert server.run("ok")["status"] == "COMPLETED"
        answer = corral("check", "--data", data)
        assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout
    assert sorted(os.listdir(data)) == [
        *("corral-skeleton", "corral.db", "corral.turns", "files", "isolation.json", "lock", "logs", "work")
    ]


def leave_what_a_crash_leaves(data: Path) -> None:
    """Work directories with files, folders of executions that are not there, half-kept files, sockets."""
    for number in range(50):
        folder = data / "work" / f"corral-run-{number:016x}" / "deep" / "deeper"
        folder.mkdir(parents=True)
        (folder / "file").write_text("left")
        leave(data, new_execution_id())
    unfinished = data / "files" / "unfinished" / f"{new_execution_id()}.1"
    unfinished.mkdir(parents=True)
    (unfinished / "contents").write_text("half")
    for name in ("nudge.sock", "launcher.sock", "isolation.new"):
        (data / name).unlink(missing_ok=True)
        (data / name).write_text("stale")
