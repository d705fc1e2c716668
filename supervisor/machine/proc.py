"""What /proc tells of the processes below one, read from its cheapest files: for what is looked at again and again.

A process can end, fork and be adopted while it is looked for: what is found is what was there, not all that was.
Source: proc(5).
"""

import os

import psutil

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# In /proc/pid/stat, behind the name: time of the process itself, and of the children it has waited for.
_OWN_TIME, _CHILDREN_TIME = slice(11, 13), slice(13, 15)

# A kernel is built with this file or without it (CONFIG_PROC_CHILDREN).
_HAS_CHILDREN_FILES = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def below(root: int) -> list[int]:
    """Return the pids of the processes below one, zombies included; not its own."""
    return _by_children_files(root) if _HAS_CHILDREN_FILES else _by_all_of_proc(root)


def resident_bytes(pid: int) -> int:
    """Return the memory of a process, shared or not; 0 if it is gone."""
    return int(_read(f"/proc/{pid}/statm", "0 0").split()[1]) * _PAGE_BYTES


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, of what it shares only its part: a hundred times as dear as resident_bytes().

    One that lets nobody look into it has all that it shares.
    """
    for line in _read(f"/proc/{pid}/smaps_rollup", "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) << 10
    return resident_bytes(pid)


def cpu_seconds_below(root: int) -> float:
    """Return the CPU time of all that is and was below a process, as far as it was waited for."""
    ticks = sum(_ticks(pid, _OWN_TIME) + _ticks(pid, _CHILDREN_TIME) for pid in below(root))
    return cpu_seconds_waited_for(root) + ticks / _TICKS_PER_SECOND


def cpu_seconds_waited_for(pid: int) -> float:
    """Return the CPU time of the children that a process has waited for, and of those that these have."""
    return _ticks(pid, _CHILDREN_TIME) / _TICKS_PER_SECOND


def _by_children_files(root: int) -> list[int]:
    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        fresh = [pid for pid in _children(waiting.pop()) if pid not in found]
        found.update(dict.fromkeys(fresh))
        waiting += fresh
    return list(found)


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read(f"/proc/{pid}/task/{thread}/children", "").split()]


def _by_all_of_proc(root: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _ticks(pid: int, which: slice) -> int:
    return sum(map(int, _read(f"/proc/{pid}/stat", "").rpartition(")")[2].split()[which]))


def _read(path: str, if_gone: str) -> str:
    """Return what a file says. The name of a process, which is in some, is whatever bytes it has chosen."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return if_gone
