"""Whether this machine can have sandboxes: found out by having one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from runner import protocol
from supervisor.clock import Clock
from supervisor.isolation import Canary
from supervisor.machine.reactor import Reactor, Timer

_SCRIPT = Path(protocol.__file__).with_name("canary.py")
_PREFIX = "corral-canary-"
_PATIENCE_SECONDS = 30
_TOO_LATE = Canary(error=f"it has not ended within {_PATIENCE_SECONDS} seconds")

# To read what one has told that has ended: a process of its sandbox may still hold the pipe.
_READING_SECONDS = 1


class _Flight:
    """A small agent of ours in a sandbox, in a process of its own (runner/canary.py)."""

    def __init__(self, place: Path | None) -> None:
        """Start it. Args: place: see send_canary(). Raises OSError."""
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", _SCRIPT, self._folder.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError:
            self._folder.cleanup()
            raise
        try:
            self.pidfd = os.pidfd_open(self.process.pid)
        except OSError:
            self.process.kill()
            self.process.communicate()
            self._folder.cleanup()
            raise

    def land(self, seconds: float) -> Canary:
        """Wait for its end, at most so long, and return what came of it."""
        os.close(self.pidfd)
        with self._folder, self.process:
            try:
                told, complaint = self.process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                return _TOO_LATE
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return _TOO_LATE
        if code:
            return Canary(error=(complaint.strip().splitlines() or [f"exit code {code}"])[-1])
        found = json.loads(told)
        layers, unset = tuple(found.get("layers", ())), tuple(found.get("unset_ceilings", ()))
        return Canary(layers, found.get("error"), unset, found["strict_lacks"])


def send_canary(place: Path | None = None) -> Canary:
    """Run a small agent of ours in a sandbox, in the control groups that a server in place of this process would have.

    For these, this process may be moved to another group if nobody else is in its own (runner/sandbox/cgroup.py).

    Args:
        place: folder for its files, which are removed; None for that of temporary files.
    """
    try:
        return _Flight(place).land(_PATIENCE_SECONDS)
    except OSError as error:
        return Canary(error=str(error))


def remove_leavings(place: Path) -> None:
    """Remove the files of canaries whose server was killed. Args: place: a folder that no other server uses."""
    for folder in place.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


class Canaries:
    """Canaries that are sent while a server runs, one at a time, and that nobody waits for."""

    def __init__(self, accepted: tuple[str, ...], reactor: Reactor, clock: Clock, place: Path | None = None) -> None:
        """Args: accepted: see supervisor.isolation.Canary. place: see send_canary()."""
        self._accepted = accepted
        self._place = place
        self._reactor = reactor
        self._clock = clock
        self._flight: _Flight | None = None
        self._deadline: Timer | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the one that is under way, None if none is."""
        return self._flight.process.pid if self._flight else None

    def send(self, on_landed: Callable[[Canary], None]) -> None:
        """Send one; what came of it is told later."""
        try:
            flight = self._flight = _Flight(self._place)
        except OSError as error:
            canary = Canary(error=str(error))
            self._reactor.call_at(self._clock.monotonic(), lambda: on_landed(canary))
            return
        self._reactor.watch(flight.pidfd, lambda: on_landed(self._land()))
        self._deadline = self._reactor.call_at(self._clock.monotonic() + _PATIENCE_SECONDS, flight.process.kill)

    def stop(self) -> None:
        """End the one that is under way."""
        if self._flight:
            self._flight.process.kill()
            self._land()

    def _land(self) -> Canary:
        assert self._flight is not None
        assert self._deadline is not None
        self._deadline.cancel()
        flight, self._flight = self._flight, None
        self._reactor.forget(flight.pidfd)
        return flight.land(_READING_SECONDS).accepting(self._accepted)
