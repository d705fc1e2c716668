"""Requests that must be refused: each gets problem details and records nothing, and the server goes on."""

import json
from typing import Any

import pytest

from tests.helpers.problems import check
from tests.helpers.server import RunningServer

pytestmark = pytest.mark.usefixtures("nothing_recorded")

LIMIT = 1 << 20
JSON = {"Content-Type": "application/json"}
NOBODYS = "00000000-0000-7000-8000-000000000000"


def post(server: RunningServer, body: bytes) -> Any:
    return server.http.post("/executions/run", content=body, headers=JSON)


def with_input(value: bytes) -> bytes:
    return b'{"agent_id": "ok", "input": {"a": ' + value + b"}}"


NOT_JSON = {
    "nothing": b"",
    "white space": b" \r\n\t ",
    "text": b"agent_id=ok",
    "half": b'{"agent_id": "ok"',
    "two": b'{"agent_id": "ok"}{"agent_id": "ok"}',
    "single quotes": b"{'agent_id': 'ok'}",
    "comment": b'{"agent_id": "ok"} // please',
    "NaN": with_input(b"NaN"),
    "Infinity": with_input(b"-Infinity"),
    "invalid UTF-8": b'{"agent_id": "ok", "input": {"a": "\xff"}}',
    "UTF-16": '{"agent_id": "ok"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"agent_id": "ok"}',
    "raw NUL": b'{"agent_id": "o\x00k"}',
    "number of 5000 digits": with_input(b"1" * 5000),
    "too deep": with_input(b"[" * 99 + b"]" * 99),
    "far too deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "too many values": with_input(b"[" + b"0," * 200_000 + b"0]"),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_run_with_a_body_that_is_no_json_is_400(server: RunningServer, body: bytes) -> None:
    check(post(server, body), 400)


WRONG_FIELDS: dict[str, tuple[bytes, list[str]]] = {
    "list": (b"[]", ["body"]),
    "text": (b'"ok"', ["body"]),
    "number": (b"1", ["body"]),
    "true": (b"true", ["body"]),
    "null": (b"null", ["body"]),
    "empty object": (b"{}", ["agent_id"]),
    "no agent": (b'{"input": {}}', ["agent_id"]),
    "agent null": (b'{"agent_id": null}', ["agent_id"]),
    "agent number": (b'{"agent_id": 7}', ["agent_id"]),
    "agent list": (b'{"agent_id": ["ok"]}', ["agent_id"]),
    "agent empty": (b'{"agent_id": ""}', ["agent_id"]),
    "agent unknown": (b'{"agent_id": "nobody"}', ["agent_id"]),
    "agent unknown UUID": (f'{{"agent_id": "{NOBODYS}"}}'.encode(), ["agent_id"]),
    "agent in other letters": (b'{"agent_id": "OK"}', ["agent_id"]),
    "agent with white space": (b'{"agent_id": "ok "}', ["agent_id"]),
    "agent with NUL": (rb'{"agent_id": "ok\u0000"}', ["agent_id"]),
    "agent with half a surrogate pair": (rb'{"agent_id": "ok\ud800"}', ["agent_id"]),
    "agent of 10 kB": (b'{"agent_id": "' + b"a" * 10_240 + b'"}', ["agent_id"]),
    "agent of 1 MB": (b'{"agent_id": "' + b"a" * 1_000_000 + b'"}', ["agent_id"]),
    "agent broken": (b'{"agent_id": "broken"}', ["agent_id"]),
    "agent a path": (b'{"agent_id": "../agents/ok"}', ["agent_id"]),
    "agent an absolute path": (b'{"agent_id": "/etc/passwd"}', ["agent_id"]),
    "agent here": (b'{"agent_id": "."}', ["agent_id"]),
    "agent twice, the last unknown": (b'{"agent_id": "ok", "agent_id": "nobody"}', ["agent_id"]),
    "input null": (b'{"agent_id": "ok", "input": null}', ["input"]),
    "input list": (b'{"agent_id": "ok", "input": []}', ["input"]),
    "input text": (b'{"agent_id": "ok", "input": "{}"}', ["input"]),
    "number out of range": (with_input(b"1e999"), ["input"]),
    "half a surrogate pair": (with_input(rb'"\udc00"'), ["input"]),
    "half a surrogate pair as a key": (rb'{"agent_id": "ok", "input": {"\ud800": 1}}', ["input"]),
    "unknown field": (b'{"agent_id": "ok", "inputs": {}}', ["inputs"]),
    "unknown fields": (b'{"agent_id": "ok", "a": 1, "b.c": 2}', ["a", "b.c"]),
    "field in other letters": (b'{"agent_id": "ok", "Input": {}}', ["Input"]),
    "field of a later version": (b'{"agent_id": "ok", "timeout": 5}', ["timeout"]),
    "field with a line break": (rb'{"agent_id": "ok", "a\r\nb": 1}', ["a\r\nb"]),
    "field with half a surrogate pair": (rb'{"agent_id": "ok", "\ud800": 1}', ["body"]),
    "field of 1 MB": (b'{"agent_id": "ok", "' + b"a" * 1_000_000 + b'": 1}', ["a" * 100]),
    "too many fields": (json.dumps(dict.fromkeys(map(str, range(70_000)))).encode(), ["body"]),
    "everything": (b'{"agent_id": [], "input": 1, "more": 2}', ["agent_id", "input", "more"]),
}


@pytest.mark.parametrize(("body", "fields"), WRONG_FIELDS.values(), ids=WRONG_FIELDS)
def test_run_with_wrong_fields_is_422_and_names_them(server: RunningServer, body: bytes, fields: list[str]) -> None:
    answer = post(server, body)
    problem = check(answer, 422, *fields)
    assert all(field in problem["detail"] for field in fields)
    assert len(answer.content) < 2000


def test_run_of_a_broken_agent_tells_its_author_what_is_wrong(server: RunningServer) -> None:
    problem = check(post(server, b'{"agent_id": "broken"}'), 422, "agent_id")
    assert "'broken'" in problem["detail"]
    assert "priority" in problem["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "application/jsonp",
        "application/problem+json",
        "text/plain, application/json",
        "application/json, text/plain",
    ],
)
def test_run_not_declared_as_json_is_415(server: RunningServer, content_type: str | None) -> None:
    """Also what a browser lets every page send: the first three media types."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    check(server.http.post("/executions/run", content=b'{"agent_id": "ok"}', headers=headers), 415)


def body_of(size: int) -> bytes:
    """Return a body of this size for an agent that is not there."""
    return b'{"agent_id": "nobody", "input": {"a": "' + b"x" * (size - 42) + b'"}}'


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 422), (LIMIT + 1, 413), (20 * LIMIT, 413)])
def test_run_with_a_body_over_the_limit_is_413(server: RunningServer, size: int, status: int) -> None:
    body = body_of(size)
    assert len(body) == size
    problem = check(post(server, body), status, *(["agent_id"] if status == 422 else []))
    assert status != 413 or str(LIMIT) in problem["detail"]


def test_run_with_a_chunked_body_over_the_limit_is_413(server: RunningServer) -> None:
    body = body_of(3 * LIMIT)
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    check(server.http.post("/executions/run", content=chunks, headers=JSON), 413)


def test_run_with_a_small_chunked_body_is_read(server: RunningServer) -> None:
    chunks = iter([b'{"agent_id": ', b'"nobody"}'])
    check(server.http.post("/executions/run", content=chunks, headers=JSON), 422, "agent_id")


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/executions", "/executions/run/", "/admin", "/executions/run/cancel/x"]
)
def test_unknown_path_is_404_for_every_method(server: RunningServer, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "OPTIONS", "BREW"):
        check(server.http.request(method, path), 404)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/executions/run", ["POST"]),
        (f"/executions/{NOBODYS}", ["GET", "HEAD"]),
        (f"/executions/{NOBODYS}/cancel", ["POST"]),
        (f"/executions/{NOBODYS}/logs", ["GET", "HEAD"]),
        ("/admin/health", ["GET", "HEAD"]),
    ],
)
def test_wrong_method_is_405_and_tells_the_right_ones(server: RunningServer, path: str, allowed: list[str]) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"}.difference(allowed):
        answer = server.http.request(method, path)
        check(answer, 405)
        assert answer.headers["Allow"].split(", ") == [*allowed, "OPTIONS"]


def test_head_of_what_cannot_be_read_is_405_without_a_body(server: RunningServer) -> None:
    answer = server.http.head("/executions/run")
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (405, "POST, OPTIONS", b"")


def test_unknown_method_is_refused(server: RunningServer) -> None:
    check(server.http.request("BREW", "/executions/run"), 400)


@pytest.mark.parametrize("path", ["/executions/run", f"/executions/{NOBODYS}/cancel"])
def test_options_tells_the_methods(server: RunningServer, path: str) -> None:
    answer = server.http.request("OPTIONS", path)
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (200, "POST", b"")


NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x1", "1_0", " 1", "one", "%ff", "%00", "%EF%BC%91", "9" * 20, "9" * 5000]
WRONG_QUERIES = {
    "stream": ["", "stdin", "STDOUT", "stdout%00", "%ff", "../stdout", "stdout,stderr"],
    "offset": [*NUMBERS, str((1 << 62) + 1)],
    "limit": [*NUMBERS, "0", str((1 << 20) + 1)],
}


@pytest.mark.parametrize(("field", "values"), WRONG_QUERIES.items(), ids=WRONG_QUERIES)
def test_logs_with_a_wrong_query_is_422_and_names_it(
    server: RunningServer, subtests: pytest.Subtests, field: str, values: list[str]
) -> None:
    for value in values:
        with subtests.test(value=value[:30]):
            answer = server.http.get(f"/executions/{NOBODYS}/logs?{field}={value}")
            check(answer, 422, field)
            assert len(answer.content) < 1000


@pytest.mark.parametrize("query", ["%", "&&==&", "%zz=%ff", "a=1&a=2"])
def test_logs_with_a_query_that_is_no_query_is_answered(server: RunningServer, query: str) -> None:
    check(server.http.get(f"/executions/{NOBODYS}/logs?{query}"), 404)
