"""The client's contract: every path, field, null, status and code that it names."""

import re
import sqlite3
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.named_pipes import Gate
from tests.helpers.problems import check
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

FIELDS = [
    "execution_id",
    "agent_id",
    "status",
    "priority",
    "payload",
    "final_result",
    "error_log",
    "created_at",
    "started_at",
    "completed_at",
]
NOBODYS = "00000000-0000-7000-8000-000000000000"


def instant(text: str) -> datetime:
    """Return the instant of an RFC 3339 text in UTC."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text)
    return datetime.fromisoformat(text)


def contract_part(execution: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the contract names, after a look that they come first and in its order."""
    assert list(execution)[: len(FIELDS)] == FIELDS
    return {name: execution[name] for name in FIELDS}


def test_run_valid_request_is_answered_with_id_and_queued(server: RunningServer) -> None:
    answer = server.http.post("/executions/run", json={"agent_id": "ok", "input": {}})
    assert answer.status_code == 202
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body == {"execution_id": str(uuid.UUID(body["execution_id"])), "status": "QUEUED"}
    assert answer.headers["Location"] == f"/executions/{body['execution_id']}"
    assert server.http.get(answer.headers["Location"]).json()["execution_id"] == body["execution_id"]
    server.wait_for_end(body["execution_id"])


def test_run_by_id_or_by_name_is_the_same_agent(server: RunningServer) -> None:
    by_name = server.run("ok")
    assert str(uuid.UUID(by_name["agent_id"])) == by_name["agent_id"]
    by_id = server.run(by_name["agent_id"])
    assert by_id["status"] == "COMPLETED"
    assert by_id["agent_id"] == by_name["agent_id"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=utf-8"])
def test_run_without_input_gives_the_agent_an_empty_object(server: RunningServer, content_type: str) -> None:
    answer = server.http.post("/executions/run", content=b'{"agent_id": "ok"}', headers={"Content-Type": content_type})
    execution = server.wait_for_end(answer.json()["execution_id"])
    assert execution["payload"] == {}
    assert execution["final_result"] == {"echo": {}}


def test_run_of_any_json_object_keeps_it_as_it_is(server: RunningServer) -> None:
    payload = {
        "": None,
        "a": [True, 0, -1.5, 1e300, 10**40, "", [], {}],
        "é\x00\u2028\N{GRINNING FACE}": {"deep": [[[["x" * 5000]]]]},
    }
    execution = server.run("ok", **payload)
    assert execution["payload"] == payload
    assert execution["final_result"] == {"echo": payload}


def test_get_completed_has_every_field(server: RunningServer) -> None:
    answer = server.http.get(f"/executions/{server.run('ok', question='?')['execution_id']}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    execution = contract_part(answer.json())
    created, started, completed = (
        instant(execution.pop(f"{event}_at")) for event in ("created", "started", "completed")
    )
    assert created <= started <= completed <= datetime.now(UTC)
    del execution["execution_id"], execution["agent_id"]
    assert execution == {
        "status": "COMPLETED",
        "priority": 50,
        "payload": {"question": "?"},
        "final_result": {"echo": {"question": "?"}},
        "error_log": None,
    }


def test_get_failed_says_why_in_error_log(server: RunningServer) -> None:
    execution = contract_part(server.run("raises"))
    assert execution["status"] == "FAILED"
    assert execution["final_result"] is None
    assert execution["error_log"].startswith("Traceback")
    assert "ValueError: no weather today" in execution["error_log"]
    assert instant(execution["started_at"]) <= instant(execution["completed_at"])


def test_status_of_waiting_running_and_canceled_executions(server: RunningServer, tmp_path: Path) -> None:
    """Of this agent one may run at a time, and it takes its time to stop."""
    gate = Gate(tmp_path / "gate")
    first = server.submit("waits", gate=gate.path)
    wait_until_ready(server, first)
    second = server.submit("waits")

    running = contract_part(server.get(first))
    assert (running["status"], running["priority"]) == ("RUNNING", 70)
    assert instant(running["created_at"]) <= instant(running["started_at"])
    assert running["completed_at"] is running["final_result"] is running["error_log"] is None

    pending = contract_part(server.get(second))
    assert pending["status"] == "PENDING"
    assert instant(pending["created_at"]) >= instant(running["created_at"])
    for name in ("final_result", "error_log", "started_at", "completed_at"):
        assert pending[name] is None

    cancel(server, second, 202, "cancel_requested")
    canceled = contract_part(server.get(second))
    assert canceled["status"] == "CANCELED"
    assert canceled["started_at"] is canceled["final_result"] is None
    assert canceled["error_log"]
    assert instant(canceled["completed_at"]) >= instant(canceled["created_at"])

    for _ in range(2):
        cancel(server, first, 202, "cancel_requested")
        stopping = contract_part(server.wait_for(first, "CANCEL_REQUESTED"))
        assert stopping == {**running, "status": "CANCEL_REQUESTED"}

    gate.open()
    stopped = contract_part(server.wait_for_end(first))
    assert stopped["status"] == "CANCELED"
    assert stopped["final_result"] is None
    assert stopped["error_log"]
    assert instant(stopped["completed_at"]) >= instant(stopped["started_at"])


def test_cancel_after_the_end_changes_nothing_and_tells_the_status(server: RunningServer) -> None:
    canceled = server.submit("waits")
    server.cancel(canceled)
    ended = [server.run("ok"), server.run("raises"), server.wait_for_end(canceled)]
    assert [execution["status"] for execution in ended] == ["COMPLETED", "FAILED", "CANCELED"]
    for execution in ended:
        cancel(server, execution["execution_id"], 200, execution["status"].lower())
        assert server.get(execution["execution_id"]) == execution


@pytest.mark.parametrize("execution_id", [NOBODYS, NOBODYS.replace("-", ""), "undefined", "exec-uuid"])
def test_unknown_execution_is_404(server: RunningServer, execution_id: str) -> None:
    check(server.http.get(f"/executions/{execution_id}"), 404)
    check(server.http.post(f"/executions/{execution_id}/cancel"), 404)
    check(server.http.get(f"/executions/{execution_id}/logs"), 404)


def test_health_has_every_field(server: RunningServer) -> None:
    answer = server.http.get("/admin/health")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    health = answer.json()
    assert list(health)[:3] == ["status", "sqlite_version", "uptime_sec"]
    assert (health["status"], health["sqlite_version"]) == ("ok", sqlite3.sqlite_version)
    assert type(health["uptime_sec"]) is int
    assert 0 <= health["uptime_sec"] < 3600


@pytest.mark.parametrize("path", ["/admin/health", "/executions/{}", "/executions/{}/logs"])
def test_head_answers_like_get_without_the_body(server: RunningServer, path: str) -> None:
    path = path.format(server.run("ok")["execution_id"])
    head, get = server.http.head(path), server.http.get(path)
    assert head.content == b""
    assert (head.status_code, head.headers["Content-Type"]) == (200, get.headers["Content-Type"])
    assert head.headers["Content-Length"] == str(len(get.content))


def wait_until_ready(server: RunningServer, execution_id: str) -> None:
    """Wait until the agent has said so."""
    wait_until(lambda: server.get(execution_id)["progress"])


def cancel(server: RunningServer, execution_id: str, status_code: int, status: str) -> None:
    answer = server.cancel(execution_id)
    assert answer.status_code == status_code
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"status": status, "execution_id": execution_id}
