"""Locks on files of the data directory: held by a process, released by the kernel when it dies."""

import fcntl
import os
import time
from pathlib import Path

import psutil

from supervisor.errors import ConfigurationError

_RETRY_SECONDS = 0.02

_MOST_BYTES = 4096


class FileLock:
    """An exclusive lock; a process that inherits its descriptor holds it too. Source: flock(2)."""

    def __init__(self, path: Path, inherited: int | None = None) -> None:
        """Args: inherited: descriptor of the same file by which this process may have the lock already, if any."""
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if inherited is None:
            return
        # Another path, or another file at this path, is another lock.
        if os.path.sameopenfile(inherited, self._descriptor):
            os.close(self._descriptor)
            self._descriptor = inherited
        else:
            os.close(inherited)

    def fileno(self) -> int:
        return self._descriptor

    def acquire(self, patience_seconds: float) -> None:
        """Take the lock and write our pid into the file.

        A child that a killed supervisor was just starting has the lock for the moment until its exec(2); that moment
        is waited for.

        Raises:
            ConfigurationError: a living process has it, or a dead one's child does not let go; the text names the pid.
        """
        deadline = time.monotonic() + patience_seconds
        while not self._try():
            holder = self._lines()[0]
            if not holder.isdigit() or _lives(int(holder)) or time.monotonic() > deadline:
                raise ConfigurationError(
                    f"cannot use {str(self._path.parent)!r}: the server with pid {holder or 'unknown'} is using it"
                )
            time.sleep(_RETRY_SECONDS)  # noqa: TID251 - before the loop exists; flock has no descriptor to wait for
        self._write(f"{os.getpid()}\n")

    def tell(self, news: str) -> None:
        """Write a line about the holder below its pid, in place of the one before; one must not be like another."""
        self._write(f"{os.getpid()}\n{news}\n")

    def read(self) -> tuple[int, str] | None:
        """Return the pid of the holder and its news, "" if there are none; None if nobody has the lock."""
        if self._try():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            return None
        pid, news = self._lines()
        return (int(pid), news) if pid.isdigit() else None

    def close(self) -> None:
        """Let go of it; it stays locked while a process that inherited it lives."""
        os.close(self._descriptor)

    def _lines(self) -> tuple[str, str]:
        text = os.pread(self._descriptor, _MOST_BYTES, 0).decode(errors="replace")
        first, second, *_ = [*text.split("\n"), ""]
        return first.strip(), second

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode()[:_MOST_BYTES], 0)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_held(path: Path) -> bool:
    """Tell whether a process has the lock. To look takes it for an instant, if nobody has it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lives(pid: int) -> bool:
    """Tell whether a process exists and is more than a zombie, which one with a careless parent stays for ever."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
