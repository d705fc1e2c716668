"""Requests byte by byte, for those that no HTTP client would send."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tests.helpers.server import RunningServer
from tests.helpers.wait import patience


@dataclass(frozen=True)
class Answer:
    """A whole answer. closed: the server said that it would close the connection, and did."""

    status_code: int
    headers: http.client.HTTPMessage
    content: bytes
    closed: bool


@contextmanager
def connection(server: RunningServer) -> Iterator[socket.socket]:
    """Open a connection on which nothing takes more than 10 seconds."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=patience(10))) as opened:
        yield opened


def answer(opened: socket.socket, method: str = "GET") -> Answer:
    """Read one answer. Args: method: of the request; an answer to HEAD has no body."""
    with closing(http.client.HTTPResponse(opened, method=method)) as response:
        response.begin()
        content = response.read()
        closed = response.headers["Connection"] == "close" and opened.recv(1) == b""
        return Answer(response.status, response.headers, content, closed)


def exchange(server: RunningServer, *request: bytes) -> Answer:
    """Send a request on a connection of its own and return the answer."""
    with connection(server) as opened:
        for part in request:
            opened.sendall(part)
        return answer(opened, request[0].split(b" ")[0].decode("latin-1"))
