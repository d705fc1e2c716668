"""Limits of one request: what is refused, and what an execution shows. Its agent "ok" has the server's defaults."""

import json
from typing import Any

import httpx
import pytest

from supervisor.limits import DEFAULTS, Limits, LimitsTable, plain
from tests.helpers.problems import check
from tests.helpers.server import RunningServer

NAMES = list(Limits.model_fields)


def submit(server: RunningServer, fields: str) -> httpx.Response:
    """Submit an execution of "ok" with these further fields of the body, as JSON text."""
    content = f'{{"agent_id": "ok", {fields}}}'.encode()
    return server.http.post("/executions/run", content=content, headers={"Content-Type": "application/json"})


def with_limit(name: str, value: object) -> str:
    text = f'"{name}": {json.dumps(value)}'
    return f'"limits": {{{text}}}' if name in LimitsTable.model_fields else text


def place(name: str) -> str:
    return f"limits.{name}" if name in LimitsTable.model_fields else name


REFUSED: dict[str, tuple[str, dict[str, str]]] = {
    "timeout zero": ('"timeout_seconds": 0', {"timeout_seconds": "must be more than 0"}),
    "timeout below zero": ('"timeout_seconds": -1', {"timeout_seconds": "must be more than 0"}),
    "timeout text": ('"timeout_seconds": "5"', {"timeout_seconds": "must be a number"}),
    "timeout true": ('"timeout_seconds": true', {"timeout_seconds": "must be a number"}),
    "timeout null": ('"timeout_seconds": null', {"timeout_seconds": "must be a number"}),
    "timeout list": ('"timeout_seconds": [5]', {"timeout_seconds": "must be a number"}),
    "timeout out of range": ('"timeout_seconds": 1e999', {"timeout_seconds": "must be a finite number"}),
    "limits null": ('"limits": null', {"limits": "must be a JSON object"}),
    "limits list": ('"limits": [1]', {"limits": "must be a JSON object"}),
    "limits number": ('"limits": 5', {"limits": "must be a JSON object"}),
    "unknown limit": ('"limits": {"memory": 1}', {"limits.memory": "is not a known field"}),
    "limit in other letters": ('"limits": {"Processes": 1}', {"limits.Processes": "is not a known field"}),
    "timeout among the limits": (
        '"limits": {"timeout_seconds": 1}',
        {"limits.timeout_seconds": "is not a known field"},
    ),
    "limit beside the limits": ('"cpu_seconds": 1', {"cpu_seconds": "is not a known field"}),
    "limit null": ('"limits": {"processes": null}', {"limits.processes": "must be an integer"}),
    "limit text": ('"limits": {"processes": "5"}', {"limits.processes": "must be an integer"}),
    "limit true": ('"limits": {"processes": true}', {"limits.processes": "must be an integer"}),
    "limit fraction": ('"limits": {"cpu_seconds": 1.5}', {"limits.cpu_seconds": "must be an integer"}),
    "limit with a point": ('"limits": {"cpu_seconds": 1.0}', {"limits.cpu_seconds": "must be an integer"}),
    "no CPU time": ('"limits": {"cpu_seconds": 0}', {"limits.cpu_seconds": "must be at least 1"}),
    "little memory": ('"limits": {"memory_bytes": 16777215}', {"limits.memory_bytes": "must be at least 16777216"}),
    "file size": ('"limits": {"file_size_bytes": -1}', {"limits.file_size_bytes": "must be at least 0"}),
    "no processes": ('"limits": {"processes": 0}', {"limits.processes": "must be at least 1"}),
    "no disk": ('"limits": {"disk_bytes": 4095}', {"limits.disk_bytes": "must be at least 4096"}),
    "few files": ('"limits": {"open_files": 15}', {"limits.open_files": "must be at least 16"}),
    "no result": ('"limits": {"result_bytes": 1}', {"limits.result_bytes": "must be at least 2"}),
    "no log": ('"limits": {"log_bytes": 4095}', {"limits.log_bytes": "must be at least 4096"}),
    "too high and of 4000 digits": (
        f'"limits": {{"processes": {"9" * 4000}}}',
        {"limits.processes": "must be at most 128, the limit of this agent"},
    ),
    "two too high": (
        '"timeout_seconds": 301, "limits": {"cpu_seconds": 601, "processes": 128}',
        {
            "limits.cpu_seconds": "must be at most 600, the limit of this agent",
            "timeout_seconds": "must be at most 300, the limit of this agent",
        },
    ),
    "several mistakes": (
        '"limits": {"cpu_seconds": 0, "nice": 1}, "timeout_seconds": "x"',
        {
            "timeout_seconds": "must be a number",
            "limits.cpu_seconds": "must be at least 1",
            "limits.nice": "is not a known field",
        },
    ),
    "limit with half a surrogate pair": (
        r'"limits": {"\ud800": 1}',
        {"limits": "holds half of a surrogate pair"},
    ),
    "very many unknown limits": (
        f'"limits": {json.dumps(dict.fromkeys(map(str, range(70_000)), 1))}',
        {"body": "has more than 100 fields that are wrong"},
    ),
}


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize(("fields", "errors"), REFUSED.values(), ids=REFUSED)
def test_run_with_wrong_limits_is_422_and_told_what_they_must_be(
    server: RunningServer, fields: str, errors: dict[str, str]
) -> None:
    problem = check(submit(server, fields), 422, *errors)
    assert {error["field"]: error["detail"] for error in problem["errors"]} == errors


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize("name", NAMES)
def test_run_above_a_limit_of_its_agent_is_422_and_told_the_limit(server: RunningServer, name: str) -> None:
    limit = getattr(DEFAULTS, name)
    problem = check(submit(server, with_limit(name, limit + 1)), 422, place(name))
    assert problem["errors"][0]["detail"] == f"must be at most {plain(limit)}, the limit of this agent"


@pytest.mark.parametrize("name", NAMES)
def test_run_lowers_one_limit_and_shows_all_in_effect(server: RunningServer, name: str) -> None:
    value = getattr(DEFAULTS, name) // 2
    answer = submit(server, with_limit(name, value))
    assert answer.status_code == 202, answer.text
    execution = server.wait_for_end(answer.json()["execution_id"])
    assert execution["status"] == "COMPLETED", execution["error_log"]
    assert limits_of(execution) == DEFAULTS.model_dump() | {name: value}


@pytest.mark.parametrize(
    "fields", ['"input": {}', '"limits": {}', '"timeout_seconds": 300, "limits": {"processes": 128}']
)
def test_run_that_lowers_nothing_has_the_limits_of_its_agent(server: RunningServer, fields: str) -> None:
    execution = server.wait_for_end(submit(server, fields).json()["execution_id"])
    assert limits_of(execution) == DEFAULTS.model_dump()


def limits_of(execution: dict[str, Any]) -> dict[str, float]:
    """Return the limits of an execution as one record, after a look at where it has them."""
    assert list(execution["limits"]) == list(LimitsTable.model_fields)
    return {**execution["limits"], "timeout_seconds": execution["timeout_seconds"]}
