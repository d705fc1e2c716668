"""Control groups: what a whole process tree may use together. One group for each sandbox, made and removed here.

The kernel has two forms of them. Version 2 needs a subtree that is the server's own (systemd: Delegate=yes); version 1
needs root. Where there is neither, the kernel holds limits of each process alone.
Source: cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
import re

from runner.sandbox import kernel
from runner.sandbox.control_group import Group, GroupV1, GroupV2
from runner.sandbox.kernel import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_CONTROLLERS = ("memory", "pids")

# Used where they are there. The second counts what the first shares out, in version 1 alone: version 2 always counts.
_OPTIONAL = ("cpu", "cpuacct")

# The server's own processes go here, because a group with members cannot give controllers to the groups below it.
# Source: cgroup-v2.rst, "No Internal Process Constraint".
_SERVER_LEAF = "corral-server"

# The launcher's pid, then the init's.
_NAME = re.compile(r"corral-(\d+)-\d+")


class Groups:
    """Where this server makes its groups."""

    def __init__(self, kind: type[Group], places: Mapping[str, str]) -> None:
        """Args: kind: the form. places: {controller: folder of the server's own group}."""
        self.version = 2 if kind is GroupV2 else 1
        self._kind = kind
        self._places = places
        self._doomed: list[str] = []
        self._sweep()

    def make(self, pid: int) -> Group:
        """Make a group for a child of this process. Raises OSError."""
        name = f"corral-{os.getpid()}-{pid}"
        return self._kind({controller: f"{folder}/{name}" for controller, folder in self._places.items()})

    def remove(self, group: Group) -> None:
        """Remove a group whose processes have ended."""
        self._remove(group.folders)

    def _remove(self, folders: Iterable[str]) -> None:
        """Remove folders; one that the kernel does not let go yet, with the next: a member may still be dying."""
        self._doomed = [folder for folder in (*self._doomed, *folders) if not _is_removed(folder)]

    def _sweep(self) -> None:
        """Remove what launchers have left that were killed; their runs have died with them."""
        for folder in set(self._places.values()):
            for name in os.listdir(folder):
                found = _NAME.fullmatch(name)
                if found and not _lives(found[1]):
                    # The second means, should the first have failed; version 1 has no such file.
                    with contextlib.suppress(OSError):
                        kernel.write(f"{folder}/{name}/cgroup.kill", "1")
                    self._remove([f"{folder}/{name}"])


def find(server_pids: Callable[[], set[int]]) -> Groups | None:
    """Return where groups can be made, None if nowhere.

    Args:
        server_pids: tells which processes may be moved: the server's own.
    """
    folders = _here()
    given = _delegate(folders[""], server_pids) if "" in folders else ()
    if given:
        return _usable(Groups(GroupV2, dict.fromkeys(given, folders[""])))
    if _objection_to_version_1(folders) is None:
        places = {name: folders[name] for name in (*_CONTROLLERS, *_OPTIONAL) if name in folders}
        return _usable(Groups(GroupV1, places))
    return None


def explain(server_pids: Callable[[], set[int]]) -> tuple[int | None, str | None]:
    """Return (version that find() would use, None), or (None, why it would find nothing); changes nothing."""
    folders = _here()
    objections = {2: _objection(folders, server_pids()), 1: _objection_to_version_1(folders)}
    for version, objection in objections.items():
        if objection is None:
            return version, None
    return None, "; ".join(f"version {version}: {objection}" for version, objection in objections.items())


def server_folders(table: str, mounts: str) -> dict[str, str]:
    """Return {controller, "" for version 2: folder of the server's own group}.

    A process of the server that was moved to its leaf belongs to the group above. Args: see the next two functions.
    """
    mounted = mounted_hierarchies(mounts)
    folders = {name: mounted[name] + path for name, path in own_groups(table).items() if name in mounted}
    return {name: folder.removesuffix(f"/{_SERVER_LEAF}") for name, folder in folders.items()}


def _here() -> dict[str, str]:
    return server_folders(read("/proc/self/cgroup"), read("/proc/self/mountinfo"))


def _objection(folders: Mapping[str, str], server_pids: set[int]) -> str | None:
    """Return why the controllers of our group in version 2 cannot be given to groups below it, None if they can.

    They can only if the group is ours alone: other people's processes are not moved.
    """
    if "" not in folders:
        return "it is not there"
    folder = folders[""]
    try:
        given = read(f"{folder}/cgroup.controllers").split()
        members = _members(folder)
    except OSError as error:
        return f"cannot read {folder}: {error.strerror}"
    missing = [name for name in _CONTROLLERS if name not in given]
    if missing:
        return f"{folder} does not have the controllers {', '.join(missing)}"
    if not os.access(folder, os.W_OK):
        return f"{folder} is not delegated to this user"
    others = len(members - server_pids)
    return f"in {folder} are {others} other processes" if others else None


def _objection_to_version_1(folders: Mapping[str, str]) -> str | None:
    if not set(_CONTROLLERS) <= folders.keys():
        return "it is not there"
    if os.geteuid() != 0:
        return "it is only for root"
    closed = [folders[name] for name in _CONTROLLERS if not os.access(folders[name], os.W_OK)]
    return f"cannot write to {closed[0]}" if closed else None


def _usable(groups: Groups) -> Groups | None:
    """Return them if one can be made: who looks like root may be so in a container only, whose groups are read-only."""
    try:
        groups.remove(groups.make(os.getpid()))
    except OSError:
        return None
    return groups


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


def _delegate(folder: str, server_pids: Callable[[], set[int]]) -> tuple[str, ...]:
    """Give the controllers of a group to the groups below it; return those given, none if not all that are needed.

    It is possible only if the group is ours alone: other people's processes are not moved.
    """
    try:
        if not _is_fit(folder) or not _move_to_leaf(folder, server_pids):
            return ()
        offered = read(f"{folder}/cgroup.controllers").split()
        given = tuple(name for name in (*_CONTROLLERS, *_OPTIONAL) if name in offered)
        for name in given:
            kernel.write(f"{folder}/cgroup.subtree_control", f"+{name}")
    except OSError:
        return ()
    return given


def _is_fit(folder: str) -> bool:
    """Tell whether a group has what we need, and may be divided by us. Raises OSError."""
    return set(_CONTROLLERS) <= set(read(f"{folder}/cgroup.controllers").split()) and os.access(folder, os.W_OK)


def _move_to_leaf(folder: str, server_pids: Callable[[], set[int]]) -> bool:
    """Move the server's processes out of the way; tell whether no others are left.

    Meanwhile the server starts and loses processes: hence the next round.
    """
    while members := _members(folder):
        if _strangers(folder, server_pids):
            return False
        os.makedirs(f"{folder}/{_SERVER_LEAF}", exist_ok=True)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                kernel.write(f"{folder}/{_SERVER_LEAF}/cgroup.procs", str(pid))
    return True


def _strangers(folder: str, server_pids: Callable[[], set[int]]) -> set[int]:
    """Return the members that are not the server's; with a second look, because some may just have ended."""
    return (_members(folder) - server_pids()) & _members(folder)


def _members(folder: str) -> set[int]:
    return {int(pid) for pid in read(f"{folder}/cgroup.procs").split()}


def _is_removed(folder: str) -> bool:
    """Remove a group's folder; tell whether it is gone. The kernel refuses while anything lives in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _lives(pid: str) -> bool:
    """Tell whether there is such a process. One that has ended is there until it is waited for: it may be for ever."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
