"""The launcher: forks every run, holds its descriptors, reaps it, and tells the supervisor how it ended.

Started by file with `python -I -S`, as a child of the supervisor but in a session of its own. It is small and has one
thread, because every run is a fork of it: what it imports or opens, every run pays for and could see. It holds no
secret and parses nothing that an agent wrote.

Three kinds of peers:
  supervisor   one at a time, over the listening Unix socket it was given; messages in runner.protocol
  init         one per run (runner.init), a child; writes to its status pipe; its exit proves the run's tree empty
  strays       orphans of a run whose init was killed: this process is a subreaper, so they come here and are killed

For each run it keeps the reading ends of the agent's pipes and the exit status until the supervisor releases them.
When the supervisor's end of the socket closes, or SIGTERM comes, it kills every run and exits.
"""

import os
import sys

if __name__ == "__main__":
    # -I leaves the checkout off the path; it is on it only while our own modules are loaded, so no agent finds them.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import asyncio  # noqa: F401 - loaded once here, so that an async agent does not pay for it in every fork
import contextlib
import gc
import json
import selectors
import signal
import socket
import struct
import time

from runner import init, protocol, tree, workdir
from runner.sandbox import prctl

if __name__ == "__main__":
    sys.path.pop(0)

_PEER_CREDENTIALS = struct.Struct("3i")

# Between two looks at what was told to die.
_KILL_ROUND_SECONDS = 0.01


_GONE = {"event": protocol.GONE, "status": None, "usage": None, "error": None}


class Run:
    """One live run as the launcher knows it."""

    def __init__(self, name, status_pipe, kept):
        self.name = name
        self.status_pipe = status_pipe
        self.kept = kept
        self.records = b""

    def read_status(self):
        """Take in what init has written so far; return {"status", "empty", "error"}, each as far as it is known."""
        try:
            while data := os.read(self.status_pipe, 4096):
                self.records += data
        except BlockingIOError:
            pass
        known = {"status": None, "empty": False, "error": None}
        for line in self.records.splitlines():
            known.update(json.loads(line))
        return known


class Launcher:
    """The event loop; every descriptor in the selector carries the function that handles it."""

    def __init__(self, listener):
        """Args: listener: a listening SOCK_SEQPACKET Unix socket."""
        self._listener = listener
        self._selector = selectors.EpollSelector()
        self._channel = None
        self._runs = {}
        self._inits = {}
        self._without_init = []
        self._stopping = False
        self._requests = {protocol.LAUNCH: self._launch, protocol.RELEASE: self._release}

    def serve(self):
        """Serve one supervisor until it goes away or a signal says so; then kill every run."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(_signal_pipe(self._on_signal), selectors.EVENT_READ, _drain)
        while not self._stopping:
            for key, _ in self._selector.select(_KILL_ROUND_SECONDS if self._without_init else None):
                key.data(key.fileobj)
            self._reap()
            self._kill_strays()
            self._watch_channel()
        self._kill_everything()

    def _accept(self, listener):
        connection, _ = listener.accept()
        _, uid, _ = _PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid != os.geteuid() or self._channel:
            connection.close()
            return
        self._channel = protocol.Channel(connection)
        self._selector.register(self._channel, selectors.EVENT_READ, self._converse)

    def _converse(self, channel):
        try:
            channel.flush()
            while received := channel.receive():
                message, descriptors = received
                self._requests[message["do"]](message, descriptors)
        except protocol.Disconnected:
            self._stopping = True

    def _launch(self, message, descriptors):
        name = message["run"]
        agent_ends = descriptors[: len(protocol.AGENT_ENDS)]
        kept = descriptors[len(protocol.AGENT_ENDS) :]
        status_reader, status_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(status_reader, False)
        launcher_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            protocol.close_all([*descriptors, status_reader, status_writer])
            self._send({**_GONE, "run": name, "error": f"cannot fork: {error.strerror}"})
            return
        if pid == 0:
            init.run(message["spec"], [*agent_ends, status_writer], launcher_pid)
        protocol.close_all([*agent_ends, status_writer])
        self._runs[name] = self._inits[pid] = run = Run(name, status_reader, kept)
        self._selector.register(status_reader, selectors.EVENT_READ, lambda _: self._on_status(run))
        pidfd = os.pidfd_open(pid)
        self._send({"event": protocol.STARTED, "run": name, "pid": pid}, [pidfd])
        os.close(pidfd)

    def _release(self, message, _descriptors):
        run = self._runs.pop(message["run"], None)
        if run:
            protocol.close_all(run.kept)

    def _on_status(self, run):
        """The agent has ended. Its init goes on only if other processes of the tree live: then the supervisor is told."""
        self._selector.unregister(run.status_pipe)
        known = run.read_status()
        if known["status"] is not None and not known["empty"]:
            self._send({"event": protocol.EXITED, "run": run.name})

    def _on_signal(self, number, _frame):
        if number != signal.SIGCHLD:
            self._stopping = True

    def _reap(self):
        """Collect every child that has ended. An init ends by itself only when nothing else of its tree lives."""
        for pid, status, usage in _ended_children():
            run = self._inits.pop(pid, None)
            if run is None:
                continue
            ending = self._ending_of(run, usage)
            if os.WIFSIGNALED(status):
                self._without_init.append(ending)
            else:
                self._send(ending)

    def _ending_of(self, run, usage):
        known = run.read_status()
        if run.status_pipe in self._selector.get_map():
            self._selector.unregister(run.status_pipe)
        os.close(run.status_pipe)
        return {
            **_GONE,
            "run": run.name,
            "status": known["status"],
            "error": known["error"] if known["status"] is None else None,
            "usage": {
                "user_cpu_seconds": round(usage.ru_utime, 6),
                "system_cpu_seconds": round(usage.ru_stime, 6),
                "peak_memory_bytes": usage.ru_maxrss * 1024,
            },
        }

    def _kill_strays(self):
        """Kill what came here when an init was killed; the runs of such inits are gone when no stray is left."""
        if not self._without_init:
            return
        strays = [pid for pid in tree.children(os.getpid()) if pid not in self._inits]
        if strays:
            tree.kill(strays)
            return
        while self._without_init:
            self._send(self._without_init.pop())

    def _send(self, event, descriptors=()):
        try:
            self._channel.send(event, descriptors)
        except protocol.Disconnected:
            self._stopping = True

    def _watch_channel(self):
        """Wait for room in the socket only while something waits to be sent."""
        if not self._channel or self._stopping:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.backlog else 0)
        if events != self._selector.get_key(self._channel).events:
            self._selector.modify(self._channel, events, self._converse)

    def _kill_everything(self):
        while tree.has_children():
            tree.kill(tree.children(os.getpid()))
            time.sleep(_KILL_ROUND_SECONDS)  # noqa: TID251 - killed processes need a moment to end


def sweep(work_root):
    """Remove the work directories that a crash has left, in a process of its own, because they may be large."""
    leftovers = [os.path.join(work_root, name) for name in os.listdir(work_root)]
    if leftovers and os.fork() == 0:
        for path in leftovers:
            workdir.remove(path)
        os._exit(0)


def main(listener_descriptor, work_root):
    """Serve until the supervisor goes away.

    Args:
        listener_descriptor: number of the inherited listening socket.
        work_root: the folder that holds the runs' work directories; nothing in it belongs to a live run yet.
    """
    listener = socket.socket(fileno=int(listener_descriptor))
    listener.set_inheritable(False)
    prctl.become_subreaper()
    sweep(work_root)
    gc.collect()
    gc.freeze()
    Launcher(listener).serve()


def _signal_pipe(handler):
    """Return a socket that becomes readable after a signal, whose handler runs before the loop goes on."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in init.HANDLED_BY_LAUNCHER:
        signal.signal(number, handler)
    return reader


def _drain(reader):
    with contextlib.suppress(BlockingIOError):
        while reader.recv(4096):
            continue


def _ended_children():
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage


if __name__ == "__main__":
    main(*sys.argv[1:])
