"""What a server may leave when it was stopped, and whether it has left anything else."""

import sqlite3
import stat
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from runner.sandbox import cgroup
from scripts.reliability import family
from scripts.reliability.entry import FINAL
from supervisor.inspection import inspect

# Of the data folder. What is named with a slash at its end must be empty.
_MAY_STAY = {"corral.db", "corral.turns", "lock", "isolation.json", "logs", "files", "work/", "corral-skeleton"}


def found(data: Path, temporary: Path, launcher_pids: Iterable[int]) -> list[str]:
    """Return a sentence for each thing that is left of a server that was stopped."""
    return [
        *(f"process {pid} lives on" for pid in family.living()),
        *(f"control group {group} is left" for pid in sorted(launcher_pids) for group in _groups(pid)),
        *(f"{line.split()[1]} is still mounted" for line in _mounts() if line.split()[1].startswith(str(data.parent))),
        *(f"{path} is left" for path in temporary.iterdir()),
        *_in_data(data),
    ]


def _groups(launcher_pid: int) -> list[Path]:
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    folders = [Path(mounted[name] + own[name]) for name in own.keys() & mounted.keys()]
    return sorted({group for folder in folders for group in folder.glob(f"corral-{launcher_pid}-*")})


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _in_data(data: Path) -> list[str]:
    sockets = [path for path in data.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    empty = [data / name for name in _MAY_STAY if name.endswith("/")]
    known = {name.split("/")[0] for name in _MAY_STAY}
    return [
        *(f"socket {path} is left" for path in sockets),
        *(f"{path} is left" for folder in empty if folder.is_dir() for path in folder.iterdir()),
        *(f"{path} is left" for path in data.iterdir() if path.name not in known and path not in sockets),
        *(f"{path} is unfinished" for path in (data / "files").glob("*") if path.name.startswith(".")),
    ]


def recorded(database: Path) -> dict[str, list[str]]:
    """Return {nonce: ids of its executions}."""
    by_nonce = defaultdict(list)
    with closing(_open(database)) as connection:
        for execution_id, nonce in connection.execute("SELECT id, payload ->> 'nonce' FROM executions"):
            by_nonce[nonce].append(execution_id)
    return by_nonce


def wrong_in(database: Path) -> list[str]:
    """Return a sentence for each thing that is wrong in the database of a server that was stopped."""
    found = inspect(database)
    waiting = {status: count for status, count in found.executions.items() if count and status not in FINAL}
    return [
        *(f"{count} executions are {status}" for status, count in waiting.items()),
        *(f"{broken.execution_id or 'database'}: {broken.rule}: {broken.detail}" for broken in found.violations),
    ]


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{database}?mode=ro", uri=True)
