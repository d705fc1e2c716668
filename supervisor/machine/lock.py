"""Locks on files of the data directory: held by a process, released by the kernel when it dies."""

import fcntl
import os
import time
from pathlib import Path

import psutil

from supervisor.errors import ConfigurationError

_RETRY_SECONDS = 0.02


class FileLock:
    """An exclusive lock; a process that inherits its descriptor holds it too. Source: flock(2)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        return self._descriptor

    def acquire(self, patience_seconds: float) -> None:
        """Take the lock and write our pid into the file.

        The launcher inherits the lock. So when a supervisor was killed, the lock stays taken for the moment in which
        its launcher kills the runs; that moment is waited for.

        Raises:
            ConfigurationError: a living process has it, or a dead one's launcher does not end; the text names the pid.
        """
        deadline = time.monotonic() + patience_seconds
        while not self._try():
            holder = os.pread(self._descriptor, 20, 0).decode(errors="replace").strip()
            if not holder.isdigit() or _lives(int(holder)) or time.monotonic() > deadline:
                raise ConfigurationError(
                    f"cannot use {str(self._path.parent)!r}: the server with pid {holder or 'unknown'} is using it"
                )
            time.sleep(_RETRY_SECONDS)  # noqa: TID251 - before the loop exists; flock has no descriptor to wait for
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go of it; it stays locked while a process that inherited it lives."""
        os.close(self._descriptor)

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
