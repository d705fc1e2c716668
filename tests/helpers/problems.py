"""The one shape of all errors. Source: RFC 9457."""

import json
from collections.abc import Mapping
from typing import Any, Protocol


class Answer(Protocol):
    """What every HTTP client returns."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


def check(answer: Answer, status: int, *fields: str) -> dict[str, Any]:
    """Return the problem that an answer tells of, after a look at its shape.

    Args:
        status: the HTTP status. fields: what `errors` must name, in this order; none if there must be no `errors`.
    """
    assert answer.status_code == status, answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert list(problem) == ["type", "title", "status", "detail", *(["errors"] if fields else [])]
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert all(isinstance(problem[name], str) and problem[name] for name in ("title", "detail"))
    errors = problem.get("errors", [])
    assert [error["field"] for error in errors] == list(fields)
    assert all(list(error) == ["field", "detail"] and error["detail"] for error in errors)
    return dict(problem)
