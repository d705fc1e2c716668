"""What comes in and what goes out, field by field."""

import json
from typing import Annotated, Any, TypeVar

import falcon
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.errors import InvalidRequest
from supervisor import strict_json
from supervisor.agents import Agent
from supervisor.clock import rfc3339
from supervisor.errors import InvalidJson
from supervisor.limits import DEFAULTS, Limits, LimitsTable, Timeout, excesses, limits_said, plain
from supervisor.models import Execution

Body = TypeVar("Body", bound=BaseModel)

_text = json.JSONEncoder().encode

# The answer names each field that is wrong, unless there are more of them.
_MAX_WRONG_FIELDS = 100
_MAX_NAME_LENGTH = 100

# What pydantic calls it, in a client's words.
_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "model_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "string_unicode": "holds half of a surrogate pair",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
}


class RunRequest(BaseModel):
    """Body of POST /executions/run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent_id: Annotated[str, Field(min_length=1, max_length=200)]
    """Id or name of the agent."""
    input: dict[str, Any] = {}
    """What the agent is given."""
    timeout_seconds: Timeout = DEFAULTS.timeout_seconds
    limits: LimitsTable = LimitsTable()
    """Counts, like timeout_seconds, only as far as it is said: see lowered_limits."""


def read_body(request: falcon.Request, model: type[Body]) -> Body:
    """Return the request's body as a model.

    Raises:
        falcon.HTTPError: 415 not declared as JSON, 400 not JSON, 422 not the model's fields.
    """
    if (request.content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise falcon.HTTPUnsupportedMediaType(description="cannot read body: its Content-Type is not application/json")
    try:
        value = strict_json.parse(request.bounded_stream.read())
    except InvalidJson as error:
        raise falcon.HTTPBadRequest(description=f"cannot read body: {error}") from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if error.error_count() > _MAX_WRONG_FIELDS:
            what = f"has more than {_MAX_WRONG_FIELDS} fields that are wrong"
            raise InvalidRequest([{"field": "body", "detail": what}]) from error
        fields = [
            {"field": _place(item["loc"]), "detail": _in_words(item["type"], item["msg"], item.get("ctx", {}))}
            for item in error.errors()
        ]
        raise InvalidRequest(fields) from error


def input_text(value: dict[str, object]) -> str:
    """Return an input as it is recorded. Raises InvalidRequest: it holds what no UTF-8 or no number can."""
    try:
        return strict_json.dump(value)
    except InvalidJson as error:
        raise InvalidRequest([{"field": "input", "detail": str(error)}]) from error


def lowered_limits(request: RunRequest, agent: Agent) -> Limits:
    """Return the agent's limits with those that a request lowers. Raises InvalidRequest: it would raise one."""
    said = limits_said(request)
    too_high = [
        {"field": excess.place, "detail": f"must be at most {plain(excess.most)}, the limit of this agent"}
        for excess in excesses(said, agent.limits)
    ]
    if too_high:
        raise InvalidRequest(too_high)
    return agent.limits.lowered(said)


def execution_json(execution: Execution) -> bytes:
    """Return an execution as the client contract has it, then Corral's additions; what is not known is null.

    The agent's result and the client's input are put in as the JSON text they were validated to be.
    """
    fields = {
        "execution_id": _text(execution.execution_id),
        "agent_id": _text(execution.agent_id),
        "status": _text(execution.status),
        "priority": str(execution.priority),
        "payload": execution.payload,
        "final_result": execution.final_result or "null",
        "error_log": _text(execution.error_log),
        "created_at": _text(rfc3339(execution.created_at)),
        "started_at": _text(rfc3339(execution.started_at)),
        "completed_at": _text(rfc3339(execution.completed_at)),
        "agent_name": _text(execution.agent_name),
        "attempt": str(execution.attempt),
        "not_before": _text(rfc3339(execution.not_before)),
        **_limits(execution.limits),
        "progress": execution.progress or "null",
        "termination": _with_instant(execution.termination, "at"),
        "usage": execution.usage or "null",
        "kill": _with_instant(execution.kill, "verified_empty_at"),
        "isolation": execution.isolation or "null",
        "unkillable_since": _text(rfc3339(execution.unkillable_since)),
        "attempts": _attempts(execution.attempts),
    }
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()


def _limits(record: str | None) -> dict[str, str]:
    """Return stored limits where a request has them."""
    limits = json.loads(record) if record else {}
    timeout_seconds = limits.pop("timeout_seconds", None)
    return {"timeout_seconds": json.dumps(timeout_seconds), "limits": json.dumps(limits or None)}


def _with_instant(record: str | None, name: str) -> str:
    """Return a stored record with its instant as people read it."""
    if record is None:
        return "null"
    return json.dumps(_readable(json.loads(record), name))


def _attempts(record: str) -> str:
    """Return a stored list of attempts with all its instants as people read them."""
    attempts = json.loads(record)
    for attempt in attempts:
        _readable(attempt, "started_at", "completed_at")
        _readable(attempt["termination"], "at")
        _readable(attempt["kill"], "verified_empty_at")
    return json.dumps(attempts)


def _readable(record: dict[str, Any] | None, *names: str) -> dict[str, Any] | None:
    """Change the instants of these names in a record, if there is one, to what people read; return it."""
    if record:
        record.update({name: rfc3339(record[name]) for name in names})
    return record


def _in_words(kind: str, message: str, context: dict[str, Any]) -> str:
    """Return one of pydantic's errors in a client's words, as far as there are any."""
    return _WORDS[kind].format(**context) if kind in _WORDS else message


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))[:_MAX_NAME_LENGTH] or "body"
