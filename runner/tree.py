"""The processes below this one, found and waited for; for the launcher, which has nothing but the standard library."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator

# Between two looks at what was told to die.
_ROUND_SECONDS = 0.01


def children(pid: int) -> list[int]:
    """Return the pids of the children of a process, zombies included."""
    return _all_children().get(pid, [])


def family(pid: int) -> set[int]:
    """Return the pids of a process and of all below it."""
    below = _all_children()
    found = [pid]
    for member in found:
        found.extend(below.get(member, ()))
    return set(found)


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to processes of this process's tree and to all below them; call again until they are gone.

    None of these pids can have passed to a stranger: an orphan becomes a child of this process, which has not yet
    waited for it.
    """
    below = _all_children()
    doomed = list(pids)
    for pid in doomed:
        doomed.extend(below.get(pid, ()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ended_children() -> Iterator[int]:
    """Wait for every child that has ended, and yield its pid.

    One that was stopped is continued: only an agent does that, to an init that shall not tell of its end.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                os.kill(pid, signal.SIGCONT)
            else:
                yield pid


def end_children(seconds: float, is_spared: Callable[[int], bool]) -> bool:
    """Kill all children with all that is below them, until nothing is left; tell whether that was so in time.

    Args: is_spared: tells of a child's pid that it is only waited for.
    """
    deadline = time.monotonic() + seconds
    while _has_children():
        if time.monotonic() > deadline:
            return False
        kill(pid for pid in children(os.getpid()) if not is_spared(pid))
        time.sleep(_ROUND_SECONDS)  # noqa: TID251 - killed processes need a moment to end
    return True


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _all_children() -> dict[int | None, list[int]]:
    found: dict[int | None, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            found.setdefault(_parent(name), []).append(int(name))
    return found


def _parent(pid: str) -> int | None:
    """Return the parent's pid, or None if the process is gone.

    Source: proc(5), /proc/pid/stat: the fields after the last ")" are the state and the parent's pid.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
