"""Servers of a test on this machine's loopback, each in a thread that ends with its context."""

import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANSWER = "hello from the host"


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def web(certificate: Path | None = None) -> Iterator[int]:
    """Answer every GET with ANSWER, over TLS if there is a file with a certificate and its key; yield the port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Web)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with _served(server):
        yield int(server.server_address[1])


@contextmanager
def names(address: str, known: str) -> Iterator[None]:
    """Be a name server, on port 53 of a loopback address, that knows one name: it is 127.0.0.1.

    Source: RFC 1035, 4.1.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, connection = self.request
            question = query[12:]
            name = b"".join(bytes([len(label)]) + label.encode() for label in known.split(".")) + b"\0"
            asked = question[: len(name)] == name
            is_address = question[len(name) : len(name) + 4] == b"\0\1\0\1"
            counts = b"\0\1" + (b"\0\1" if asked and is_address else b"\0\0") + bytes(4)
            answer = b"\xc0\x0c\0\1\0\1" + bytes(4) + b"\0\4" + socket.inet_aton("127.0.0.1")
            flags = b"\x81\x80" if asked else b"\x81\x83"
            reply = query[:2] + flags + counts + question[: question.index(b"\0") + 5]
            connection.sendto(reply + (answer if asked and is_address else b""), self.client_address)

    with _served(socketserver.UDPServer((address, 53), Handler)):
        yield
