"""Files of runs through the whole product: what hostile agents leave, how runs end, who is killed meanwhile."""

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.processes import wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until

CANARY = "a canary of the host"
MEGABYTE = 1 << 20

MANIFEST = (AGENTS / "leaves" / "agent.toml").read_text()
TIERS = {
    "sandboxed": MANIFEST,
    "trusted": MANIFEST + '[sandbox]\ntier = "trusted"\n',
    "roomy": MANIFEST + f"limits.disk_bytes = {600 * MEGABYTE}\nlimits.memory_bytes = {1 << 30}\n",
    "tight": MANIFEST + f"limits.memory_bytes = {64 * MEGABYTE}\n",
}
both_tiers = pytest.mark.parametrize("agent", ["sandboxed", "trusted"])


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent "leaves" with several manifests."""
    folder = tmp_path_factory.mktemp("leaving") / "agents"
    for name, manifest in TIERS.items():
        shutil.copytree(AGENTS / "leaves", folder / name)
        (folder / name / "agent.toml").write_text(manifest)
    return folder


@pytest.fixture(scope="module")
def leaving(agents: Path) -> Iterator[RunningServer]:
    with RunningServer(agents.parent / "data", "--max-running", "8", agents=agents) as running:
        for name in TIERS:
            running.run(name, steps=[["file", "x", "x"]])
        yield running
    assert not running.errors(), "the server complained"


@pytest.fixture(autouse=True)
def nothing_but_files_is_left(leaving: RunningServer) -> Iterator[None]:
    """After each test: no process, no work directory, and nobody who holds the descriptor of one."""
    yield
    wait_until(lambda: not leaving.runs() and not os.listdir(leaving.data / "work"))
    wait_until(lambda: not any(map(held_directories, (leaving.process.pid, leaving.launcher_pid))))
    assert os.listdir(leaving.data / "files" / "unfinished") == []


def held_directories(pid: int) -> int:
    """Return how many descriptors of directories a process has."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += descriptor.is_dir()
    return count


def run(server: RunningServer, agent: str, *steps: list[Any]) -> dict[str, Any]:
    return server.run(agent, steps=list(steps))


def names(server: RunningServer, execution: dict[str, Any]) -> list[str]:
    return [file["name"] for file in server.files(execution["execution_id"])["files"]]


def is_anywhere(text: str, folder: Path) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


# -- what hostile agents leave ----------------------------------------------------------------------------------------


@both_tiers
def test_links_lead_to_no_file_of_the_host(leaving: RunningServer, tmp_path: Path, agent: str) -> None:
    (tmp_path / "canary").write_text(CANARY)
    execution = run(leaving, agent, ["links", str(tmp_path / "canary")], ["file", "honest", "text"])
    listed = leaving.files(execution["execution_id"])
    assert [file["name"] for file in listed["files"]] == ["honest"]
    assert listed["left_out"] == 9
    assert set(listed["left_out_reasons"]) == {"symbolic_link", "hard_link"}
    assert leaving.file(execution["execution_id"], "honest") == b"text"
    assert not is_anywhere(CANARY, leaving.data / "files")
    assert not is_anywhere("root:x:0", leaving.data / "files")


@both_tiers
def test_canary_would_be_found(leaving: RunningServer, agent: str) -> None:
    """Else the test above would prove nothing."""
    run(leaving, agent, ["file", "canary", f"{CANARY} in {agent}"])
    assert is_anywhere(f"{CANARY} in {agent}", leaving.data / "files")


@both_tiers
def test_what_is_no_file_blocks_nobody(leaving: RunningServer, agent: str) -> None:
    execution = run(leaving, agent, ["no_files"], ["file", "honest", "text"])
    listed = leaving.files(execution["execution_id"])
    assert [file["name"] for file in listed["files"]] == ["honest"]
    assert listed["left_out_reasons"] == {"special": 2}


@both_tiers
def test_sparse_files_take_no_disk_and_no_time(leaving: RunningServer, agent: str) -> None:
    steps = [["sparse", "small", MEGABYTE], ["sparse", "half", MEGABYTE, "x" * 8192], ["sparse", "huge", 1 << 40]]
    execution = run(leaving, agent, *steps, ["file", "honest", "text"])
    assert execution["status"] == "COMPLETED", execution["error_log"]
    assert names(leaving, execution) == ["honest"]
    assert leaving.files(execution["execution_id"])["left_out_reasons"] == {"sparse": 2, "too_large": 1}
    kept = (leaving.data / "files").glob(f"*/{execution['execution_id']}/*/*")
    assert sum(path.stat().st_blocks for path in kept) <= 32


@both_tiers
def test_deep_tree_is_left_at_its_depth(leaving: RunningServer, agent: str) -> None:
    execution = run(leaving, agent, ["deep", 300], ["file", "honest", "text"])
    assert names(leaving, execution) == ["honest"]
    assert leaving.files(execution["execution_id"])["left_out_reasons"] == {"too_deep": 1}


@both_tiers
def test_odd_names_are_left_out(leaving: RunningServer, agent: str) -> None:
    odd = [b"\xff", b"a\nb", b"\x1b[2J", b"..\\x", "\u202e".encode(), "\u2028".encode()]
    execution = run(leaving, agent, *(["hex_named_file", name.hex()] for name in odd), ["file", "..x", "text"])
    assert names(leaving, execution) == ["..x"]
    assert leaving.files(execution["execution_id"])["left_out_reasons"] == {"name": len(odd)}


@both_tiers
def test_what_its_owner_may_not_read_is_left_out_whoever_the_server_is(leaving: RunningServer, agent: str) -> None:
    execution = run(leaving, agent, ["forbidden", "no"], ["file", "honest", "text"])
    assert names(leaving, execution) == ["honest"]
    assert leaving.files(execution["execution_id"])["left_out_reasons"] == {"unreadable": 2}
    execution = run(leaving, agent, ["file", "honest", "text"], ["forbid_all"])
    assert leaving.files(execution["execution_id"])["left_out_reasons"] == {"unreadable": 1}


def test_hundred_thousand_files_are_not_all_looked_at_and_other_runs_go_on(leaving: RunningServer) -> None:
    crowded = leaving.submit("roomy", steps=[["many_files", 100_000]])
    while leaving.get(crowded)["status"] not in ("COMPLETED", "FAILED"):
        assert run(leaving, "sandboxed", ["file", "x", "x"])["status"] == "COMPLETED"
    listed = leaving.files(crowded)
    assert [file["name"] for file in listed["files"]] == sorted(file["name"] for file in listed["files"])
    assert len(listed["files"]) == 100
    assert listed["left_out_reasons"] == {"too_many": 19_900, "not_looked_at": 1}


@both_tiers
def test_agent_never_has_the_descriptor_of_its_work_directory(leaving: RunningServer, agent: str) -> None:
    execution = run(leaving, agent, ["file", "x", "x"])
    assert execution["final_result"] == {"descriptors": [0, 1, 2, 3, 4]}  # 4 is that of its own look


# -- how runs end -----------------------------------------------------------------------------------------------------


@both_tiers
@pytest.mark.parametrize(("end", "code"), [("fail", "AGENT_ERROR"), ("die", "SIGNALED")])
def test_files_of_failed_runs_are_kept(leaving: RunningServer, agent: str, end: str, code: str) -> None:
    execution = run(leaving, agent, ["file", "x", "content"], [end])
    assert (execution["status"], execution["termination"]["code"]) == ("FAILED", code)
    assert leaving.file(execution["execution_id"], "x") == b"content"


@both_tiers
@pytest.mark.parametrize("how", ["wait", "ignore_and_wait"])
def test_files_of_canceled_runs_are_kept(leaving: RunningServer, agent: str, how: str) -> None:
    execution_id = leaving.submit(agent, steps=[["file", "x", "content"], [how]])
    leaving.wait_for_progress(execution_id)
    leaving.cancel(execution_id)
    assert leaving.wait_for_end(execution_id)["status"] == "CANCELED"
    assert leaving.file(execution_id, "x") == b"content"


def test_files_of_a_run_that_was_killed_for_its_memory_are_kept(leaving: RunningServer) -> None:
    execution = run(leaving, "tight", ["file", "x", "content"], ["eat_memory"])
    assert execution["status"] == "FAILED"
    assert leaving.file(execution["execution_id"], "x") == b"content"


@both_tiers
def test_files_of_a_run_whose_init_was_killed_are_kept(leaving: RunningServer, agent: str) -> None:
    execution_id = leaving.submit(agent, steps=[["file", "x", "content"], ["wait"]])
    leaving.wait_for_progress(execution_id)
    (member,) = leaving.runs()
    os.kill(psutil.Process(member).ppid(), signal.SIGKILL)
    assert leaving.wait_for_end(execution_id)["termination"]["code"] == "LOST"
    assert leaving.file(execution_id, "x") == b"content"


def test_files_of_runs_side_by_side_do_not_mix(leaving: RunningServer) -> None:
    submitted = {
        leaving.submit(
            agent, steps=[["file", f"of {number}", str(number), 1000], ["file", "same", f"in {number}"]]
        ): number
        for number, agent in enumerate(["sandboxed", "trusted"] * 8)
    }
    for execution_id, number in submitted.items():
        leaving.wait_for_end(execution_id)
        assert [file["name"] for file in leaving.files(execution_id)["files"]] == [f"of {number}", "same"]
        assert leaving.file(execution_id, f"of {number}") == str(number).encode() * 1000
        assert leaving.file(execution_id, "same") == f"in {number}".encode()


# -- settings, restarts -----------------------------------------------------------------------------------------------


def test_settings_bound_what_is_kept(agents: Path, tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", agents=agents, max_files=2, max_files_bytes=10) as server:
        execution = run(
            server, "sandboxed", *(["file", name, "x" * 6] for name in "ab"), *(["file", name, ""] for name in "cd")
        )
        assert names(server, execution) == ["a", "c"]
        assert server.files(execution["execution_id"])["left_out_reasons"] == {"too_large": 1, "too_many": 1}


def test_files_survive_a_restart_and_their_ends_a_stop(agents: Path, tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", agents=agents) as server:
        ended = run(server, "sandboxed", ["file", "x", "content"])["execution_id"]
        stopped = {}
        for agent in TIERS:
            steps = [["file", "!", agent], ["many_files", 2_000], ["ignore_and_wait"]]
            stopped[agent] = server.submit(agent, steps=steps)
            server.wait_for_progress(stopped[agent])
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(server.process.pid)
    assert os.listdir(tmp_path / "data" / "work") == []
    with RunningServer(tmp_path / "data", agents=agents) as server:
        assert server.file(ended, "x") == b"content"
        for agent, execution_id in stopped.items():
            assert server.get(execution_id)["termination"]["code"] == "STOPPED"
            assert server.file(execution_id, "!") == agent.encode()
        execution = run(server, "sandboxed", ["file", "y", "new"])
        assert server.file(execution["execution_id"], "y") == b"new"


def test_supervisor_killed_while_it_copies_is_followed_by_one_that_copies_anew(agents: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = {"max_files_bytes": 500 * MEGABYTE}
    with RunningServer(data, agents=agents, **settings) as server:
        execution_id = server.submit("roomy", steps=[["file", "large", "x" * 1024, 400 * 1024], ["file", "z", "z"]])
        unfinished = data / "files" / "unfinished" / f"{execution_id}.1"
        wait_until(unfinished.exists)
        server.kill()
        with RunningServer(data, agents=agents, **settings) as following:
            check_copied_anew(following, execution_id)


def check_copied_anew(server: RunningServer, execution_id: str) -> None:
    """See that files are whole of which a killed server has copied a part."""
    assert server.wait_for_end(execution_id)["status"] == "COMPLETED"
    files = {file["name"]: file for file in server.files(execution_id)["files"]}
    assert list(files) == ["large", "z"]
    content = server.file(execution_id, "large")
    assert hashlib.sha256(content).hexdigest() == files["large"]["sha256"]
    assert len(content) == 400 * MEGABYTE
    assert os.listdir(server.data / "files" / "unfinished") == []
