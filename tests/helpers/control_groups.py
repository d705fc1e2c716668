"""The control groups of the servers under test: those that they make, and, in version 2, the one that each is given.

A server divides the group it is in only if nobody else is in there. So where the tests have a group of version 2 that
is theirs to divide (a unit with Delegate=yes), they do as a server does: they move to a leaf of it, and give each
server a group beside that.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from runner import tree
from runner.sandbox import cgroup
from tests.helpers.processes import lives

# The leaf is where a server finds itself that is started again: the group above has given its controllers away.
_JOIN = '{ echo $$ > "$0/corral-server/cgroup.procs"; } 2>/dev/null || echo $$ > "$0/cgroup.procs" && exec "$@"'


class ServerGroup:
    """The group of the servers of one data folder; none where the tests have none to divide."""

    def __init__(self, data: Path) -> None:
        above = _divided()
        self._folder = above and above / f"server-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"

    def joined_by(self, command: Sequence[str]) -> list[str]:
        """Return the command, as a member of the group."""
        if self._folder is None:
            return list(command)
        self._folder.mkdir(exist_ok=True)
        return ["sh", "-c", _JOIN, str(self._folder), *command]

    def remove(self) -> None:
        """Remove it after a server that has left nothing in it. Raises OSError: it has."""
        if self._folder:
            for folder in (self._folder / "corral-server", self._folder):
                with contextlib.suppress(FileNotFoundError):
                    folder.rmdir()


def groups_of(launcher_pid: int) -> set[Path]:
    """Return the folders of the groups that a launcher has made for its sandboxes."""
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    folders = [Path(mounted[name] + own[name]) for name in own.keys() & mounted.keys()]
    above = _divided()
    folders += above.glob("server-*") if above else ()
    return {found for folder in folders for found in folder.glob(f"corral-{launcher_pid}-*")}


def groups_left(launcher_pid: int) -> set[Path]:
    """Return the folders of those whose init does not live any more. They are named after its pid."""
    return {group for group in groups_of(launcher_pid) if not lives(int(group.name.rpartition("-")[2]))}


@cache
def _divided() -> Path | None:
    """Return the group of version 2 that is ours to divide, None if there is none; from now on we are in its leaf."""
    groups = cgroup.find(lambda: tree.family(os.getpid()))
    if groups is None or groups.version != 2:
        return None
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())[""]
    return Path(cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())[""] + own).parent
