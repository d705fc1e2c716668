"""What the supervisor and the launcher say to each other.

They are connected by a Unix socket of type SOCK_SEQPACKET: one message is one JSON object, at most MAX_MESSAGE_BYTES,
and may carry descriptors (SCM_RIGHTS). The supervisor sends requests, the launcher sends events; no message is an
answer to another. Every message about a run names it by "run", a text that the supervisor chooses once per attempt.

Requests  {"do": LAUNCH, "run", "spec"} + the descriptors of DESCRIPTORS, in that order
          {"do": RELEASE, "run"}        forget the run and close what is held for it
Events    {"event": STARTED, "run", "pid"} + a pidfd of the run's init
          {"event": EXITED, "run"}   the agent has ended, other processes of its tree live
          {"event": GONE, "run", "status", "usage", "error"}   nothing of the tree lives; sent exactly once per launch
              status: wait status of the agent as waitpid(2) gives it, or null when the agent never started or its
              init was killed; error: why the agent could not be started, or null;
              usage: {"user_cpu_seconds", "system_cpu_seconds", "peak_memory_bytes"} over the whole reaped tree

spec      {"entrypoint": "module:function" or null, "command": [program, argument...] or null, "folder", "workdir",
           "environment": {name: value}, "limits": {name: amount}}; exactly one of entrypoint and command is given
"""

import array
import collections
import json
import os
import socket

LAUNCH, RELEASE = "launch", "release"
STARTED, EXITED, GONE = "started", "exited", "gone"

# What the agent gets, then what the launcher keeps: the reading ends, so that they outlive the supervisor.
AGENT_ENDS = ("stdin", "stdout", "stderr", "result")
KEPT_ENDS = ("stdout_reader", "stderr_reader", "result_reader")
DESCRIPTORS = AGENT_ENDS + KEPT_ENDS

RESULT_FD = 3
MAX_MESSAGE_BYTES = 128 * 1024


class Disconnected(Exception):
    """The process at the other end of the channel has closed it or has died."""


class Channel:
    """One end of the connection. Never blocks: what the socket does not take at once waits in the outbox."""

    def __init__(self, connection):
        """Args: connection: a connected SOCK_SEQPACKET socket, owned by the channel from now on."""
        self._socket = connection
        self._socket.setblocking(False)
        self._outbox = collections.deque()

    def fileno(self):
        return self._socket.fileno()

    @property
    def backlog(self):
        """Number of messages that wait for flush()."""
        return len(self._outbox)

    def send(self, message, descriptors=()):
        """Send a message, or queue it if the other end is slow.

        Args:
            message: a JSON object of at most MAX_MESSAGE_BYTES.
            descriptors: passed along; they stay the caller's, who may close them at once.
        Raises:
            ValueError: the message is too large.
            Disconnected: the other end is gone.
        """
        data = json.dumps(message).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"cannot send message: {len(data)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
        if self._outbox or not self._send_now(data, descriptors):
            self._outbox.append((data, [os.dup(descriptor) for descriptor in descriptors]))

    def flush(self):
        """Send what waits, as far as the socket takes it. Raises Disconnected."""
        while self._outbox and self._send_now(*self._outbox[0]):
            _, copies = self._outbox.popleft()
            close_all(copies)

    def receive(self):
        """Return the next (message, descriptors), or None when there is none yet. Raises Disconnected."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4 * len(DESCRIPTORS)), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise Disconnected(str(error)) from error
        if not data:
            raise Disconnected("closed by the other end")
        return json.loads(data), _descriptors(ancillary)

    def close(self):
        self._socket.close()
        while self._outbox:
            close_all(self._outbox.popleft()[1])

    def _send_now(self, data, descriptors):
        try:
            socket.send_fds(self._socket, [data], descriptors)
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise Disconnected(str(error)) from error
        return True


def close_all(descriptors):
    """Close every descriptor of an iterable."""
    for descriptor in descriptors:
        os.close(descriptor)


def _descriptors(ancillary):
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
