"""Requests that must be refused: each gets problem details and records nothing, and the server goes on."""

import http.client
import json
import socket
from typing import Any

import pytest

from tests.helpers import raw_http
from tests.helpers.problems import check
from tests.helpers.raw_http import exchange
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


def head(*lines: bytes, first: bytes = b"POST /executions/run HTTP/1.1", host: bytes = b"127.0.0.1") -> bytes:
    """Return the head of a request with these additional header lines."""
    return b"\r\n".join([first, b"Host: " + host, b"Content-Type: application/json", *lines, b"", b""])


BODY = b'{"agent_id": "ok"}'
CHUNKED = b"Transfer-Encoding: chunked"


def test_body_refused_by_its_declared_size_is_answered_before_it_is_sent(server: RunningServer) -> None:
    answer = exchange(server, head(b"Content-Length: 50000000"))
    check(answer, 413)
    assert answer.closed


def test_body_that_goes_on_after_its_refusal_does_not_cost_the_answer(server: RunningServer) -> None:
    """A server that closes at once resets the connection, and most clients then see that instead of the answer."""
    size = 32 * LIMIT
    answer = exchange(server, head(f"Content-Length: {size}".encode()), b"x" * size)
    check(answer, 413)
    assert answer.closed


def test_body_that_never_ends_is_cut_off(server: RunningServer) -> None:
    chunk = b"100000\r\n" + b"x" * LIMIT + b"\r\n"
    with raw_http.connection(server) as opened:
        opened.sendall(head(CHUNKED))
        with pytest.raises(ConnectionError):
            opened.sendall(chunk * 100)


def test_body_shorter_than_declared_is_not_run(server: RunningServer) -> None:
    with raw_http.connection(server) as opened:
        opened.sendall(head(b"Content-Length: 1000") + BODY)
        opened.shutdown(socket.SHUT_WR)
        with pytest.raises(http.client.RemoteDisconnected):
            raw_http.answer(opened)


def test_expect_continue_is_refused_before_the_body_is_sent(server: RunningServer) -> None:
    with raw_http.connection(server) as opened:
        opened.sendall(head(b"Expect: 100-continue", b"Content-Length: 5000000"))
        assert opened.recv(12) == b"HTTP/1.1 413"


def test_expect_continue_is_obeyed(server: RunningServer) -> None:
    body = b'{"agent_id": "nobody"}'
    with raw_http.connection(server) as opened:
        opened.sendall(head(b"Expect: 100-continue", b"Content-Length: %d" % len(body)))
        assert opened.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        opened.sendall(body)
        check(raw_http.answer(opened), 422, "agent_id")


@pytest.mark.parametrize("length", [[], [b"Content-Length: 0"]])
def test_expect_continue_without_a_body_is_answered(server: RunningServer, length: list[bytes]) -> None:
    cancel = b"POST /executions/" + NOBODYS.encode() + b"/cancel HTTP/1.1"
    check(exchange(server, head(b"Expect: 100-continue", *length, first=cancel)), 404)


MALFORMED = {
    "no HTTP": (400, b"hello\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "four words": (400, head(first=b"GET /admin/health HTTP/1.1 now")),
    "method in small letters": (400, head(first=b"get /admin/health HTTP/1.1")),
    "target not ASCII": (400, head(first=b"GET /executions/\xff\xfe HTTP/1.1")),
    "target malformed": (400, head(first=b"GET http://[::1/admin/health HTTP/1.1")),
    "line feeds only": (400, b"GET /admin/health HTTP/1.1\nHost: 127.0.0.1\n\n\r\n\r\n"),
    "no Host": (400, b"GET /admin/health HTTP/1.1\r\n\r\n"),
    "header without colon": (400, head(b"Content-Length 5")),
    "header with NUL": (400, head(b"X: a\x00b")),
    "header name with space": (400, head(b"Content-Length : 18") + BODY),
    "folded before the first": (400, b"GET /admin/health HTTP/1.1\r\n folded\r\nHost: 127.0.0.1\r\n\r\n"),
    "headers of 300 kB": (431, head(b"X: " + b"a" * 300_000)),
    "Content-Length negative": (400, head(b"Content-Length: -1")),
    "Content-Length no number": (400, head(b"Content-Length: 0x12") + BODY),
    "Content-Length empty": (400, head(b"Content-Length:") + BODY),
    "Content-Length of 5000 digits": (400, head(b"Content-Length: " + b"9" * 5000)),
    "Content-Length twice": (400, head(b"Content-Length: 18", b"Content-Length: 18") + BODY),
    "Content-Length and Transfer-Encoding": (
        400,
        head(b"Content-Length: 18", CHUNKED) + b"12\r\n" + BODY + b"\r\n0\r\n\r\n",
    ),
    "Transfer-Encoding in HTTP/1.0": (
        400,
        head(b"Content-Length: 18", CHUNKED, first=b"POST /executions/run HTTP/1.0") + BODY,
    ),
    "Transfer-Encoding unknown": (501, head(b"Transfer-Encoding: gzip, chunked") + BODY),
    "chunk size no number": (400, head(CHUNKED) + b"xyz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size negative": (400, head(CHUNKED) + b"-12\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk longer than its size": (400, head(CHUNKED) + b"11\r\n" + BODY + b"\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "request_bytes"), MALFORMED.values(), ids=MALFORMED)
def test_request_that_is_no_http_is_refused_and_its_connection_closed(
    server: RunningServer, status: int, request_bytes: bytes
) -> None:
    answer = exchange(server, request_bytes)
    check(answer, status)
    assert answer.closed


def test_request_behind_a_refused_one_is_not_run(server: RunningServer) -> None:
    good = head(b"Content-Length: %d" % len(BODY)) + BODY
    answer = exchange(server, head(b"Content-Length: -1") + good)
    check(answer, 400)
    assert answer.closed


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


ODD_IDS = {
    "nothing": b"",
    "NUL": b"%00",
    "UUID and NUL": NOBODYS.encode() + b"%00",
    "10 kB": b"a" * 10_240,
    "up": b"..%2F..%2Fetc%2Fpasswd",
    "up, unescaped": b"../../etc/passwd",
    "backslash": b"..%5c..",
    "invalid UTF-8": b"%ff%fe",
    "overlong": b"%c0%ae%c0%ae",
    "invalid escape": b"%zz%",
    "quote": b"'%20OR%201=1--",
    "format": b"%25s%25n{0}",
    "line break": b"%0d%0aX-Injected:%201",
    "digits of another script": b"%D9%A1" * 32,
    "minus": b"-" * 36,
}


@pytest.mark.parametrize("execution_id", ODD_IDS.values(), ids=ODD_IDS)
def test_id_that_no_execution_can_have_is_404(server: RunningServer, execution_id: bytes) -> None:
    for method, rest in ((b"GET", b""), (b"POST", b"/cancel"), (b"GET", b"/logs")):
        answer = exchange(server, head(first=method + b" /executions/" + execution_id + rest + b" HTTP/1.1"))
        check(answer, 404)
        assert "X-Injected" not in answer.headers
        assert len(answer.content) < 1000


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
