"""Looking at the control groups that a server makes."""

from pathlib import Path

from runner.sandbox import cgroup
from tests.helpers.processes import lives


def groups_of(launcher_pid: int) -> set[Path]:
    """Return the folders of the groups that a launcher has made for its sandboxes, wherever this process's own are."""
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    folders = [Path(mounted[name] + own[name]) for name in own.keys() & mounted.keys()]
    return {found for folder in folders for found in folder.glob(f"corral-{launcher_pid}-*")}


def groups_left(launcher_pid: int) -> set[Path]:
    """Return the folders of those whose init does not live any more. They are named after its pid."""
    return {group for group in groups_of(launcher_pid) if not lives(int(group.name.rpartition("-")[2]))}
