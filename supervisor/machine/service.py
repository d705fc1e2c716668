"""A server process of ours, started again when it dies: at once the first time, later and later if it keeps dying."""

import os
import subprocess
from collections.abc import Callable
from typing import Protocol

import structlog

from supervisor.clock import Clock
from supervisor.machine.reactor import Reactor

_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 10.0

# A process that has lived this long is started again at once when it dies.
_PROVEN_SECONDS = 30.0

_log = structlog.get_logger()


class Process(Protocol):
    """What a service is told of its process: a subprocess.Popen is one."""

    pid: int

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def wait(self) -> int | None:
        """Let go of the process, which has ended; return its exit code, None if nobody knows."""


class Service:
    """One process that is to live as long as the server."""

    def __init__(
        self,
        name: str,
        spawn: Callable[[], subprocess.Popen[bytes]],
        on_exit: Callable[[], None],
        reactor: Reactor,
        clock: Clock,
    ) -> None:
        """Args: spawn: starts the process. on_exit: called after each end of it that stop() did not ask for."""
        self._name = name
        self._spawn = spawn
        self._on_exit = on_exit
        self._reactor = reactor
        self._clock = clock
        self._process: Process | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._delay = _FIRST_DELAY_SECONDS
        self._stopping = False
        self._is_expected = False

    @property
    def pid(self) -> int | None:
        """The pid of the process, None while there is none."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; when the host has no room for it now, later."""
        if self._stopping:
            return
        try:
            process = self._spawn()
        except OSError as error:
            _log.error("process not started", process=self._name, error=str(error), again_in_seconds=self._delay)
            self._start_later()
            return
        self.adopt(process, os.pidfd_open(process.pid))

    def adopt(self, process: Process, pidfd: int) -> None:
        """Take a process that runs already. Args: pidfd: its own, owned by the service from now on."""
        self._started_at = self._clock.monotonic()
        self._process, self._pidfd = process, pidfd
        self._reactor.watch(self._pidfd, self._on_ended)

    def expect_end(self) -> None:
        """The process has been asked to end, so that another one is started in its place."""
        self._is_expected = True

    def retire(self) -> None:
        """Do not start it again."""
        self._stopping = True

    def stop(self) -> None:
        """Ask the process to end, and do not start it again."""
        self.retire()
        if self._process:
            self._process.terminate()

    def kill(self) -> None:
        """End the process now; for one that was asked and did not."""
        if self._process:
            self._process.kill()

    def _on_ended(self) -> None:
        assert self._process is not None
        self._reactor.forget(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self._process = None
        if self._stopping:
            return
        if self._is_expected:
            self._is_expected = False
            self._on_exit()
            self.start()
            return
        if self._clock.monotonic() - self._started_at > _PROVEN_SECONDS:
            self._delay = _FIRST_DELAY_SECONDS
        _log.error("process died", process=self._name, exit_code=code, again_in_seconds=self._delay)
        self._start_later()
        self._on_exit()

    def _start_later(self) -> None:
        self._reactor.call_at(self._clock.monotonic() + self._delay, self.start)
        self._delay = min(self._delay * 2, _LONGEST_DELAY_SECONDS)
