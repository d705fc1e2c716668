"""Control groups: what a whole process tree may use together. One group for each sandbox, made and removed here.

The kernel has two forms of them. Version 2 needs a subtree that is the server's own (systemd: Delegate=yes); version 1
needs root. Where there is neither, a tree has no limit of its own, only each of its processes has.
Source: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, cgroup-v1/pids.rst.
"""

from __future__ import annotations

import contextlib
import os
import re

from runner.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CONTROLLERS = ("memory", "pids")

# The server's own processes go here, because a group with members cannot give controllers to the groups below it.
_SERVER_LEAF = "corral-server"

# The launcher's pid, then the init's.
_NAME = re.compile(r"corral-(\d+)-\d+")


class Group:
    """The group of one sandbox."""

    # What the group is to the record of a run's isolation.
    layers: tuple[str, ...]

    # Files that take the memory limit, in this order, and others with what they take. One that is not there is passed
    # over: swap may not be counted on this machine.
    memory_files: tuple[str, ...]
    fixed: tuple[tuple[str, str], ...]
    peak_file: str
    events_file: str

    def __init__(self, memory: str, pids: str) -> None:
        """Make it. Args: memory, pids: its paths in the two hierarchies, which may be one."""
        self._memory = memory
        self._folders = tuple(dict.fromkeys((memory, pids)))
        self._pids = pids
        self._earlier_peak = 0
        try:
            for folder in self._folders:
                os.mkdir(folder)
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Put a process, and with it all that it will start, into the group."""
        for folder in self._folders:
            kernel.write(f"{folder}/cgroup.procs", str(pid))

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Set what the members may use together."""
        limits = [(name, str(memory_bytes)) for name in self.memory_files]
        for name, text in (*limits, *self.fixed):
            if os.path.exists(f"{self._memory}/{name}"):
                kernel.write(f"{self._memory}/{name}", text)
        kernel.write(f"{self._pids}/pids.max", str(processes))
        self._earlier_peak = self._peak() or 0

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory that the members had together since the last limit().

        None if this kernel does not tell, or it was no more than at an earlier time: before Linux 6.12 version 2 cannot
        be made to forget that.
        """
        peak = self._peak()
        return None if peak is None or peak <= self._earlier_peak else peak

    def _peak(self) -> int | None:
        try:
            return int(_read(f"{self._memory}/{self.peak_file}"))
        except OSError:
            return None

    def was_out_of_memory(self) -> bool:
        """Tell whether the kernel has killed a member because of the memory limit."""
        counters = dict(line.split() for line in _read(f"{self._memory}/{self.events_file}").splitlines())
        return int(counters.get("oom_kill", 0)) > 0

    def watch_memory(self) -> int | None:
        """Return a descriptor that is readable when the limit was hit; None if the kernel then kills all members."""
        return None

    def remove(self) -> None:
        """Remove it; nothing may live in it any more."""
        for folder in self._folders:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)


class GroupV2(Group):
    """A group of the unified hierarchy. Out of memory, the kernel kills all of it: half a tree is of no use."""

    layers = ("cgroup", "cgroup_v2")
    memory_files = ("memory.max",)
    fixed = (("memory.swap.max", "0"), ("memory.oom.group", "1"))
    peak_file = "memory.peak"
    events_file = "memory.events"


class GroupV1(Group):
    """A group in two hierarchies."""

    layers = ("cgroup",)
    memory_files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    fixed = (("memory.max_usage_in_bytes", "0"),)
    peak_file = "memory.max_usage_in_bytes"
    events_file = "memory.oom_control"

    def watch_memory(self) -> int | None:
        """As in Group: here the kernel kills one member only. Source: cgroup-v1/memory.rst, "OOM Control"."""
        control = os.open(f"{self._memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            kernel.write(f"{self._memory}/cgroup.event_control", f"{event} {control}")
        except OSError:
            os.close(event)
            raise
        finally:
            os.close(control)
        return event


class Groups:
    """Where this server makes its groups."""

    def __init__(self, kind: type[Group], memory: str, pids: str) -> None:
        """Args: kind: the form. memory, pids: the folders of the server's own group."""
        self.version = 2 if kind is GroupV2 else 1
        self._kind = kind
        self._memory = memory
        self._pids = pids
        self._sweep()

    def make(self, pid: int) -> Group:
        """Make a group for a child of this process. Raises OSError."""
        name = f"corral-{os.getpid()}-{pid}"
        return self._kind(f"{self._memory}/{name}", f"{self._pids}/{name}")

    def _sweep(self) -> None:
        """Remove what launchers have left that were killed; their runs have died with them."""
        for folder in {self._memory, self._pids}:
            for name in os.listdir(folder):
                found = _NAME.fullmatch(name)
                if found and not _lives(found[1]):
                    with contextlib.suppress(OSError):
                        os.rmdir(f"{folder}/{name}")


def find(server_pids: Iterable[int]) -> Groups | None:
    """Return where groups can be made, None if nowhere.

    Args:
        server_pids: the processes that may be moved: the server's own.
    """
    own = own_groups(_read("/proc/self/cgroup"))
    mounted = mounted_hierarchies(_read("/proc/self/mountinfo"))
    if "" in own and "" in mounted and _delegate(mounted[""] + own[""], set(server_pids)):
        folder = mounted[""] + own[""]
        return Groups(GroupV2, folder, folder)
    if os.geteuid() == 0 and all(name in own and name in mounted for name in _CONTROLLERS):
        return Groups(GroupV1, *(mounted[name] + own[name] for name in _CONTROLLERS))
    return None


def offers_v2(server_pids: Iterable[int]) -> bool:
    """Tell whether find() would find version 2, without any change. Args: server_pids: as there."""
    own = own_groups(_read("/proc/self/cgroup"))
    mounted = mounted_hierarchies(_read("/proc/self/mountinfo"))
    try:
        return "" in own and "" in mounted and _is_ours(mounted[""] + own[""], set(server_pids))
    except OSError:
        return False


def own_groups(table: str) -> dict[str, str]:
    """Return {controller, "" for version 2: path of a process's group}. Source: cgroups(7), /proc/pid/cgroup."""
    found = {}
    for line in table.splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path.rstrip("/")))
    return found


def mounted_hierarchies(table: str) -> dict[str, str]:
    """Return {controller, "" for version 2: mount point}. Source: proc(5), /proc/pid/mountinfo."""
    found = {}
    for line in table.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            found[""] = fields.split(" ")[4]
        elif kind == "cgroup":
            found.update(dict.fromkeys(options.split(","), fields.split(" ")[4]))
    return found


def _delegate(folder: str, server_pids: set[int]) -> bool:
    """Give the controllers of a group to the groups below it; tell whether that was possible.

    It is only if the group is ours alone: other people's processes are not moved.
    """
    try:
        if not _is_ours(folder, server_pids):
            return False
        os.makedirs(f"{folder}/{_SERVER_LEAF}", exist_ok=True)
        for pid in _members(folder):
            kernel.write(f"{folder}/{_SERVER_LEAF}/cgroup.procs", str(pid))
        for name in _CONTROLLERS:
            kernel.write(f"{folder}/cgroup.subtree_control", f"+{name}")
    except OSError:
        return False
    return True


def _is_ours(folder: str, server_pids: set[int]) -> bool:
    """Tell whether a group has what we need and is the server's alone. Raises OSError."""
    has_controllers = set(_CONTROLLERS) <= set(_read(f"{folder}/cgroup.controllers").split())
    return has_controllers and os.access(folder, os.W_OK) and _members(folder) <= server_pids


def _members(folder: str) -> set[int]:
    return {int(pid) for pid in _read(f"{folder}/cgroup.procs").split()}


def _lives(pid: str) -> bool:
    """Tell whether there is such a process. One that has ended is there until it is waited for: it may be for ever."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
