"""The supervisor's end of supervisor/control.py: answers whoever asks, from the loop like everything else."""

import json
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from supervisor.clock import Clock
from supervisor.control import FAREWELL, MESSAGE_BYTES, SOCKET
from supervisor.machine.reactor import Reactor
from supervisor.unix_address import unix_address

# Connections at once: more than our own processes ever have.
_MOST = 64

# When there is no descriptor for the next connection: until there may be one.
_PAUSE_SECONDS = 1.0


class Reception:
    """The socket, and the connections to it. Only the server's user, and root, can reach it."""

    def __init__(
        self, data: Path, answers: Mapping[str, Callable[[], dict[str, Any]]], reactor: Reactor, clock: Clock
    ) -> None:
        """Create the socket, in place of one that a dead supervisor has left.

        Args:
            answers: what is to be called for each word, and answered.
        Raises:
            OSError: it cannot be created.
        """
        self._path = data / SOCKET
        self._answers = answers
        self._reactor = reactor
        self._clock = clock
        self._connections: set[socket.socket] = set()
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        with unix_address(self._path) as address:
            self._listener.bind(address)
            os.chmod(address, 0o600)
        self._listener.listen()
        self._open()

    def close(self) -> None:
        """Say farewell to whoever is connected, and remove the socket."""
        self._path.unlink(missing_ok=True)
        self._reactor.forget(self._listener)
        self._listener.close()
        for connection in list(self._connections):
            _sent(connection, FAREWELL)
            self._hang_up(connection)

    def _open(self) -> None:
        self._reactor.watch(self._listener, self._on_visitor)

    def _on_visitor(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._reactor.forget(self._listener)
            self._reactor.call_at(self._clock.monotonic() + _PAUSE_SECONDS, self._open)
            return
        if len(self._connections) == _MOST:
            connection.close()
            return
        connection.setblocking(False)
        self._connections.add(connection)
        self._reactor.watch(connection, partial(self._on_word, connection))

    def _on_word(self, connection: socket.socket) -> None:
        answer = self._answers.get(_received(connection))
        if answer is None or not _sent(connection, json.dumps(answer()).encode()):
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self._reactor.forget(connection)
        self._connections.discard(connection)
        connection.close()


def _received(connection: socket.socket) -> str:
    """Return what the other end has said; empty if it is gone."""
    try:
        return connection.recv(MESSAGE_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _sent(connection: socket.socket, message: bytes) -> bool:
    """Tell whether the other end has got a message; one that is gone, or that reads nothing, has not."""
    try:
        connection.send(message)
    except OSError:
        return False
    return True
