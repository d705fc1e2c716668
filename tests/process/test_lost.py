"""A run whose init is killed: how it ended is not known, and nothing of it lives."""

import os
from pathlib import Path

from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until


def test_init_killed_by_its_agent_is_lost_leaves_nobody_and_harms_nobody(
    tmp_path: Path, lifeline: Lifeline, gate: Gate
) -> None:
    with RunningServer(tmp_path / "data") as server:
        processes = (server.launcher_pid, server.api_pid)
        bystander = server.submit("gated", gate=gate.path)
        execution = server.run("tree", shape="kill_the_parent", lifeline=lifeline.path)
        assert lifeline.ended()
        assert (execution["status"], execution["termination"]["code"]) == ("FAILED", "LOST")
        assert execution["error_log"] == "The run's init process was killed; how the agent ended is not known."
        assert execution["usage"]["wall_seconds"] > 0
        wait_until(lambda: len(os.listdir(server.data / "work")) == 1)  # the bystander's
        # More than there were inits waiting.
        for _ in range(4):
            assert server.run("ok")["status"] == "COMPLETED"
        gate.open()
        assert server.wait_for_end(bystander)["status"] == "COMPLETED"
        assert (server.launcher_pid, server.api_pid) == processes
    assert not server.errors()


def test_init_killed_while_it_is_being_canceled_is_canceled(tmp_path: Path, lifeline: Lifeline) -> None:
    with RunningServer(tmp_path / "data") as server:
        execution_id = server.submit("tree", shape="kill_the_parent_on_sigterm", lifeline=lifeline.path)
        lifeline.wait_for("here")
        server.cancel(execution_id)
        execution = server.wait_for_end(execution_id)
        assert lifeline.ended()
        assert (execution["status"], execution["termination"]["code"]) == ("CANCELED", "CANCELED")
        assert execution["kill"]["survivors"] == 0
