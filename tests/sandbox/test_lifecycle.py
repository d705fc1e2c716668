"""How sandboxes end, whoever ends them, and that two that live at once do not meet."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.sandbox import attest
from tests.helpers.agents import write_agent
from tests.helpers.control_groups import groups_of
from tests.helpers.named_pipes import Gate
from tests.helpers.processes import descendants, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.siege import manifest_of_attacks
from tests.helpers.wait import wait_until

# Of the agent "clan": itself and its daemons, and what it uses at least.
CLAN = 6
CPU_SECONDS = 0.1
MEMORY_BYTES = 32 << 20


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(tmp_path / "data", "--max-running", "4") as running:
        yield running


def begin_clan(server: RunningServer) -> tuple[str, set[int]]:
    """Start a clan; return its execution's id and the pids of its members."""
    execution_id = server.submit("clan")
    server.wait_for_progress(execution_id)
    members = server.runs()
    assert len(members) == CLAN
    return execution_id, members


def init_of(members: set[int]) -> int:
    """Return the pid of the process 1 of the sandbox that these are in: all daemons are its children."""
    parents = [psutil.Process(pid).ppid() for pid in members]
    return max(set(parents), key=parents.count)


def ended(execution: dict[str, Any]) -> tuple[str, str]:
    return execution["status"], execution["termination"]["code"]


# -- killed processes of the server -----------------------------------------------------------------------------------


def test_supervisor_and_launcher_killed_at_once_leave_nobody(own: RunningServer) -> None:
    execution_id, members = begin_clan(own)
    everybody = descendants(own.process.pid)
    assert members < everybody
    supervisor, launcher = own.process.pid, own.launcher_pid
    for pid in (supervisor, launcher):
        os.kill(pid, signal.SIGKILL)
    for pid in everybody:
        wait_for_exit(pid, 5)
    own.stop()
    with RunningServer(own.data) as successor:
        assert ended(successor.wait_for_end(execution_id))[1] == "LOST"
        assert successor.run("ok")["status"] == "COMPLETED"


def test_killed_launcher_takes_its_sandboxes_with_it_and_is_replaced(own: RunningServer) -> None:
    execution_id, members = begin_clan(own)
    launcher = own.launcher_pid
    os.kill(launcher, signal.SIGKILL)
    for pid in members:
        wait_for_exit(pid, 5)
    assert ended(own.wait_for_end(execution_id)) == ("FAILED", "LOST")
    assert own.run("ok")["status"] == "COMPLETED"
    assert own.launcher_pid != launcher


def test_killed_init_is_lost_and_the_next_run_is_fine(own: RunningServer) -> None:
    launcher = own.launcher_pid
    execution_id, members = begin_clan(own)
    os.kill(init_of(members), signal.SIGKILL)
    for pid in members:
        wait_for_exit(pid, 5)
    assert ended(own.wait_for_end(execution_id)) == ("FAILED", "LOST")
    assert own.run("ok")["status"] == "COMPLETED"
    assert own.launcher_pid == launcher


def test_killed_idle_init_is_replaced(own: RunningServer) -> None:
    own.run("ok")
    spare = {child.pid for child in psutil.Process(own.launcher_pid).children()}
    assert spare
    for pid in spare:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in spare))
    assert [own.run("ok")["status"] for _ in range(3)] == ["COMPLETED"] * 3


def test_init_has_nothing_left_but_what_it_needs_when_its_agent_starts(server: RunningServer) -> None:
    execution_id, members = begin_clan(server)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{init_of(members)}/status").read_text().splitlines())
    server.cancel(execution_id)
    server.wait_for_end(execution_id)
    # One that may serve again, as root's do, can still mount, change its user and kill; one that may not only waits.
    serves_again = os.geteuid() == 0
    held = "00000000002000e0" if serves_again else "0" * 16
    assert (status["CapEff"], status["CapPrm"]) == (held, held)
    assert {status[name] for name in ("CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    # A service begins with filters of its own.
    assert int(status["Seccomp_filters"]) == attest.count_filters() + (not serves_again)
    assert status["NSpid"].split()[-1] == "1"


def test_init_reaps_many_orphans_and_tells_what_they_used(strict: RunningServer) -> None:
    code = (AGENTS / "hostile" / "agent.py").read_text()
    folder = write_agent(strict.agents, "orphans", manifest_of_attacks(), {"agent.py": code})
    execution = strict.run("orphans", attack="orphans", **{"with": [300]})
    shutil.rmtree(folder)
    assert ended(execution) == ("COMPLETED", "EXITED_OK")
    usage = execution["usage"]
    assert usage["user_cpu_seconds"] + usage["system_cpu_seconds"] > 0.05
    assert usage["peak_memory_bytes"] > 1 << 20


# -- control groups ---------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(own: RunningServer) -> RunningServer:
    """A server that makes control groups."""
    if "cgroup" not in own.run("ok")["isolation"]["effective"]:
        pytest.skip("this machine has no control groups for us")
    return own


def test_stopped_server_leaves_no_control_group(grouped: RunningServer) -> None:
    launcher = grouped.launcher_pid
    begin_clan(grouped)
    assert groups_of(launcher)
    grouped.stop()
    assert not groups_of(launcher)


def test_control_group_is_gone_with_its_run(grouped: RunningServer) -> None:
    execution_id, members = begin_clan(grouped)
    name = f"corral-{grouped.launcher_pid}-{init_of(members)}"
    assert name in {group.name for group in groups_of(grouped.launcher_pid)}
    grouped.cancel(execution_id)
    grouped.wait_for_end(execution_id)
    wait_until(lambda: name not in {group.name for group in groups_of(grouped.launcher_pid)})


@pytest.mark.parametrize("who", ["both", "launcher"])
def test_control_groups_of_a_killed_launcher_are_swept_by_the_next(grouped: RunningServer, who: str) -> None:
    _, members = begin_clan(grouped)
    launcher = grouped.launcher_pid
    victims = [launcher, grouped.process.pid] if who == "both" else [launcher]
    everybody = descendants(grouped.process.pid) if who == "both" else members
    assert groups_of(launcher)
    for pid in reversed(victims):
        os.kill(pid, signal.SIGKILL)
    for pid in everybody:
        wait_for_exit(pid, 5)
    if who == "both":
        grouped.stop()
        with RunningServer(grouped.data) as successor:
            successor.run("ok")
    else:
        grouped.run("ok")
    assert not groups_of(launcher)


def test_launcher_that_is_started_again_makes_its_groups_at_the_same_place(grouped: RunningServer) -> None:
    launcher = grouped.launcher_pid
    before = {group.parent for group in groups_of(launcher)}
    os.kill(launcher, signal.SIGKILL)
    wait_for_exit(launcher)
    assert "cgroup" in grouped.run("ok")["isolation"]["effective"]
    after = {group.parent for group in groups_of(grouped.launcher_pid)}
    assert after == before


# -- ends of runs -----------------------------------------------------------------------------------------------------


def test_canceled_sandbox_has_a_record_of_the_kill_and_of_what_it_used(server: RunningServer) -> None:
    execution_id, members = begin_clan(server)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert not any(psutil.pid_exists(pid) for pid in members)
    assert ended(execution) == ("CANCELED", "CANCELED")
    check_kill(execution["kill"])
    check_memory(execution)


def test_sandbox_that_takes_too_long_has_the_same_record(strict: RunningServer) -> None:
    code = (AGENTS / "clan" / "agent.py").read_text()
    manifest = 'entrypoint = "agent:run"\ngrace_seconds = 0.1\ntimeout_seconds = 1'
    folder = write_agent(strict.agents, "slow-clan", manifest, {"agent.py": code})
    execution = strict.run("slow-clan")
    shutil.rmtree(folder)
    assert ended(execution) == ("FAILED", "WALL_TIME")
    assert not strict.runs()
    check_kill(execution["kill"])
    check_memory(execution)


def check_kill(kill: dict[str, Any]) -> None:
    assert kill["method"] == "kill"
    assert kill["survivors"] == 0
    assert kill["signaled"] >= 1
    assert kill["killed"] >= 1
    assert kill["verified_empty_at"]


def check_memory(execution: dict[str, Any]) -> None:
    """Of a sandbox that was killed the kernel tells the peak of its memory only by its control group."""
    usage = execution["usage"]
    assert usage["wall_seconds"] >= CPU_SECONDS
    if "cgroup" in execution["isolation"]["effective"]:
        assert usage["peak_memory_bytes"] >= MEMORY_BYTES


def test_daemons_of_an_agent_that_gives_its_result_are_killed_and_need_no_record(server: RunningServer) -> None:
    execution = server.run("clan", until="end")
    assert ended(execution) == ("COMPLETED", "EXITED_OK")
    assert execution["kill"] is None
    assert execution["usage"]["user_cpu_seconds"] >= CPU_SECONDS
    assert execution["usage"]["peak_memory_bytes"] >= MEMORY_BYTES
    assert not server.runs()


def test_agent_that_is_gone_when_its_turn_comes_fails_with_the_reason(tmp_path: Path, gate: Gate) -> None:
    agents = tmp_path / "agents"
    shutil.copytree(AGENTS / "gated", agents / "gated")
    folder = write_agent(agents, "moved", 'entrypoint = "agent:run"', {"agent.py": "def run(input): return {}"})
    with RunningServer(tmp_path / "data", "--max-running", "1", agents=agents) as server:
        first = server.submit("gated", gate=gate.path)
        server.wait_for(first, "RUNNING")
        second = server.submit("moved")
        shutil.rmtree(folder)
        gate.open()
        execution = server.wait_for_end(second)
        assert ended(execution) == ("FAILED", "LAUNCH_FAILED")
        assert "no agent has this id or name" in execution["error_log"]
        write_agent(agents, "moved", 'entrypoint = "agent:run"', {"agent.py": "def run(input): return {}"})
        assert server.run("moved")["status"] == "COMPLETED"


# -- neighbours -------------------------------------------------------------------------------------------------------

NOTHING = {"files": [], "socket": False, "queue": -1, "semaphores": -1, "host": "sandbox"}


def test_runs_side_by_side_and_after_each_other_find_nothing_of_each_other(server: RunningServer) -> None:
    left = server.submit("neighbour", do="leave", name="trace", wait=True)
    traces = server.wait_for_progress(left)
    assert traces["queue"] >= 0
    assert traces["semaphores"] >= 0
    assert server.run("neighbour", do="look", name="trace")["final_result"] == NOTHING
    server.cancel(left)
    server.wait_for_end(left)
    for _ in range(4):  # more than there are sandboxes waiting
        assert server.run("neighbour", do="look", name="trace")["final_result"] == NOTHING


def test_agent_sees_its_own_traces(server: RunningServer) -> None:
    """Else the test above would prove nothing."""
    found = server.run("neighbour", do="both", name="trace")["final_result"]
    assert found["files"] == ["/work", "/tmp", "/dev/shm"]
    assert found["socket"] is True
    assert min(found["queue"], found["semaphores"]) >= 0


def test_skeleton_is_as_it_was_after_an_agent_has_tried_to_write_everything_in_it(own: RunningServer) -> None:
    own.run("ok")
    skeleton = own.data / "corral-skeleton"
    before = snapshot(skeleton)
    assert before
    places = [f"/{path}" for path in before if not path.startswith(("proc", "dev", "tmp", "work"))]
    places += [f"{place}/new" for place in places]
    outcome = own.run("hostile", attack="write", **{"with": places})["final_result"]["outcome"]
    assert "done" not in outcome
    own.run("clan", until="end")
    assert snapshot(skeleton) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return {path in the folder: mode, owner, and what is in it}."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, text)
    return found
