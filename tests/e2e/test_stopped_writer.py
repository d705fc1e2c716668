"""A process that is stopped in the middle of a write: nobody waits for it for ever."""

from contextlib import closing
from pathlib import Path

from supervisor.turns import Turns
from tests.helpers import problems
from tests.helpers.agents import PYTHON, write_agent
from tests.helpers.named_pipes import Lifeline
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

STAYS = """
import os
import signal

def run(input):
    os.write(os.open(input["lifeline"], os.O_WRONLY), b"here\\n")
    signal.pause()
"""


def test_stopped_writer_delays_what_is_recorded_but_no_answer_and_no_end(tmp_path: Path, lifeline: Lifeline) -> None:
    agents = tmp_path / "agents"
    write_agent(agents, "stays", f"{PYTHON}\ntimeout_seconds = 1", {"agent.py": STAYS})
    write_agent(agents, "ok", PYTHON, {"agent.py": "def run(input): return {}"})
    with RunningServer(tmp_path / "data", agents=agents) as server:
        execution_id = server.submit("stays", lifeline=lifeline.path)
        lifeline.wait_for("here")
        with closing(Turns(tmp_path / "data" / "corral.turns", 20)) as stopped, stopped.take():
            answer = server.http.post("/executions/run", json={"agent_id": "ok", "input": {}})
            assert "another process has been writing" in problems.check(answer, 503)["detail"]
            wait_until(lifeline.ended)
            assert server.get(execution_id)["status"] == "RUNNING"
            assert "another process has been writing" in server.errors()
        assert server.wait_for_end(execution_id)["termination"]["code"] == "WALL_TIME"
        # Not before what Retry-After has said.
        wait_until(lambda: server.http.post("/executions/run", json={"agent_id": "ok"}).status_code == 202)
