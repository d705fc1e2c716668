"""The launcher that a dead supervisor has left: found by its socket, and taken over with all that it holds.

It is no child of this process, so all that is known of it comes from the kernel: who listens at the socket, by
SO_PEERCRED, and that the pid is still that one's, because the connection is not hung up after its pidfd was opened.
"""

import contextlib
import os
import select
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import structlog

from runner import protocol
from supervisor.unix_address import unix_address

# For its answer: it has one thread, which does nothing that takes long.
_ANSWER_SECONDS = 10.0

# For one that speaks another protocol to kill its runs.
_LEAVE_SECONDS = 12.0

_PEER_CREDENTIALS = struct.Struct("3i")

_log = structlog.get_logger()

Event = tuple[dict[str, Any], list[int]]


class Predecessor:
    """A launcher that is there already, and our connection to it."""

    def __init__(self, connection: socket.socket, pid: int, pidfd: int) -> None:
        """Args: connection: to it. pid, pidfd: its own; both descriptors are this object's from now on."""
        self.connection = connection
        self.pid = pid
        self.pidfd = pidfd

    @classmethod
    def at(cls, path: Path) -> "Predecessor | None":
        """Return who listens at a socket, None if nobody does."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with unix_address(path) as address:
                connection.connect(address)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
            pid, _, _ = _PEER_CREDENTIALS.unpack(credentials)
            pidfd = os.pidfd_open(pid)
        except (FileNotFoundError, ConnectionError, ProcessLookupError):
            connection.close()
            return None
        if _is_hung_up(connection):
            # It has just ended: the pid may be a stranger's.
            connection.close()
            os.close(pidfd)
            return None
        return cls(connection, pid, pidfd)

    def take_over(self, greeting: dict[str, Any]) -> list[Event] | None:
        """Become its supervisor; return all that it tells of its runs, the last one being ALL_HELD.

        Returns:
            None if it cannot be talked to; then it and its runs are no more.
        """
        self.connection.settimeout(_ANSWER_SECONDS)
        events: list[Event] = []
        try:
            protocol.send(self.connection, greeting)
            while not events or events[-1][0]["event"] != protocol.ALL_HELD:
                events.append(protocol.receive(self.connection))
        except (protocol.Disconnected, TimeoutError) as error:
            _log.error("launcher not taken over: its runs are lost", pid=self.pid, error=str(error))
            for _, descriptors in events:
                protocol.close_all(descriptors)
            self._end(is_leaving=isinstance(error, protocol.Disconnected))
            return None
        return events

    def _end(self, is_leaving: bool) -> None:
        """See it end; its runs end with it."""
        if not (is_leaving and _is_readable(self.pidfd, _LEAVE_SECONDS)):
            kill(self.pidfd)
            _is_readable(self.pidfd, _LEAVE_SECONDS)
        self.connection.close()
        os.close(self.pidfd)


class AdoptedProcess:
    """A process that this one did not start, with the methods of a subprocess.Popen."""

    def __init__(self, pid: int, pidfd: int) -> None:
        """Args: pidfd: this object's from now on."""
        self.pid = pid
        self._pidfd = pidfd

    def terminate(self) -> None:
        """Send SIGTERM."""
        _send(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        kill(self._pidfd)

    def wait(self) -> int | None:
        """Let go of it, which has ended; return its exit code, None if only its parent is told that.

        This process is its parent if it has started it before it became another program by exec(2).
        """
        os.close(self._pidfd)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return None


def kill(pidfd: int) -> None:
    """Send SIGKILL to a process; one that has ended is no error."""
    _send(pidfd, signal.SIGKILL)


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _is_hung_up(connection: socket.socket) -> bool:
    looking = select.poll()
    looking.register(connection, 0)
    return bool(looking.poll(0))


def _is_readable(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])
