"""The supervisor's end of the launcher: starts it, talks to it, notices its death."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner import protocol
from supervisor.clock import Clock
from supervisor.machine.reactor import READ, WRITE, Reactor
from supervisor.machine.service import Service
from supervisor.unix_address import unix_address

_SOCKET = "launcher.sock"
_WORK = "work"
_SKELETON = Path("corral-skeleton", "root")
_START = str(Path(protocol.__file__).with_name("start.py"))


class Launcher:
    """The connection to the fork server (runner/forkserver.py) and the process behind it."""

    def __init__(
        self,
        data: Path,
        inherited_lock: int,
        on_event: Callable[[dict[str, Any], list[int]], None],
        on_death: Callable[[], None],
        reactor: Reactor,
        clock: Clock,
        accepted: Sequence[str] = (),
    ) -> None:
        """Prepare; start() starts the process.

        Args:
            data: the folder of its socket, of the runs' work directories, and of the sandboxes' root.
            inherited_lock: descriptor that the process holds as long as it lives.
            on_event: takes each event and its descriptors. on_death: it died.
            accepted: see runner.strict: what strict runs can do without on this machine.
        """
        self._data = data
        self._lock = inherited_lock
        self._on_event = on_event
        self._on_death = on_death
        self._accepted = accepted
        self._reactor = reactor
        self._channel: protocol.Channel | None = None
        self.service = Service("launcher", self._spawn, self._died, reactor, clock)

    @property
    def connected(self) -> bool:
        return self._channel is not None

    def start(self) -> None:
        """Start the process and connect to it."""
        self.service.start()

    def launch(self, run: str, wanted: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Ask for a run; see runner.protocol. With the launcher dead nothing is sent: its death is told soon."""
        self._send({"do": protocol.LAUNCH, "run": run, **wanted}, descriptors)

    def release(self, run: str) -> None:
        """Let the launcher forget a run whose end is recorded."""
        self._send({"do": protocol.RELEASE, "run": run})

    def stop(self) -> None:
        """Have it kill what lives, clear up and exit, as it does when it has no supervisor."""
        self.service.retire()
        self._disconnect()

    def close(self) -> None:
        """Remove what a launcher that has ended leaves behind."""
        self._disconnect()
        (self._data / _SOCKET).unlink(missing_ok=True)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        if not self._channel:
            return
        try:
            self._channel.send(message, descriptors)
        except protocol.Disconnected:
            self._disconnect()
            return
        self._watch()

    def _spawn(self) -> subprocess.Popen[bytes]:
        path = self._data / _SOCKET
        path.unlink(missing_ok=True)
        work = self._data.absolute() / _WORK
        skeleton = self._data.absolute() / _SKELETON
        for private in (work, skeleton.parent):
            private.mkdir(mode=0o700, exist_ok=True)
        with unix_address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen()
            # Connected first: however early we die, the launcher finds a connection that is closed, and exits.
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.connect(address)
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", _START),
                    *(str(listener.fileno()), str(work), str(skeleton), *self._accepted),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(listener.fileno(), self._lock),
                start_new_session=True,
                cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            )
        self._channel = protocol.Channel(connection)
        self._watch()
        return process

    def _watch(self) -> None:
        assert self._channel is not None
        self._reactor.watch(self._channel, self._converse, READ | (WRITE if self._channel.backlog else 0))

    def _converse(self) -> None:
        assert self._channel is not None
        try:
            self._channel.flush()
            while received := self._channel.receive():
                self._on_event(*received)
        except protocol.Disconnected:
            self._disconnect()
            return
        self._watch()

    def _disconnect(self) -> None:
        if self._channel:
            self._reactor.forget(self._channel)
            self._channel.close()
            self._channel = None

    def _died(self) -> None:
        self._drain()
        self._on_death()

    def _drain(self) -> None:
        """Take in what it said before it died."""
        if self._channel:
            self._converse()
        self._disconnect()
