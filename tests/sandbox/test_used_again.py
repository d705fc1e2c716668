"""A sandbox that serves another run of its agent: nothing of the run before is in it."""

import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.server import AGENTS, RunningServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's sandboxes serve one run")

# In a new sandbox the agent is the second process.
NEW = 2

NOTHING_LEFT = {"files": [], "shared memory": "new", "name": "new"}


def visit(server: RunningServer, agent: str = "leaves_traces", **input: str) -> dict[str, object]:
    found = server.run(agent, **input)["final_result"]
    assert found, agent
    return dict(found)


def test_next_run_of_an_agent_finds_nothing_of_the_one_before(server: RunningServer) -> None:
    first, second = visit(server), visit(server)
    assert second["pid"] != NEW, "it was not the same sandbox"
    for found in (first, second):
        assert {name: found[name] for name in NOTHING_LEFT} == NOTHING_LEFT


def test_agent_has_no_power_over_the_init_that_serves_again(server: RunningServer) -> None:
    visit(server)
    assert visit(server)["init"] == dict.fromkeys(("limit", "priority", "cores", "signal"), "EPERM")


@pytest.mark.parametrize("how", ["killed", "leaving a child"])
def test_sandbox_of_a_run_without_a_clean_end_is_not_used_again(server: RunningServer, how: str) -> None:
    server.run("leaves_traces", how=how)
    assert visit(server)["pid"] == NEW


def test_sandbox_is_not_used_for_another_agent(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    for name in ("one", "other"):
        shutil.copytree(AGENTS / "leaves_traces", agents / name)
    with RunningServer(tmp_path / "data", agents=agents) as server:
        visit(server, "one")
        assert visit(server, "other")["pid"] == NEW
        assert visit(server, "one")["pid"] != NEW


def test_usage_is_that_of_one_run(server: RunningServer) -> None:
    dear = server.run("leaves_traces", how="spending")["usage"]
    cheap = server.run("leaves_traces")["usage"]
    assert dear["user_cpu_seconds"] + dear["system_cpu_seconds"] > 0.4
    assert cheap["user_cpu_seconds"] + cheap["system_cpu_seconds"] < 0.3
    assert dear["peak_memory_bytes"] > 100 << 20 > cheap["peak_memory_bytes"]
