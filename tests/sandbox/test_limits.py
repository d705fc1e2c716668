"""Limits that a request lowers are those that its sandbox has: of the whole tree, where there is a control group."""

import pytest

from tests.helpers.agents import write_agent
from tests.helpers.lowered import run_lowered
from tests.helpers.server import RunningServer

MEGABYTE = 1 << 20

MEASURES = """
import os, threading

def run(input):
    if "allocates" in input:
        bytearray(b"x") * input["allocates"]
    sizes = {}
    for place in ("/work", "/tmp", "/dev/shm"):
        seen = os.statvfs(place)
        sizes[place] = seen.f_blocks * seen.f_frsize
    return {"sizes": sizes, "threads": threads()}

def threads():
    stop, started = threading.Event(), [threading.current_thread()]
    try:
        while len(started) < 60:
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    stop.set()
    return len(started)
"""


@pytest.fixture(scope="module")
def measures(strict: RunningServer) -> str:
    """An agent that tells how large its places are and how many threads it can have."""
    write_agent(strict.agents, "measures", 'entrypoint = "agent:run"', {"agent.py": MEASURES})
    return "measures"


def test_lowered_processes_and_disk_are_those_of_the_sandbox(strict: RunningServer, measures: str) -> None:
    roomy = run_lowered(strict, measures, {})["final_result"]
    assert roomy["threads"] == 60
    assert set(roomy["sizes"].values()) == {64 * MEGABYTE}
    small = run_lowered(strict, measures, {"processes": 9, "disk_bytes": 5 * MEGABYTE})["final_result"]
    assert small["threads"] == 9
    assert set(small["sizes"].values()) == {5 * MEGABYTE}


def test_lowered_memory_ends_the_run_or_is_an_exception_of_python(strict: RunningServer, measures: str) -> None:
    allocates = 300 * MEGABYTE
    assert run_lowered(strict, measures, {}, allocates=allocates)["status"] == "COMPLETED"
    execution = run_lowered(strict, measures, {"memory_bytes": 128 * MEGABYTE}, allocates=allocates)
    termination = execution["termination"]
    if "cgroup" in execution["isolation"]["effective"]:
        assert (termination["code"], termination["limit"]) == ("MEMORY", {"memory_bytes": 128 * MEGABYTE})
    else:
        assert execution["error_log"].splitlines()[-1] == "MemoryError"
