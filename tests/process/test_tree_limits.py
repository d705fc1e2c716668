"""Limits of a trusted tree, which no control group holds, and the causes that are told of them."""

import pytest

from tests.helpers.agents import PYTHON, python_modes, run_new
from tests.helpers.server import RunningServer

MEGABYTE = 1 << 20

SPIN = """
import os, time

def run(input):
    for _ in range(input["rounds"]):
        for _ in range(input["children"]):
            if os.fork() == 0:
                spin()
        for _ in range(input["children"]):
            os.wait()
    return {}

def spin():
    if os.fork() == 0:
        while time.process_time() < 0.4:
            pass
        os._exit(0)
    os.wait()
    os._exit(0)
"""


@pytest.mark.parametrize(("children", "rounds"), [(6, 1), (1, 6)], ids=["at once", "one after the other"])
def test_cpu_time_of_a_tree_over_its_limit_is_stopped(workshop: RunningServer, children: int, rounds: int) -> None:
    manifest = f"{PYTHON}\nlimits.cpu_seconds = 1"
    execution = run_new(workshop, manifest, {"agent.py": SPIN}, children=children, rounds=rounds)
    termination = execution["termination"]
    assert (execution["status"], termination["code"], termination["by"]) == ("FAILED", "CPU_TIME", "limit")
    assert termination["limit"] == {"cpu_seconds": 1}
    assert 1 <= termination["observed"]["cpu_seconds"] < 2
    assert execution["kill"]["method"] == "terminate"


def test_cpu_time_of_runs_before_on_the_same_init_does_not_count(workshop: RunningServer) -> None:
    manifest = f"{PYTHON}\nconcurrency = 1\nlimits.cpu_seconds = 1"
    for _ in range(4):
        execution = run_new(workshop, manifest, {"agent.py": SPIN}, children=1, rounds=1)
        assert execution["status"] == "COMPLETED", execution["error_log"]


@python_modes
def test_memory_error_is_the_limit_of_memory_and_keeps_its_traceback(workshop: RunningServer, manifest: str) -> None:
    manifest += f"\nlimits.memory_bytes = {100 * MEGABYTE}"
    execution = run_new(workshop, manifest, {"agent.py": "def run(input): return {'x': len(bytearray(200 << 20))}"})
    termination = execution["termination"]
    assert (termination["code"], termination["by"], termination["exit_code"]) == ("MEMORY", "limit", 1)
    assert termination["limit"] == {"memory_bytes": 100 * MEGABYTE}
    assert execution["error_log"].startswith(termination["message"])
    assert execution["error_log"].splitlines()[-1] == "MemoryError"


@python_modes
def test_file_too_large_is_the_limit_of_file_size_and_keeps_its_traceback(
    workshop: RunningServer, manifest: str
) -> None:
    manifest += "\nlimits.file_size_bytes = 1000"
    code = "import pathlib\ndef run(input, context): pathlib.Path(context.workdir, 'x').write_bytes(bytes(2000))"
    execution = run_new(workshop, manifest, {"agent.py": code})
    termination = execution["termination"]
    assert (termination["code"], termination["by"], termination["exit_code"]) == ("FILE_SIZE", "limit", 1)
    assert termination["limit"] == {"file_size_bytes": 1000}
    assert "OSError: [Errno 27] File too large" in execution["error_log"]


def test_share_of_cpu_time_that_nothing_gives_is_told_as_missing(workshop: RunningServer) -> None:
    execution = run_new(workshop, f"{PYTHON}\nlimits.cpus = 0.5", {"agent.py": "def run(input): return {}"})
    assert execution["isolation"]["missing"] == ["cpu_share"]
