"""The processes of the server under test: all that is below this process, and nothing else on the machine."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from runner import protocol
from runner.sandbox import prctl

_API, _LAUNCHER = "api", "start.py"


def adopt() -> None:
    """Have what the server leaves become a child of this process: so it can be seen. Source: prctl(2)."""
    prctl.become_subreaper()


def services(server_pid: int) -> dict[str, int]:
    """Return the pids of the server's own processes, by name: supervisor, api, launcher; those that are there.

    A launcher may also be a child of ours: one that has outlived its supervisor.
    """
    found = {"supervisor": server_pid}
    for child in (*_children(os.getpid()), *_children(server_pid)):
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            if child.pid != server_pid and any(word.endswith(f"/runner/{_LAUNCHER}") for word in words):
                found["launcher"] = child.pid
            elif _API in words:
                found["api"] = child.pid
    return found


def inits(launcher_pid: int) -> list[int]:
    """Return the pids of the inits that have a run, or of all if none has."""
    found = [child.pid for child in _children(launcher_pid)]
    return [pid for pid in found if any(map(_is_of_a_run, _below(pid)))] or found


def agents(launcher_pid: int) -> list[int]:
    """Return the pids of the agents and of what they have started, or of what waits to become an agent."""
    found = [pid for init in _children(launcher_pid) for pid in _below(init.pid)]
    return [pid for pid in found if _is_of_a_run(pid)] or found


def _below(pid: int) -> list[int]:
    return [process.pid for process in _children(pid, recursive=True)]


def _is_of_a_run(pid: int) -> bool:
    """Tell whether a process has the pipe of the frames, at whose number others have /dev/null (runner/enter.py)."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{protocol.RESULT_FD}") != os.devnull
    except OSError:
        return False


def living() -> list[int]:
    """Return the pids of all processes below this one but zombies."""
    found = []
    for process in _children(os.getpid(), recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def is_older(pid: int, instant: float) -> bool:
    """Tell whether a process lives and was there at an instant, in seconds: else it has only got the pid of that time.

    Its age is known to a hundredth of a second. Source: proc(5), starttime.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() < instant - 0.02)
    return False


def reap(but: int | None) -> None:
    """Wait for children that have ended and that we did not start. Args: but: the pid of the one that we did."""
    for child in _children(os.getpid()):
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid != but and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a process below this one, and tell whether there was such a one.

    The descriptor is opened first, and then it is looked whether the process is ours and lives: so it cannot be a
    stranger that has got the pid meanwhile.
    """
    with _opened(pid) as pidfd:
        if pidfd is None or not _is_ours(pid) or _has_ended(pidfd):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)
        return True


def kill_all(seconds: float) -> None:
    """Kill all processes below this one, as the end of a machine does. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while found := living():
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes survive SIGKILL: {found}")
        for pid in found:
            send(pid, signal.SIGKILL)


@contextmanager
def _opened(pid: int) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _is_ours(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return os.getpid() in (parent.pid for parent in psutil.Process(pid).parents())
    return False


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _children(pid: int, recursive: bool = False) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=recursive)
    return []
