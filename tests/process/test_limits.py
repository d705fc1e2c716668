"""Limits that a request lowers are those that are enforced, told, and kept until the launch, whenever that is."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.agents import PYTHON, TRUSTED, write_agent
from tests.helpers.lowered import run_lowered, submit_lowered
from tests.helpers.processes import wait_for_exit
from tests.helpers.server import RunningServer

MEGABYTE = 1 << 20

# Far above what each test lowers.
ROOMY = f"{PYTHON}\ntimeout_seconds = 3000\ngrace_seconds = 0.1\nlimits.cpu_seconds = 3000"

SEES = """
import os, resource, time

def run(input, context):
    if "uses" in input:
        exec(input["uses"])
    names = ("CPU", "DATA", "FSIZE", "NOFILE")
    seen = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}
    return {**seen, "deadline": float(os.environ["CORRAL_DEADLINE"])}
"""


@pytest.fixture(scope="module")
def roomy(workshop: RunningServer) -> str:
    """An agent that tells the limits it sees, after it has done what its input says."""
    write_agent(workshop.agents, "roomy", ROOMY, {"agent.py": SEES})
    return "roomy"


def termination_of(execution: dict[str, Any]) -> tuple[str, str, Any]:
    termination = execution["termination"]
    return termination["code"], termination["by"], termination["limit"]


def test_lowered_limits_of_a_process_are_those_it_has(workshop: RunningServer, roomy: str) -> None:
    lower = {"cpu_seconds": 50, "memory_bytes": 90 * MEGABYTE, "file_size_bytes": 5000, "open_files": 44}
    seen = run_lowered(workshop, roomy, lower)["final_result"]
    assert seen["CPU"] == [51, 52]  # a net below the limit of the tree
    assert seen["DATA"] == [90 * MEGABYTE] * 2
    assert seen["FSIZE"] == [5000] * 2
    assert seen["NOFILE"] == [44] * 2


def test_lowered_timeout_ends_the_run_and_is_told(workshop: RunningServer, roomy: str) -> None:
    execution = run_lowered(workshop, roomy, {"timeout_seconds": 0.25}, uses="time.sleep(3600)")
    assert (execution["status"], execution["timeout_seconds"]) == ("FAILED", 0.25)
    assert termination_of(execution) == ("WALL_TIME", "limit", {"timeout_seconds": 0.25})
    assert execution["error_log"] == "It ran longer than its limit of 0.25 seconds."


def test_lowered_timeout_is_the_deadline_that_the_agent_sees(workshop: RunningServer, roomy: str) -> None:
    before = time.time()
    deadline = run_lowered(workshop, roomy, {"timeout_seconds": 1000.5})["final_result"]["deadline"]
    assert before + 1000.5 <= deadline + 0.01
    assert deadline <= time.time() + 1000.5


def test_lowered_cpu_time_ends_the_run_and_is_told(workshop: RunningServer, roomy: str) -> None:
    execution = run_lowered(workshop, roomy, {"cpu_seconds": 1}, uses="while True: pass")
    assert termination_of(execution) == ("CPU_TIME", "limit", {"cpu_seconds": 1})


def test_lowered_memory_is_an_exception_of_python(workshop: RunningServer, roomy: str) -> None:
    uses = f"bytearray({200 * MEGABYTE})"
    assert run_lowered(workshop, roomy, {}, uses=uses)["status"] == "COMPLETED"
    execution = run_lowered(workshop, roomy, {"memory_bytes": 100 * MEGABYTE}, uses=uses)
    assert execution["error_log"].splitlines()[-1] == "MemoryError"


@pytest.mark.parametrize("result", ["frames", "stdout"])
def test_lowered_result_size_refuses_a_result_that_the_agent_may_give(workshop: RunningServer, result: str) -> None:
    text = '{"result": {"a": "%s"}}' if result == "frames" else '{"a": "%s"}'
    where = ">&3" if result == "frames" else ""
    manifest = f"""{TRUSTED}\nresult = "{result}"\ncommand = ["sh", "-c", 'cat text {where}']"""
    write_agent(workshop.agents, f"gives-{result}", manifest, {"text": text % ("x" * 5000)})
    assert run_lowered(workshop, f"gives-{result}", {"result_bytes": 5008})["status"] == "COMPLETED"
    execution = run_lowered(workshop, f"gives-{result}", {"result_bytes": 4000})
    assert termination_of(execution) == ("RESULT_TOO_LARGE", "limit", {"result_bytes": 4000})
    assert execution["error_log"] == "The result is larger than its limit of 4000 bytes."


def test_lowered_log_is_capped_there(workshop: RunningServer, roomy: str) -> None:
    uses = "print('x' * 99_999)"
    for cap in (8192, 65_536):
        execution = run_lowered(workshop, roomy, {"log_bytes": cap}, uses=uses)
        files = (workshop.data / "logs").rglob(f"{execution['execution_id']}/1/stdout.*")
        assert cap / 2 <= sum(file.stat().st_size for file in files) <= cap
        assert workshop.logs(execution["execution_id"], offset=99_990)["size"] == 100_000


# -- between submit and launch ----------------------------------------------------------------------------------------

STAYS = "import time\ndef run(input, context):\n context.progress('here')\n time.sleep(3600)"


def wait_behind(data: Path, agents: Path, lower: dict[str, float]) -> str:
    """Return the id of an execution of "sees" that waits in a data folder whose server was killed."""
    write_agent(agents, "stays", f"{PYTHON}\ngrace_seconds = 0.1", {"agent.py": STAYS})
    write_agent(agents, "sees", f"{PYTHON}\nlimits.open_files = 200", {"agent.py": SEES})
    with RunningServer(data, "--max-running", "1", agents=agents, orphan_timeout_seconds=0) as server:
        server.wait_for_progress(server.submit("stays"))
        execution_id = submit_lowered(server, "sees", lower)
        shown = server.get(execution_id)
        assert (shown["status"], shown["limits"]["open_files"]) == ("PENDING", lower.get("open_files", 200))
        launcher = server.launcher_pid
        server.process.send_signal(signal.SIGKILL)
        wait_for_exit(launcher)
    return execution_id


LATER: dict[str, tuple[dict[str, float], int, dict[str, Any], int, float]] = {
    # what the request says; open_files of the manifest then, and max_limits; open_files and timeout_seconds in effect
    "nothing changes": ({"open_files": 99, "timeout_seconds": 77.5}, 200, {}, 99, 77.5),
    "the manifest is lowered below it": ({"open_files": 99}, 55, {}, 55, 300),
    "the manifest is raised": ({}, 250, {}, 200, 300),
    "the maximum is lowered below it": ({"timeout_seconds": 77.5}, 200, {"timeout_seconds": 33}, 200, 33),
    "the maximum is lowered, but not below it": ({"timeout_seconds": 7.5}, 200, {"timeout_seconds": 33}, 200, 7.5),
}


@pytest.mark.parametrize(("lower", "manifest", "maxima", "open_files", "timeout"), LATER.values(), ids=LATER)
def test_limits_survive_the_death_of_the_server_and_the_lowest_of_then_and_now_counts(
    tmp_path: Path, lower: dict[str, float], manifest: int, maxima: dict[str, Any], open_files: int, timeout: float
) -> None:
    agents = tmp_path / "agents"
    execution_id = wait_behind(tmp_path / "data", agents, lower)
    write_agent(agents, "sees", f"{PYTHON}\nlimits.open_files = {manifest}")
    with RunningServer(tmp_path / "data", agents=agents, max_limits=maxima) as server:
        execution = server.wait_for_end(execution_id)
    assert execution["status"] == "COMPLETED", execution["error_log"]
    assert execution["final_result"]["NOFILE"] == [open_files] * 2
    assert (execution["limits"]["open_files"], execution["timeout_seconds"]) == (open_files, timeout)


def test_agent_above_the_maximum_is_refused_and_one_that_waits_fails(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    execution_id = wait_behind(tmp_path / "data", agents, {"open_files": 99})
    with RunningServer(tmp_path / "data", agents=agents, max_limits={"open_files": 150}) as server:
        told = "cannot use agent 'sees': limits.open_files: 200 is above 150, the server's maximum (max_limits)"
        answer = server.http.post("/executions/run", json={"agent_id": "sees"})
        assert (answer.status_code, answer.json()["errors"]) == (422, [{"field": "agent_id", "detail": told}])
        execution = server.wait_for_end(execution_id)
        assert execution["termination"]["code"] == "LAUNCH_FAILED"
        assert execution["error_log"] == f"The agent could not be started: {told}."
        assert execution["limits"]["open_files"] == 99
