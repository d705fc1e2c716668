"""The launcher: has every run forked, holds its descriptors, and tells the supervisor how it ended.

Started by file with `python -I -S`, as a child of the supervisor but in a session of its own. It is small and has one
thread, because every run is a fork of it: what it imports or opens, every run pays for and could see. It holds no
secret and parses nothing that an agent wrote.

Three kinds of peers:
  supervisor   one at a time, over the listening Unix socket it was given; messages in runner.protocol
  inits        children (runner.init); each runs one agent at a time and says when nothing of its tree lives
  strays       orphans of a run whose init was killed: this process is a subreaper, so they come here and are killed

For each run it keeps the reading ends of the agent's pipes, and its init, until the supervisor releases the run: only
then may the init be given another one, because only then has the supervisor stopped to look below that init.
When the supervisor's end of the socket closes, it kills every run and exits.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # -I leaves the checkout off the path; it is on it only while our own modules are loaded, so no agent finds them.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import contextlib
import gc
import selectors
import socket
import struct
import time

from runner import agent, init, protocol, tree, workdir
from runner.sandbox import prctl

if __name__ == "__main__":
    sys.path.pop(0)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# Inits that wait for the next runs, each with the process that becomes the agent: some three megabytes together. While
# runs come and go more of them are kept, because a new one costs a second fork; after a pause, only a few.
_MOST_IDLE = max(2, os.cpu_count() or 1)
_MOST_IDLE_WHEN_BUSY = 8 * _MOST_IDLE
_PAUSE_SECONDS = 1.0

# Between two looks at what was told to die.
_KILL_ROUND_SECONDS = 0.01

_PEER_CREDENTIALS = struct.Struct("3i")


class Init:
    """One init process. run: what it was given last, until that is released."""

    def __init__(self, pid: int, channel: protocol.Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.pidfd = os.pidfd_open(pid)
        self.run: Run | None = None

    def close(self) -> None:
        """Let go of it; it exits when its connection is closed."""
        self.channel.close()
        os.close(self.pidfd)


class Run:
    """One run that is not released yet. kept: the reading ends of its pipes. over: GONE has been told."""

    def __init__(self, name: str, its_init: Init, kept: list[int]) -> None:
        self.name = name
        self.init: Init | None = its_init
        self.kept = kept
        self.error: str | None = None
        self.over = False

    def gone(self, status: int | None = None, usage: dict[str, float] | None = None) -> dict[str, Any]:
        """Return the message that says how it ended. An error is one of the launch only if no agent was started."""
        self.over = True
        error = self.error
        return {"event": protocol.GONE, "run": self.name, "status": status, "usage": usage, "error": error}


class Launcher:
    """The event loop; every descriptor in the selector carries the function that handles it."""

    def __init__(self, listener: socket.socket, work_root: str) -> None:
        """Args: listener: a listening SOCK_SEQPACKET Unix socket. work_root: see main()."""
        self._listener = listener
        self._work_root = work_root
        self._selector = selectors.EpollSelector()
        self._channel: protocol.Channel | None = None
        self._runs: dict[str, Run] = {}
        self._inits: dict[int, Init] = {}
        self._idle: list[Init] = []
        self._orphaned: list[Run] = []
        self._stopping = False
        self._requests = {protocol.LAUNCH: self._launch, protocol.RELEASE: self._release}
        self._tidings = {
            protocol.FAILED: self._on_failed,
            protocol.EXITED: self._on_exited,
            protocol.GONE: self._on_gone,
        }

    def serve(self) -> None:
        """Serve one supervisor until it goes away; then kill every run."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._idle += [self._fork_init() for _ in range(_MOST_IDLE)]
        while not self._stopping:
            ready = self._selector.select(self._patience())
            for key, _ in ready:
                key.data()
            if not ready:
                self._shrink()
            self._bury()
            self._kill_strays()
            self._watch_channel()
        self._kill_everything()

    # -- the supervisor ----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        _, uid, _ = _PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid != os.geteuid() or self._channel:
            connection.close()
            return
        self._channel = protocol.Channel(connection)
        self._selector.register(self._channel, selectors.EVENT_READ, self._converse)

    def _converse(self) -> None:
        assert self._channel is not None
        try:
            self._channel.flush()
            while received := self._channel.receive():
                message, descriptors = received
                self._requests[message["do"]](message, descriptors)
        except protocol.Disconnected:
            self._stopping = True

    def _launch(self, message: dict[str, Any], descriptors: list[int]) -> None:
        name = message["run"]
        agent_ends = descriptors[: len(protocol.AGENT_ENDS)]
        kept = descriptors[len(protocol.AGENT_ENDS) :]
        try:
            chosen = self._idle.pop() if self._idle else self._fork_init()
        except OSError as error:
            protocol.close_all(descriptors)
            text = f"cannot fork: {error.strerror}"
            self._send({"event": protocol.GONE, "run": name, "status": None, "usage": None, "error": text})
            return
        self._runs[name] = chosen.run = Run(name, chosen, kept)
        self._send({"event": protocol.STARTED, "run": name, "pid": chosen.pid}, [chosen.pidfd])
        try:
            chosen.channel.send({"spec": message["spec"]}, agent_ends)
        except protocol.Disconnected:
            chosen.run.error = "its init has died"
        protocol.close_all(agent_ends)

    def _release(self, message: dict[str, Any], _descriptors: list[int]) -> None:
        run = self._runs.pop(message["run"], None)
        if run is None:
            return
        protocol.close_all(run.kept)
        if run.init is None:
            return
        run.init.run = None
        if len(self._idle) < _MOST_IDLE_WHEN_BUSY:
            self._get_ready(run.init)
            self._idle.append(run.init)
        else:
            self._dismiss(run.init)

    def _patience(self) -> float | None:
        if self._orphaned:
            return _KILL_ROUND_SECONDS
        return _PAUSE_SECONDS if len(self._idle) > _MOST_IDLE else None

    def _send(self, event: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        assert self._channel is not None
        try:
            self._channel.send(event, descriptors)
        except protocol.Disconnected:
            self._stopping = True

    def _watch_channel(self) -> None:
        """Wait for room in the socket only while something waits to be sent."""
        if not self._channel or self._stopping:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.backlog else 0)
        if events != self._selector.get_key(self._channel).events:
            self._selector.modify(self._channel, events, self._converse)

    # -- inits -------------------------------------------------------------------------------------------------------

    def _fork_init(self) -> Init:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launcher_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            init.serve(theirs, self._work_root, launcher_pid)
        theirs.close()
        made = self._inits[pid] = Init(pid, protocol.Channel(ours))
        self._selector.register(made.channel, selectors.EVENT_READ, lambda: self._hear(made))
        self._get_ready(made)
        return made

    def _get_ready(self, idle: Init) -> None:
        # One that has died meanwhile is noticed when it is waited for.
        with contextlib.suppress(protocol.Disconnected):
            idle.channel.send(protocol.GET_READY)

    def _hear(self, speaker: Init) -> None:
        """Take in what an init says. When it is dead instead, it is waited for like any child."""
        try:
            while received := speaker.channel.receive():
                message, _ = received
                if speaker.run:
                    self._tidings[message["tell"]](speaker.run, message)
                elif message["tell"] == protocol.GONE:
                    self._get_ready(speaker)
        except protocol.Disconnected:
            self._selector.unregister(speaker.channel)
            self._selector.register(speaker.pidfd, selectors.EVENT_READ, lambda: None)

    def _on_failed(self, run: Run, message: dict[str, Any]) -> None:
        run.error = message["error"]

    def _on_exited(self, run: Run, _message: dict[str, Any]) -> None:
        self._send({"event": protocol.EXITED, "run": run.name})

    def _on_gone(self, run: Run, message: dict[str, Any]) -> None:
        self._send(run.gone(message["status"], message["usage"]))

    def _shrink(self) -> None:
        while len(self._idle) > _MOST_IDLE:
            self._dismiss(self._idle.pop(0))

    def _dismiss(self, superfluous: Init) -> None:
        self._selector.unregister(superfluous.channel)
        del self._inits[superfluous.pid]
        superfluous.close()

    # -- the dead ----------------------------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Wait for every child that has ended: inits that were dismissed or have died, and strays."""
        for pid in _ended_children():
            dead = self._inits.pop(pid, None)
            if dead is None:
                continue
            for watched in (dead.channel, dead.pidfd):
                if watched in self._selector.get_map():
                    self._selector.unregister(watched)
            if dead in self._idle:
                self._idle.remove(dead)
            if dead.run:
                dead.run.init = None
                if not dead.run.over:
                    self._orphaned.append(dead.run)
            dead.close()

    def _kill_strays(self) -> None:
        """Kill what came here when an init was killed; the runs of such inits are gone when no stray is left."""
        if not self._orphaned:
            return
        strays = [pid for pid in tree.children(os.getpid()) if pid not in self._inits]
        if strays:
            tree.kill(strays)
            return
        while self._orphaned:
            self._send(self._orphaned.pop().gone())

    def _kill_everything(self) -> None:
        while tree.has_children():
            tree.kill(tree.children(os.getpid()))
            time.sleep(_KILL_ROUND_SECONDS)  # noqa: TID251 - killed processes need a moment to end


def sweep(work_root: str) -> None:
    """Remove the work directories that a crash has left, in a process of its own, because they may be large."""
    leftovers = workdir.leftovers(work_root)
    if leftovers and os.fork() == 0:
        for path in leftovers:
            workdir.remove(path)
        os._exit(0)


def main(listener_descriptor: str, work_root: str) -> None:
    """Serve until the supervisor goes away.

    Args:
        listener_descriptor: number of the inherited listening socket.
        work_root: the folder that holds the runs' work directories; nothing in it belongs to a live run yet.
    """
    listener = socket.socket(fileno=int(listener_descriptor))
    listener.set_inheritable(False)
    prctl.become_subreaper()
    sweep(work_root)
    agent.prepare()
    # The first compile() of a process makes the types of the syntax tree, which takes longer than most runs.
    compile("", "", "exec")
    gc.collect()
    gc.freeze()
    Launcher(listener, work_root).serve()


def _ended_children() -> Iterator[int]:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid


if __name__ == "__main__":
    main(*sys.argv[1:])
