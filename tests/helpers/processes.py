"""Looking at real processes."""

import os
import re
import select
from pathlib import Path

import psutil

from runner import tree
from tests.helpers.wait import patience

# Only kernels with CONFIG_PROC_CHILDREN have them. Source: proc(5).
_HAS_LISTS_OF_CHILDREN = os.path.exists("/proc/thread-self/children")


def descendants(pid: int) -> set[int]:
    """Return the pids of all living processes below one; zombies do not live."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {process.pid for process in below if lives(process.pid)}


def descendants_at_rest(pid: int) -> set[int]:
    """Return the same at a small part of the price; one that comes or goes just now may be missed.

    Source: proc(5), /proc/pid/task/tid/children.
    """
    found = [pid]
    for parent in found:
        found += children_at_rest(parent)
    return {descendant for descendant in found[1:] if lives(descendant)}


def children_at_rest(pid: int) -> list[int]:
    """Return the pids of the children of a process, zombies too; see descendants_at_rest."""
    if not _HAS_LISTS_OF_CHILDREN:
        return tree.children(pid)
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return [int(child) for tid in threads for child in _read(f"/proc/{pid}/task/{tid}/children").split()]
    except FileNotFoundError:
        return []


def lives(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_spare(pid: int) -> bool:
    """Tell whether a process is an init, or one that an init has forked and that waits to become the next run's agent.

    They come and go with the runs. No process of a run has their two descriptors (runner/enter.py).
    """
    try:
        reserved, connection = (os.readlink(f"/proc/{pid}/fd/{number}") for number in (3, 4))
    except PermissionError:
        return _is_sandbox_without_an_agent(pid)
    except OSError:
        return _is_first_of_sandbox(pid)
    return (reserved == os.devnull and connection.startswith("socket:")) or _is_first_of_sandbox(pid)


def _is_sandbox_without_an_agent(pid: int) -> bool:
    """Tell it of what only root may look into, a process in a sandbox: only agents and inits have a filter more."""
    return _filters(pid) == _filters(os.getpid()) or _is_first_of_sandbox(pid)


def _filters(pid: int) -> str | None:
    """Return how many filters of system calls there are on a process: the tests may be in a service that has some."""
    found = re.search(r"^Seccomp_filters:\t(\d+)$", _status(pid), re.MULTILINE)
    return found and found[1]


def _is_first_of_sandbox(pid: int) -> bool:
    """Tell whether a process is an init, also one that was just cloned. Source: proc(5), NSpid."""
    return re.search(r"^NSpid:.*\t1$", _status(pid), re.MULTILINE) is not None


def _status(pid: int) -> str:
    return _read(f"/proc/{pid}/status")


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_exit(pid: int, seconds: float = 20.0) -> None:
    """Wait on a pidfd until a process has ended. Raises AssertionError."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], patience(seconds))[0], f"process {pid} still lives"
    finally:
        os.close(pidfd)
