"""The supervisor's end of the launcher: finds it or starts it, talks to it, notices its death."""

import hashlib
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner import protocol
from supervisor.clock import Clock
from supervisor.machine.predecessor import AdoptedProcess, Predecessor
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
        orphan_seconds: float,
        on_event: Callable[[dict[str, Any], list[int]], None],
        on_death: Callable[[], None],
        reactor: Reactor,
        clock: Clock,
        accepted: Sequence[str] = (),
    ) -> None:
        """Prepare; take_over() finds a process, start() starts one.

        Args:
            data: the folder of its socket, of the runs' work directories, and of the sandboxes' root.
            orphan_seconds: how long it keeps its runs without a supervisor.
            on_event: takes each event and its descriptors. on_death: it died.
            accepted: see runner.strict: what strict runs can do without on this machine.
        """
        self._data = data
        self._orphan_seconds = orphan_seconds
        self._on_event = on_event
        self._on_death = on_death
        self._accepted = accepted
        self._reactor = reactor
        self._clock = clock
        self._channel: protocol.Channel | None = None
        self.name: str | None = None
        self.is_outdated = False
        self._is_foreign = False
        self._unreleased: set[str] = set()
        self.service = Service("launcher", self._spawn, self._died, reactor, clock)

    @property
    def connected(self) -> bool:
        return self._channel is not None

    @property
    def foreign_name(self) -> str | None:
        """name, if it was a predecessor that has started the process."""
        return self.name if self._is_foreign else None

    def channel_fileno(self) -> int | None:
        """Return the descriptor of the connection, None if there is none."""
        return self._channel.fileno() if self._channel else None

    def take_over(self) -> None:
        """Connect to the process that a predecessor has left, if there is one, and take its events.

        name is then what it was started as, and is_outdated tells whether it has other code or arguments than one that
        would be started now.
        """
        found = Predecessor.at(self._data / _SOCKET)
        events = found.take_over(self._greeting()) if found else None
        if not found or events is None:
            return
        last, _ = events.pop()
        self.name = last["launcher"]
        self.is_outdated = last["made_from"] != self._made_from()
        self._is_foreign = True
        self._channel = protocol.Channel(found.connection)
        self.service.adopt(AdoptedProcess(found.pid, os.dup(found.pidfd)), found.pidfd)
        self._unreleased.update(event["run"] for event, _ in events)
        for event in events:
            self._on_event(*event)
        self._plan_renewal()
        self._watch()

    def start(self) -> None:
        """Start the process and connect to it, if there is none yet."""
        if not self.connected:
            self.service.start()

    def launch(self, run: str, wanted: dict[str, Any], memo: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Ask for a run; see runner.protocol. With the launcher dead nothing is sent: its death is told soon."""
        self._unreleased.add(run)
        self._send({"do": protocol.LAUNCH, "run": run, **wanted, "memo": memo}, descriptors)

    def note(self, run: str, memo: dict[str, Any]) -> None:
        """Let the launcher keep another memo of a run."""
        self._send({"do": protocol.NOTE, "run": run, "memo": memo})

    def release(self, run: str) -> None:
        """Let the launcher forget a run whose end is recorded."""
        self._unreleased.discard(run)
        self._send({"do": protocol.RELEASE, "run": run})
        self._plan_renewal()

    def _plan_renewal(self) -> None:
        """Have an outdated process replaced, not in the middle of a step, in which there may be launches to come."""
        if self.is_outdated:
            self._reactor.call_at(self._clock.monotonic(), self._renew)

    def _renew(self) -> None:
        if self.is_outdated and self.connected and not self._unreleased:
            self.service.expect_end()
            self._send({"do": protocol.END})
            self._disconnect()

    def stop(self) -> None:
        """Have it kill what lives, clear up and exit."""
        self.service.retire()
        self._send({"do": protocol.END})
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
        name = uuid.uuid4().hex
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with (
                theirs,
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
                unix_address(path) as address,
            ):
                listener.bind(address)
                os.chmod(address, 0o600)
                # First of all: however early we die, the launcher finds who it is for, and a connection that is closed.
                protocol.send(ours, self._greeting())
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", _START, name, self._made_from()),
                        *(f"{listener.fileno()},{theirs.fileno()}", str(work), str(skeleton), *self._accepted),
                    ],
                    stdin=subprocess.DEVNULL,
                    # Who reads what the server prints need not wait for the end of what outlives it.
                    stdout=subprocess.DEVNULL,
                    pass_fds=(listener.fileno(), theirs.fileno()),
                    start_new_session=True,
                    cwd="/",
                    env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                )
        except OSError:
            ours.close()
            raise
        self.name, self.is_outdated, self._is_foreign = name, False, False
        self._channel = protocol.Channel(ours)
        self._watch()
        return process

    def _greeting(self) -> dict[str, Any]:
        return {"do": protocol.ADOPT, "protocol": protocol.PROTOCOL, "orphan_seconds": self._orphan_seconds}

    def _made_from(self) -> str:
        """Return a digest of all that a launcher is made from."""
        digest = hashlib.sha256(repr((sys.version, sys.executable, self._accepted)).encode())
        for source in sorted(Path(_START).parent.rglob("*.py")):
            digest.update(source.read_bytes())
        return digest.hexdigest()

    def _watch(self) -> None:
        assert self._channel is not None
        self._reactor.watch(self._channel, self._converse, READ | (WRITE if self._channel.backlog else 0))

    def _converse(self) -> None:
        assert self._channel is not None
        try:
            self._channel.flush()
            while received := self._channel.receive():
                if received[0]["event"] != protocol.ALL_HELD:
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


def has_left_a_launcher(data: Path) -> bool:
    """Tell whether the server before has ended without an orderly stop, so that its launcher may live on."""
    return (data / _SOCKET).exists()
