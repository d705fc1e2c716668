"""What the supervisor and the launcher say to each other.

They are connected by a Unix socket of type SOCK_SEQPACKET: one message is one JSON object, at most MAX_MESSAGE_BYTES,
and may carry descriptors (SCM_RIGHTS). The supervisor sends requests, the launcher sends events; no message is an
answer to another. Every message about a run names it by "run", a text that the supervisor chooses once per attempt.

Requests  {"do": ADOPT, "protocol": PROTOCOL, "orphan_seconds"}   the first one of every supervisor, which takes the
              place of the one before; orphan_seconds: how long runs are kept when there is none. In every version of
              this protocol: a launcher that finds another "protocol" than its own kills its runs and exits
          {"do": LAUNCH, "run", "tier", "network", "agent": its id, "shared": [path...], "limits": {name: amount},
              "memo"} + the descriptors of DESCRIPTORS, in that order; tier, network: see runner.profile; shared: what
              else of the host a sandboxed agent sees, read-only; limits: of runner.sandbox.rlimits.LIMITS, and cpus, if
              it is to be held; memo: what the next supervisor has to know of the run. The launcher does not look into
              it, but every agent may: no secret
          {"do": NOTE, "run", "memo"}   keep this memo in place of the one before
          {"do": RELEASE, "run"}        forget the run and close what is held for it
          {"do": END}                   kill every run and exit
Events    {"event": HELD, "run", "memo", "cpu_seconds_before"} + the descriptors of KEPT_ENDS: sent to a supervisor that
              has come, for each run that is not released, and then again all other events that there were of it;
              cpu_seconds_before: what its init had used for earlier runs
          {"event": ALL_HELD, "launcher", "made_from"}   no more of these; with what the launcher was started with: see
              runner/start.py
          {"event": STARTED, "run", "pid"} + a pidfd of the run's init, and, if its control group has such a thing, a
              descriptor that kills all of the tree when a "1" is written to it; again if that init has died before it
              could start the agent, and another one has been given the run
          {"event": ISOLATED, "run", "layers", "cpu_file"}   every layer of the sandbox is in effect; the agent starts
              now; cpu_file: path of the file in which the run's control group counts CPU time, or null
          {"event": EXITED, "run"}   the agent has ended, other processes of its tree live
          {"event": GONE, "run", "status", "usage", "error", "left_behind", "counted", "at"}   nothing of the tree
              lives; sent exactly once per launch to each supervisor; + a descriptor of its work directory, if it had
              got as far as having one
              status: wait status of the agent as waitpid(2) gives it, or null when the agent never started or its
              init was killed; error: why the agent could not be started, or null;
              at: when, in seconds of this boot's monotonic clock;
              usage: {"user_cpu_seconds", "system_cpu_seconds", "peak_memory_bytes"} over the whole reaped tree
              left_behind: other processes that were there when a sandboxed agent ended by itself;
              counted: by its control group, {} without one: {"killed_for_memory": processes that were killed because
              some memory was at its end; "memory_limit_hits": whether that was the run's own limit; 0 if not;
              "refused_processes": how often none more could be started}

Inits     the launcher has a number of inits (runner.init), each with a connection of the same kind. It says GET_READY,
          then, once, {"limits"} + the descriptors of AGENT_ENDS. The init answers {"tell": EXITED} and {"tell": GONE,
          "status", "usage"} as above; before that, the process that cannot become the agent {"tell": FAILED, "error"}.
          The process that becomes the agent tells {"tell": AT_WORK, "directory"} + a descriptor of its work directory,
          which the agent itself never has; directory: its path on the host, null if it is in the sandbox alone.
          That of a sandbox answers {"tell": ISOLATED, "layers", "unset_ceilings": [name...]} or {"tell": FAILED,
          "error"}; at the end, in place of EXITED and GONE, it tells {"tell": ENDED, "status", "usage", "left_behind"}
          and exits: with it, all of its tree is gone. If the agent was the last of its tree, and it can serve again, it
          tells GONE and stays

spec      a file, one JSON object: {"entrypoint": "module:function" or null, "command": [program, argument...] or null,
          "folder", "shared", "disk_bytes", "environment": {name: value}}; exactly one of entrypoint and command is
          given; disk_bytes: what a sandboxed agent may write in each of its writable places. Only the process that
          becomes the agent reads it: the environment may hold secrets, and what is in the launcher's memory every agent
          may find in its own
"""

from __future__ import annotations

import array
import collections
import errno
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

# Changes with whatever one side would misunderstand of the other.
PROTOCOL = 1

ADOPT, LAUNCH, NOTE, RELEASE, END = "adopt", "launch", "note", "release", "end"
HELD, ALL_HELD = "held", "all held"
STARTED, EXITED, GONE = "started", "exited", "gone"
FAILED, AT_WORK, ISOLATED, ENDED = "failed", "at work", "isolated", "ended"
GET_READY = {"do": "get ready"}

# Where a sandboxed agent finds its folder, and its own interpreter finds runner/agent.py.
AGENT_PLACE, AGENT_SCRIPT_PLACE = "/agent", "/corral/agent.py"

# What the process that becomes the agent gets, then what the launcher keeps, so that it outlives the supervisor: the
# reading ends, and the file into which the supervisor moves what carries the result.
AGENT_ENDS = ("spec", "stdin", "stdout", "stderr", "result")
KEPT_ENDS = ("stdout_reader", "stderr_reader", "result_reader", "kept")
DESCRIPTORS = AGENT_ENDS + KEPT_ENDS

RESULT_FD = 3
# Room for so much is made before each message is read. For 128 KiB malloc would ask the kernel each time, and give it
# back. Source: mallopt(3), M_MMAP_THRESHOLD.
MAX_MESSAGE_BYTES = 96 * 1024

_decoder = json.JSONDecoder()

_ANCILLARY_BYTES = socket.CMSG_SPACE(len(DESCRIPTORS) * array.array("i").itemsize)


class Disconnected(Exception):
    """The process at the other end has closed the connection or has died."""


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay the caller's.

    Raises:
        ValueError: the message is too large. BlockingIOError: the socket does not block and is full.
        Disconnected: the other end is gone.
    """
    _send_bytes(connection, _encode(message), descriptors)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors, which are the caller's to close.

    Raises:
        BlockingIOError: the socket does not block and there is none yet. Disconnected: the other end is gone.
    """
    try:
        try:
            data, ancillary, _, _ = connection.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # The other end has closed without reading all of ours. The kernel says so once, and before it gives us what
            # that end had sent: why it ends, for instance. Source: unix_release_sock() in its net/unix/af_unix.c
            data, ancillary, _, _ = connection.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:
        raise Disconnected(str(error)) from error
    if not data:
        raise Disconnected("closed by the other end")
    return decode(data), _descriptors(ancillary)


def decode(data: bytes) -> Any:
    """Return what _encode() was given; json.loads() allows for more, and takes a new process half as long again."""
    return _decoder.raw_decode(data.decode())[0]


class Channel:
    """One end of a connection that never blocks: what the socket does not take at once waits in the outbox."""

    def __init__(self, connection: socket.socket) -> None:
        """Args: connection: a connected SOCK_SEQPACKET socket, owned by the channel from now on."""
        self._socket = connection
        self._socket.setblocking(False)
        self._outbox: collections.deque[tuple[bytes, list[int]]] = collections.deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def backlog(self) -> int:
        """Number of messages that wait for flush()."""
        return len(self._outbox)

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message, or queue it if the other end is slow; the caller may close the descriptors at once.

        Raises:
            ValueError: the message is too large. Disconnected: the other end is gone.
        """
        data = _encode(message)
        if self._outbox or not self._send_now(data, descriptors):
            self._outbox.append((data, [os.dup(descriptor) for descriptor in descriptors]))

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises Disconnected."""
        while self._outbox and self._send_now(*self._outbox[0]):
            _, copies = self._outbox.popleft()
            close_all(copies)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next (message, descriptors), or None when there is none yet. Raises Disconnected."""
        try:
            return receive(self._socket)
        except BlockingIOError:
            return None

    def hang_up(self) -> None:
        """Let the other end find the connection closed, and this one too."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        while self._outbox:
            close_all(self._outbox.popleft()[1])

    def _send_now(self, data: bytes, descriptors: Sequence[int]) -> bool:
        try:
            _send_bytes(self._socket, data, descriptors)
        except BlockingIOError:
            return False
        except OSError as error:
            # So many descriptors are under way to a peer that has yet to read them. Source: unix(7).
            if error.errno == errno.ETOOMANYREFS:
                return False
            raise
        return True


def close_all(descriptors: Iterable[int]) -> None:
    """Close every descriptor of an iterable."""
    for descriptor in descriptors:
        os.close(descriptor)


def _encode(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"cannot send message: {len(data)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    return data


def _send_bytes(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        connection.sendmsg([data], rights)
    except ConnectionError as error:
        raise Disconnected(str(error)) from error


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
