"""A byte that says "look at the database": from the API to the supervisor, over a datagram socket in the data folder.

It carries no data, so losing one while others wait is harmless, and the supervisor looks once for any number of them.
"""

import contextlib
import os
import socket
from pathlib import Path

from supervisor.unix_address import unix_address

_SOCKET = "nudge.sock"


class NudgeReceiver:
    """The supervisor's end."""

    def __init__(self, data: Path) -> None:
        """Create the socket, in place of one that a dead supervisor has left."""
        self._path = data / _SOCKET
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with unix_address(self._path) as address:
            self._socket.bind(address)
            os.chmod(address, 0o600)

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Take all nudges that have come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def close(self) -> None:
        """Close the socket and remove it from the folder."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


class Nudger:
    """The API's end."""

    def __init__(self, data: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with unix_address(data / _SOCKET) as address:
            self._socket.connect(address)

    def nudge(self) -> None:
        """Wake the supervisor. If it is not there, it looks when it starts; if the socket is full, it is awake."""
        with contextlib.suppress(OSError):
            self._socket.send(b"n")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
