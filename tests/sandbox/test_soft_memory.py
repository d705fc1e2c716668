"""Memory of a whole sandboxed tree that has no control group: the supervisor looks."""

from collections.abc import Iterator

import pytest

from tests.helpers import without_groups
from tests.helpers.agents import run_new
from tests.helpers.server import RunningServer

MEGABYTE = 1 << 20
PYTHON = 'entrypoint = "agent:run"'

MEMORY = """
import os, time

def run(input):
    for _ in range(input["children"]):
        if os.fork() == 0:
            memory = b"x" * (40 << 20)
            time.sleep(60)
            os._exit(0)
    time.sleep(input["seconds"])
    return {}
"""

SHARED = """
import os, time

def run(input):
    memory = b"x" * (60 << 20)
    for _ in range(4):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    time.sleep(0.3)
    return {"length": len(memory)}
"""


@pytest.fixture(scope="module", params=without_groups.WHO)
def soft(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with without_groups.server(request.param) as running:
        yield running


def test_memory_of_a_tree_over_its_limit_is_killed_at_once(soft: RunningServer) -> None:
    manifest = f"{PYTHON}\ngrace_seconds = 60\nlimits.memory_bytes = {100 * MEGABYTE}"
    execution = run_new(soft, manifest, {"agent.py": MEMORY}, children=4, seconds=60)
    termination = execution["termination"]
    assert (execution["status"], termination["code"], termination["by"]) == ("FAILED", "MEMORY", "limit")
    assert termination["limit"] == {"memory_bytes": 100 * MEGABYTE}
    assert 100 * MEGABYTE < termination["observed"]["peak_memory_bytes"] < 400 * MEGABYTE
    kill = execution["kill"]
    assert (kill["method"], kill["signaled"], kill["survivors"]) == ("kill", 0, 0)
    assert kill["verified_empty_at"]


def test_memory_of_a_tree_below_its_limit_is_let_be(soft: RunningServer) -> None:
    manifest = f"{PYTHON}\nlimits.memory_bytes = {300 * MEGABYTE}"
    execution = run_new(soft, manifest, {"agent.py": MEMORY}, children=4, seconds=0.3)
    assert execution["status"] == "COMPLETED", execution["error_log"]


def test_memory_that_a_tree_shares_counts_once(soft: RunningServer) -> None:
    manifest = f"{PYTHON}\nlimits.memory_bytes = {200 * MEGABYTE}"
    execution = run_new(soft, manifest, {"agent.py": SHARED})
    assert execution["status"] == "COMPLETED", execution["error_log"]
