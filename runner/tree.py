"""The processes below this one, found in /proc; for the launcher, which has nothing but the standard library."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable


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


def has_children() -> bool:
    """Reap what has ended; tell whether this process still has a child, alive or stopped."""
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
