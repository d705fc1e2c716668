"""The server under test: a process of its own, with all that belongs to it."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from supervisor.errors import CorralError
from supervisor.selftest import interruption, remains
from supervisor.settings import Settings

_START_SECONDS = 60.0
_LOOK_SECONDS = 0.05

# Its own grace periods are far shorter.
_STOP_SECONDS = 20.0


class ServerUnusable(CorralError):
    """The server under test does not start."""


class PrivateServer:
    """A server of our own; a context that stops it."""

    def __init__(self, settings: Settings, secret: dict[str, str], log: Path) -> None:
        """Start it.

        Args:
            secret: variables of its environment. log: takes its stderr.
        """
        self._log = log
        with log.open("wb") as stderr:
            # In a session of its own, so that Ctrl-C comes to the selftest alone.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "supervisor.selftest.serve", settings.model_dump_json(), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **secret},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> str:
        """Return its base URL as soon as it answers requests. Raises ServerUnusable."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + _START_SECONDS
        while not select.select([self._process.stdout], [], [], 0)[0]:
            if time.monotonic() > deadline:
                raise ServerUnusable(f"the server is not ready after {_START_SECONDS:g} seconds")
            interruption.wait(_LOOK_SECONDS)
        url = self._process.stdout.readline().decode().strip()
        if not url:
            raise ServerUnusable(self._last_words())
        return url

    def has_ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process.poll() is not None

    def stop(self) -> str | None:
        """Stop it; return what was wrong with its end, None if nothing was. Once more changes nothing."""
        family = self._family()
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        living = [str(process.pid) for process in family if remains.lives(process)]
        if living:
            return f"processes of it live on: {', '.join(living)}"
        code = self._process.returncode
        return f"it ended with exit code {code}" if code else None

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "the server has ended without a word"
