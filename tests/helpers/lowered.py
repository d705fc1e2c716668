"""Executions that ask for lower limits than their agent has."""

from typing import Any

from tests.helpers.server import RunningServer


def submit_lowered(server: RunningServer, agent: str, lower: dict[str, float], **input: Any) -> str:
    """Submit an execution and return its id. Args: lower: {limit: value}, timeout_seconds among them."""
    limits = dict(lower)
    timeout = {"timeout_seconds": limits.pop("timeout_seconds")} if "timeout_seconds" in limits else {}
    body = {"agent_id": agent, "input": input, "limits": limits, **timeout}
    answer = server.http.post("/executions/run", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def run_lowered(server: RunningServer, agent: str, lower: dict[str, float], **input: Any) -> dict[str, Any]:
    """Like submit_lowered, but return the execution as it is at its end."""
    return server.wait_for_end(submit_lowered(server, agent, lower, **input), seconds=60)
