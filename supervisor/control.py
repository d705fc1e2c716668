"""What other processes of ours can ask of the supervisor: a word over a socket in the data folder, answered in JSON.

A supervisor that is dead or stuck answers nothing, and nobody can answer in its place: it is asked each time, and
nothing is kept. The connection stays until one end goes, so who is on it learns of the end of the server. Before an
orderly end there is a farewell. The supervisor's end of it is supervisor/reception.py.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supervisor.errors import SupervisorSilent
from supervisor.unix_address import unix_address

SOCKET = "control.sock"
FAREWELL = b"{}"

# The words. How is it? And: launch nothing more, and end when the runs have.
STATE = "state"
DRAIN = "drain"

MESSAGE_BYTES = 4096


class Conversation:
    """One connection to the supervisor."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def ask(self, word: str) -> dict[str, Any]:
        """Return the answer to a word. Raises SupervisorSilent: there is none in time."""
        try:
            self._connection.send(word.encode())
            answer = self._connection.recv(MESSAGE_BYTES)
        except OSError as error:
            raise SupervisorSilent(f"cannot ask the server: {error}") from error
        if not answer:
            raise SupervisorSilent("cannot ask the server: it has hung up")
        return dict(json.loads(answer))

    def wait_for_end(self) -> None:
        """Return when the server has ended, however long that takes. Raises SupervisorSilent: it was killed."""
        self._connection.settimeout(None)
        try:
            heard = self._connection.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            heard = b""
        if heard != FAREWELL:
            raise SupervisorSilent("cannot wait for the end of the server: it was killed")


@contextmanager
def conversation(data: Path, patience_seconds: float) -> Iterator[Conversation]:
    """Open a connection to the server of a data folder, for the length of a with statement.

    Args:
        patience_seconds: for the connection, and for each answer.
    Raises:
        SupervisorSilent: there is no server, or none that listens.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(patience_seconds)
        try:
            with unix_address(data / SOCKET) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            raise SupervisorSilent(f"cannot ask the server: there is none that uses {str(data)!r}") from None
        except OSError as error:
            raise SupervisorSilent(f"cannot ask the server: {error}") from error
        yield Conversation(connection)
