"""What an agent leaves behind when it has ended: killed before the end is recorded, and no reason to wait."""

import pytest

from tests.helpers.named_pipes import Lifeline
from tests.helpers.server import RunningServer


# Each lives for a minute if it is let to, and holds the result pipe open.
@pytest.mark.parametrize("shape", ["leave_a_child", "leave_a_daemon", "leave_a_hopper"])
def test_leftovers_of_a_success_are_killed_before_it_is_completed(
    server: RunningServer, lifeline: Lifeline, shape: str
) -> None:
    execution = server.run("tree", shape=shape, lifeline=lifeline.path)
    assert lifeline.ended()
    assert lifeline.lines[0] == "here"
    assert (execution["status"], execution["final_result"]) == ("COMPLETED", {"shape": shape})
    assert (execution["termination"]["code"], execution["error_log"]) == ("EXITED_OK", None)
    kill = execution["kill"]
    assert (kill["method"], kill["signaled"], kill["survivors"]) == ("kill", 0, 0)
    assert kill["killed"] >= 1
    assert len(server.events(execution["execution_id"], "kill")) == 1


def test_leftovers_none_no_kill_record(server: RunningServer) -> None:
    execution = server.run("ok")
    assert execution["kill"] is None
    assert server.events(execution["execution_id"], "kill") == []
