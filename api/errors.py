"""One shape for every error: problem details. Source: RFC 9457."""

import json

import falcon
import structlog

from supervisor.errors import (
    AgentBroken,
    AgentUnknown,
    AttemptUnknown,
    CorralError,
    ExecutionUnknown,
    FileUnknown,
    KeyReused,
    SandboxUnavailable,
    StoreError,
)

PROBLEM_TYPE = "application/problem+json"

# The disk may be full or another process may hold the database for long; a second is worth waiting.
_RETRY_AFTER_SECONDS = 1

_log = structlog.get_logger()

# What a domain error is over HTTP; the first class that matches counts.
_STATUS: tuple[tuple[type[CorralError], str], ...] = (
    (ExecutionUnknown, falcon.HTTP_404),
    (AttemptUnknown, falcon.HTTP_404),
    (FileUnknown, falcon.HTTP_404),
    (AgentUnknown, falcon.HTTP_422),
    (AgentBroken, falcon.HTTP_422),
    (SandboxUnavailable, falcon.HTTP_503),
    (StoreError, falcon.HTTP_503),
)

# Which field of the body, or which header, a domain error is about.
_FIELD = {AgentUnknown: "agent_id", AgentBroken: "agent_id", KeyReused: "Idempotency-Key"}


class InvalidRequest(falcon.HTTPError):
    """422: the body or the query is not what it must be.

    fields: [{"field", "detail"}], one for each thing that is wrong.
    """

    def __init__(self, fields: list[dict[str, str]]) -> None:
        detail = "; ".join(f"{item['field']}: {item['detail']}" for item in fields)
        super().__init__(falcon.HTTP_422, description=f"cannot accept request: {detail}")
        self.fields = fields


def problem(status: str, detail: str | None, fields: list[dict[str, str]] | None = None) -> bytes:
    """Return the body of an error.

    Args:
        status: the HTTP status line, e.g. "404 Not Found". detail: a sentence about this one case.
        fields: see InvalidRequest.
    """
    code, _, title = status.partition(" ")
    record: dict[str, object] = {"type": "about:blank", "title": title, "status": int(code), "detail": detail or title}
    if fields:
        record["errors"] = fields
    return json.dumps(record).encode()


def install(app: falcon.App[falcon.Request, falcon.Response]) -> None:
    """Make an application answer every error as problem details."""
    app.set_error_serializer(_serialize)
    app.add_error_handler(CorralError, _on_domain_error)
    app.add_error_handler(Exception, _on_bug)


def _serialize(_request: falcon.Request, response: falcon.Response, error: falcon.HTTPError) -> None:
    response.content_type = PROBLEM_TYPE
    response.data = problem(falcon.code_to_http_status(error.status), error.description, getattr(error, "fields", None))


def _on_domain_error(
    _request: falcon.Request, _response: falcon.Response, error: CorralError, _parameters: dict[str, object]
) -> None:
    field = _FIELD.get(type(error))
    if field:
        raise InvalidRequest([{"field": field, "detail": str(error)}])
    for kind, status in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(_RETRY_AFTER_SECONDS)} if status == falcon.HTTP_503 else None
            raise falcon.HTTPError(status, description=str(error), headers=headers)
    raise error


def _on_bug(
    request: falcon.Request, _response: falcon.Response, error: Exception, _parameters: dict[str, object]
) -> None:
    """Answer 500 without detail, which may hold what the client must not see; the log has it."""
    if isinstance(error, (falcon.HTTPError, falcon.HTTPStatus)):
        raise error
    _log.error("request failed", method=request.method, path=request.path, exc_info=error)
    raise falcon.HTTPInternalServerError
