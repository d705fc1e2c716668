"""Requests that no HTTP client would send: they are refused like all others, and record nothing."""

import http.client
import socket
import sys

import pytest

from tests.helpers import raw_http
from tests.helpers.problems import check
from tests.helpers.raw_http import exchange
from tests.helpers.server import RunningServer

pytestmark = pytest.mark.usefixtures("nothing_recorded")

LIMIT = 1 << 20
NOBODYS = "00000000-0000-7000-8000-000000000000"


def head(*lines: bytes, first: bytes = b"POST /executions/run HTTP/1.1", host: bytes = b"127.0.0.1") -> bytes:
    """Return the head of a request with these additional header lines."""
    return b"\r\n".join([first, b"Host: " + host, b"Content-Type: application/json", *lines, b"", b""])


BODY = b'{"agent_id": "ok"}'
# In struct tcp_info. Source: linux/tcp.h.
DATA_SEGMENTS_IN_AT = 152

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


def test_head_and_body_of_an_answer_come_in_one_packet(server: RunningServer) -> None:
    with raw_http.connection(server) as opened:
        for packets in range(1, 4):
            opened.sendall(head(first=b"GET /admin/health HTTP/1.1"))
            raw_http.answer(opened)
            told = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, DATA_SEGMENTS_IN_AT + 4)
            assert int.from_bytes(told[DATA_SEGMENTS_IN_AT:], sys.byteorder) == packets


def test_request_behind_a_refused_one_is_not_run(server: RunningServer) -> None:
    good = head(b"Content-Length: %d" % len(BODY)) + BODY
    answer = exchange(server, head(b"Content-Length: -1") + good)
    check(answer, 400)
    assert answer.closed


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
