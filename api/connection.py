"""One client's connection: what is refused here, before there is a request that the application could see.

Waitress reads and writes all connections in its main thread; requests, and the answers to what is refused, are worked
on by its other threads.
"""

import socket
from typing import cast

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge

from api.errors import PROBLEM_TYPE, problem

# Of what a client goes on to send after it was refused: enough for the largest body that any server may be set to take.
_MAX_DISCARDED_BYTES = 64 << 20
_DISCARD_AT_ONCE_BYTES = 256 << 10


class Parser(HTTPRequestParser):
    """The head and the body of one request, as they come in."""

    def received(self, data: bytes) -> int:
        """Take bytes; return how many of them belong to this request."""
        consumed = super().received(data)
        if self.completed:
            # Waitress would ask for the body that has been refused, or that has no bytes, and then wait for it.
            self.expect_continue = False
        if isinstance(self.error, RequestEntityTooLarge):
            # Waitress refuses what reaches its maximum.
            self.error.body = f"its body takes more than {self.adj.max_request_body_size - 1} bytes"
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Read the head. Raises ParsingError: it cannot be read, or not in one way only."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            # Waitress would close the connection without an answer.
            raise ParsingError("its target or its Content-Length is malformed") from error
        # Another server on the way might see the end of the body elsewhere. Source: RFC 9112, section 6.1.
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("its Transfer-Encoding goes neither with Content-Length nor with this version of HTTP")
        if self.version == "1.1" and "HOST" not in self.headers:
            raise ParsingError("it has no Host")


class ProblemTask(ErrorTask):
    """Answers what is refused in the same shape as everything else."""

    channel: "Channel"
    response_headers: list[tuple[str, str]]

    def execute(self) -> None:
        """Write the whole answer."""
        # types-waitress has the type of an application's request here, which has no error.
        error = cast(HTTPRequestParser, self.request).error
        assert error is not None
        body = problem(f"{error.code} {error.reason}", f"cannot read request: {error.body}")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", PROBLEM_TYPE))
        self.set_close_on_finish()
        self.channel.refused = True
        self.content_length = len(body)
        self.write(body)


class AnswerTask(WSGITask):
    """Writes the answer of the application."""

    channel: "Channel"
    wrote_header: bool

    def write(self, data: bytes) -> None:
        """Write a part of the body, the first one in one packet with the head: the client is woken once for both."""
        if self.wrote_header:
            super().write(data)
            return
        self.channel.hold_back()
        try:
            super().write(data)
        finally:
            self.channel.let_go()


class Channel(HTTPChannel):
    """A client's connection.

    After a refusal it is closed only when the client has stopped sending. Closing it with input unread would reset it,
    and the client would see that instead of the answer. Source: RFC 9112, section 9.6.
    """

    task_class = AnswerTask
    error_task_class = ProblemTask
    parser_class = Parser
    refused = False
    _discarded: int | None = None
    _held_back: list[bytes] | None = None

    def hold_back(self) -> None:
        """Send nothing of what is written until let_go() is called."""
        self._held_back = []

    def let_go(self) -> None:
        """Send what was held back, at once."""
        held_back, self._held_back = self._held_back or [], None
        self.write_soon(b"".join(held_back))

    def write_soon(self, data: bytes) -> int:
        """Send, or hold back, a part of an answer; return its length."""
        if self._held_back is None:
            return super().write_soon(data)
        self._held_back.append(data)
        return len(data)

    def handle_close(self) -> None:
        """Close the connection; after a refusal, only our side of it."""
        if self.socket and self.refused and self._discarded is None:
            self._discarded = 0
            self.will_close = False
            try:
                self.socket.shutdown(socket.SHUT_WR)
                return
            except OSError:
                pass
        super().handle_close()

    def handle_read(self) -> None:
        """Take what the client has sent."""
        if self._discarded is None:
            super().handle_read()
            return
        try:
            self._discarded += len(self.recv(_DISCARD_AT_ONCE_BYTES))
        except OSError:
            self.handle_close()
        if self._discarded > _MAX_DISCARDED_BYTES:
            self.handle_close()
