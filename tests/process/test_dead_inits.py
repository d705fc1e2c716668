"""Inits that die, or are stopped, at a bad moment: the run is given to another one, or goes on."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.agents import PYTHON, run_new
from tests.helpers.processes import lives
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

AGENTS = ("ok", "trusted")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm, with inits of both tiers that wait."""
    with RunningServer(tmp_path / "data") as running:
        for agent in AGENTS:
            running.run(agent)
        yield running
    assert not running.errors(), "the server complained"


def inits(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.launcher_pid).children()


@pytest.mark.parametrize("agent", AGENTS, ids=["sandboxed", "trusted"])
def test_run_is_not_given_to_an_init_that_has_just_died(own: RunningServer, agent: str) -> None:
    launcher = psutil.Process(own.launcher_pid)
    waiting = inits(own)
    assert waiting
    launcher.suspend()
    for init in waiting:
        init.kill()
    wait_until(lambda: not any(lives(init.pid) for init in waiting))
    execution_id = own.submit(agent)
    own.wait_for(execution_id, "RUNNING")
    launcher.resume()
    assert own.wait_for_end(execution_id)["status"] == "COMPLETED"


def test_run_whose_init_dies_before_the_agent_has_started_gets_another_one(own: RunningServer) -> None:
    waiting = inits(own)
    for init in waiting:
        for agent in init.children():
            agent.suspend()
    execution_id = own.submit("ok")
    own.wait_for(execution_id, "RUNNING")
    # The run is given away at once, to one that cannot take it now.
    given = own.submit("trusted")
    own.wait_for(given, "RUNNING")
    for init in waiting:
        init.kill()
    assert own.wait_for_end(execution_id)["status"] == "COMPLETED"
    assert own.wait_for_end(execution_id)["final_result"] == {"echo": {}}


def test_trusted_agent_that_stops_its_init_and_exits_completes(tmp_path: Path) -> None:
    code = "import os, signal\ndef run(input):\n    os.kill(os.getppid(), signal.SIGSTOP)\n    return {}"
    (tmp_path / "agents").mkdir()
    with RunningServer(tmp_path / "data", agents=tmp_path / "agents") as server:
        for _ in range(3):
            execution = run_new(server, f"{PYTHON}\ntimeout_seconds = 60", {"agent.py": code})
            assert execution["status"] == "COMPLETED"
            assert execution["kill"] is None
            assert execution["usage"]["wall_seconds"] < 20
    assert not server.errors()
