"""Asking a running server to start anew, and seeing that it does: `corral restart`."""

import os
import select
import signal
from contextlib import closing
from pathlib import Path

from supervisor.errors import ConfigurationError
from supervisor.machine.lock import FileLock

# For its requests under way, and for another canary.
_PATIENCE_SECONDS = 60.0

_LOOK_SECONDS = 0.05

_REFUSAL = "not restarted "


def restart_server(data: Path) -> int:
    """Return the pid of the server that uses a data folder, when it has started anew.

    Raises:
        ConfigurationError: there is none, it refuses, or it has not done so in time.
    """
    if not (data / "lock").exists():
        raise ConfigurationError(f"cannot restart: no server has ever used {str(data)!r}")
    with closing(FileLock(data / "lock")) as lock:
        holder = lock.read()
        if holder is None:
            raise ConfigurationError(f"cannot restart: no server is using {str(data)!r}")
        pid, _ = holder
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise ConfigurationError(f"cannot restart: the server with pid {pid} has just ended") from None
        try:
            # With the descriptor open, the pid cannot pass to a stranger unseen: whoever has the lock is this process.
            if lock.read() != holder:
                raise ConfigurationError(f"cannot restart: the server with pid {pid} is just starting or ending")
            signal.pidfd_send_signal(pidfd, signal.SIGHUP)
            _wait_for_news(lock, pidfd, holder)
        finally:
            os.close(pidfd)
        return pid


def _wait_for_news(lock: FileLock, pidfd: int, before: tuple[int, str]) -> None:
    pid, _ = before
    left = _PATIENCE_SECONDS
    while not select.select([pidfd], [], [], _LOOK_SECONDS)[0]:
        left -= _LOOK_SECONDS
        now = lock.read()
        if now and now != before and now[1].startswith(_REFUSAL):
            reason = now[1].removeprefix(_REFUSAL).partition(" ")[2]
            raise ConfigurationError(f"cannot restart the server with pid {pid}: {reason}")
        if now and now != before and now[1]:
            return
        if left <= 0:
            raise ConfigurationError(f"the server with pid {pid} has not started anew in {_PATIENCE_SECONDS:g} seconds")
    raise ConfigurationError(f"the server with pid {pid} has ended: its log tells why")
