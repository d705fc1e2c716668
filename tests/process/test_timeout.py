"""timeout_seconds: the same ladder as for a cancel, and an end that names the limit."""

import pytest

from tests.helpers.named_pipes import Lifeline
from tests.helpers.server import RunningServer

# Of the agent "overtime": both its timeout_seconds and its grace_seconds.
SECONDS = 0.3


@pytest.mark.parametrize(
    ("then", "method", "killed", "said"),
    [("clean up", "terminate", 0, ["here", "asked", "clean"]), ("go on", "kill", 1, ["here", "asked"])],
)
def test_timeout_agent_is_asked_then_killed_after_the_grace_period(
    server: RunningServer, lifeline: Lifeline, then: str, method: str, killed: int, said: list[str]
) -> None:
    execution = server.run("overtime", lifeline=lifeline.path, then=then)
    assert lifeline.ended()
    assert lifeline.lines == said
    kill = execution["kill"]
    assert (kill["method"], kill["signaled"], kill["killed"], kill["survivors"]) == (method, 1, killed, 0)
    assert (kill["duration_ms"] >= SECONDS * 1000) == (method == "kill")


def test_timeout_is_a_failure_that_tells_limit_and_observed(server: RunningServer, lifeline: Lifeline) -> None:
    execution = server.run("overtime", lifeline=lifeline.path, then="clean up")
    termination = execution["termination"]
    assert execution["status"] == "FAILED"
    assert (termination["code"], termination["by"]) == ("WALL_TIME", "limit")
    assert termination["limit"] == {"timeout_seconds": SECONDS}
    assert SECONDS <= termination["observed"]["wall_seconds"] <= execution["usage"]["wall_seconds"]
    assert execution["error_log"] == "It ran longer than its limit of 0.3 seconds."
    assert execution["final_result"] is None
    assert server.statuses(execution["execution_id"]) == ["PENDING", "RUNNING", "FAILED"]
