"""The usage record: what the whole tree of a run has used."""

import pytest

from tests.helpers.server import RunningServer

# What the agent "spin" uses at least.
CPU_SECONDS = 0.3
MEMORY_BYTES = 64 << 20


@pytest.mark.parametrize("who", ["itself", "child", "daemon"])
def test_usage_counts_every_process_of_the_tree(server: RunningServer, who: str) -> None:
    usage = server.run("spin", who=who)["usage"]
    assert usage.keys() == {"wall_seconds", "user_cpu_seconds", "system_cpu_seconds", "peak_memory_bytes"}
    cpu_seconds = usage["user_cpu_seconds"] + usage["system_cpu_seconds"]
    assert CPU_SECONDS <= cpu_seconds < CPU_SECONDS + 0.5
    assert usage["wall_seconds"] >= CPU_SECONDS
    assert MEMORY_BYTES <= usage["peak_memory_bytes"] < 2 * MEMORY_BYTES


def test_usage_of_a_small_agent_is_small(server: RunningServer) -> None:
    usage = server.run("ok")["usage"]
    assert usage["user_cpu_seconds"] + usage["system_cpu_seconds"] < CPU_SECONDS
    assert 1 << 20 <= usage["peak_memory_bytes"] < MEMORY_BYTES
