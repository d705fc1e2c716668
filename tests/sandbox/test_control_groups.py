"""What control groups are for besides limits of memory and processes: a share of CPU time, and proof of the end."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox import cgroup
from supervisor.limits import MACHINE_BYTES
from tests.helpers.agents import write_agent
from tests.helpers.control_groups import groups_of
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

PYTHON = 'entrypoint = "agent:run"\ngrace_seconds = 0.1'

SPIN = """
import os, time

def run(input):
    for _ in range(3):
        if os.fork() == 0:
            spin()
            os._exit(0)
    spin()
    for _ in range(3):
        os.wait()
    times = os.times()
    return {"used": sum(times[:4]), "niceness": os.nice(0)}

def spin():
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        pass
"""
SLEEP = "import time\ndef run(input, context):\n    context.progress('here')\n    time.sleep(60)"
EAT = """
def run(input):
    held = []
    while True:
        held.append(b"x" * (1 << 20))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server whose agents the test writes."""
    (tmp_path / "agents").mkdir()
    with RunningServer(tmp_path / "data", agents=tmp_path / "agents") as running:
        yield running


def spin(server: RunningServer, **limits: float) -> dict[str, Any]:
    manifest = "\n".join((PYTHON, *(f"limits.{name} = {amount}" for name, amount in limits.items())))
    write_agent(server.agents, "spin", manifest, {"agent.py": SPIN})
    return server.run("spin")


def test_share_of_cpu_time_bounds_what_all_processes_get_together(own: RunningServer) -> None:
    execution = spin(own, cpus=0.25)
    isolation = execution["isolation"]
    if "cpu_share" in isolation["missing"]:
        pytest.skip("this machine has no controller of CPU time for us")
    assert "cpu_share" in isolation["effective"]
    used = execution["final_result"]["used"]
    # Four spin for 1.5 seconds; a period more at each end.
    assert 0.05 < used < 0.25 * (execution["usage"]["wall_seconds"] + 0.2)


def test_share_of_cpu_time_is_told_of_only_if_it_was_asked_for(own: RunningServer) -> None:
    execution = spin(own)
    isolation = execution["isolation"]
    assert "cpu_share" not in isolation["effective"] + isolation["missing"]


def test_agents_let_the_server_go_first(own: RunningServer) -> None:
    assert spin(own)["final_result"]["niceness"] - os.nice(0) == 5


def test_stranger_in_the_group_is_killed_before_the_end_is_told(own: RunningServer) -> None:
    write_agent(own.agents, "sleep", PYTHON, {"agent.py": SLEEP})
    execution_id = own.submit("sleep")
    own.wait_for_progress(execution_id)
    group = group_of_a_run(own)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (group / "cgroup.procs").write_text(str(stranger.pid))
        own.cancel(execution_id)
        execution = own.wait_for_end(execution_id)
        ended = stranger.poll()
        stranger.kill()
    assert ended == -signal.SIGKILL
    assert execution["kill"]["survivors"] == 0
    assert execution["kill"]["verified_empty_at"]
    wait_until(lambda: not group.exists())


def group_of_a_run(server: RunningServer) -> Path:
    """Return the group in which an agent runs, as the hierarchy has it that counts processes."""
    busy = {str(pid) for pid in server.runs()}
    for group in groups_of(server.launcher_pid):
        if (group / "pids.max").exists() and busy & set((group / "cgroup.procs").read_text().split()):
            return group
    pytest.skip("this machine has no control groups for us")


# -- a group above that is full ---------------------------------------------------------------------------------------


@contextmanager
def small_group(memory_bytes: int) -> Iterator[Path]:
    """Yield a group of version 1 that has little memory; skip the test where that cannot be made."""
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    if os.geteuid() != 0 or "memory" not in own or "memory" not in mounted:
        pytest.skip("this machine has no control groups of version 1 for us")
    group = Path(mounted["memory"] + own["memory"], f"corral-test-{uuid.uuid4().hex}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(memory_bytes))
        yield group
    finally:
        group.rmdir()


def test_host_without_memory_is_told_as_that_and_takes_no_other_run_along(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    write_agent(agents, "eat", f"{PYTHON}\nlimits.memory_bytes = {MACHINE_BYTES}", {"agent.py": EAT})
    write_agent(agents, "sleep", PYTHON, {"agent.py": SLEEP})
    with small_group(500 << 20) as group:
        wrapper = ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"')
        with RunningServer(tmp_path / "data", agents=agents, wrapper=wrapper) as server:
            bystander = server.submit("sleep")
            server.wait_for_progress(bystander)
            execution = server.run("eat")
            termination = execution["termination"]
            assert (termination["code"], termination["by"], termination["limit"]) == ("MEMORY", "host", None), execution
            assert termination["observed"]["peak_memory_bytes"] > 100 << 20
            assert server.get(bystander)["status"] == "RUNNING"
            server.cancel(bystander)
            server.wait_for_end(bystander)
        assert not server.errors()
