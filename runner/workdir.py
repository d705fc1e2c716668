"""The private work directory of a run on the host: made before the agent starts, removed when its end is recorded."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections.abc import Iterator

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ONLY = 0o700


# Told from anything else that may lie beside it, so that clearing up after a crash removes nothing of the user's.
_NAME = re.compile(r"corral-run-[0-9a-f]{16}")


def new_path(root: str) -> str:
    """Return a path below a folder that no run has had."""
    return os.path.join(root, f"corral-run-{os.urandom(8).hex()}")


def leftovers(root: str) -> list[str]:
    """Return the paths of the work directories below a folder."""
    return [os.path.join(root, name) for name in os.listdir(root) if _NAME.fullmatch(name)]


def create(path: str) -> None:
    """Make the directory, readable by its owner alone. Raises FileExistsError if there is one."""
    os.mkdir(path, _OWNER_ONLY)


def remove_at_once(path: str) -> bool:
    """Remove a directory if it is empty, as it mostly is, or what an agent has put in its place; else return False."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except OSError:
        return False
    return True


def remove(path: str) -> None:
    """Remove a directory that a dead agent has written, whatever is in it.

    An agent chooses names, depth and modes, so: no symbolic link is followed, every step is relative to an open
    directory, and nested directories are moved to the top before they are emptied, which needs neither recursion nor
    a descriptor per level however deep they are. A directory that is not there is no error.

    Raises:
        OSError: something in it cannot be removed.
    """
    if remove_at_once(path):
        return
    _make_accessible(None, path)
    top = os.open(path, _OPEN_DIRECTORY)
    try:
        fresh_names = (f".{os.urandom(8).hex()}" for _ in itertools.count())
        nested = _unlink_files(top)
        while nested:
            name = nested.pop()
            nested.extend(_move_up(top, name, fresh_names))
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def remove_in_background(paths: list[str]) -> int:
    """Remove directories in a process of its own, because they may be large; return its pid."""
    pid = os.fork()
    if pid == 0:
        for path in paths:
            with contextlib.suppress(OSError):
                remove(path)
        os._exit(0)
    return pid


def _move_up(top: int, name: str, fresh_names: Iterator[str]) -> list[str]:
    """Leave one directory below top empty; return the new names, below top, of the directories that were in it."""
    directory = os.open(name, _OPEN_DIRECTORY, dir_fd=top)
    try:
        moved = []
        for child in _unlink_files(directory):
            moved.append(next(fresh_names))
            os.rename(child, moved[-1], src_dir_fd=directory, dst_dir_fd=top)
        return moved
    finally:
        os.close(directory)


def _unlink_files(directory: int) -> list[str]:
    """Unlink what is no directory; return the names of the directories, which can then be opened and moved."""
    nested = []
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            _make_accessible(directory, name)
            nested.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return nested


def _make_accessible(directory: int | None, name: str) -> None:
    # chmod(2) follows a symbolic link; through O_PATH and /proc it reaches exactly what was opened. Source: open(2).
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{handle}", _OWNER_ONLY)
    finally:
        os.close(handle)
