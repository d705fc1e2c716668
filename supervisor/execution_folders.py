"""The folders that executions have beside the database, one each below logs/ and files/, whatever is in them.

Every step is relative to an open folder and follows no link.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK_BYTES = 512  # of st_blocks: stat(2)

_SHELF = re.compile("[0-9a-f]{2}")
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_AT_ONCE = 50


class ExecutionFolders:
    """All below one root, which has them by the last characters of their ids (logs.attempt_folder)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def ids(self) -> Iterator[list[str]]:
        """Yield the ids of all that have a folder, some at a time. What else is there is left out."""
        for shelf in filter(_SHELF.fullmatch, sorted(os.listdir(self._root))):
            with self._opened(shelf) as descriptor:
                names = os.listdir(descriptor)
            found = [name for name in names if _ID.fullmatch(name) and name.endswith(shelf)]
            yield from (found[start : start + _AT_ONCE] for start in range(0, len(found), _AT_ONCE))

    def size(self, execution_id: str) -> int:
        """Return the bytes on disk of all that an execution has here; 0 if it has nothing."""
        try:
            with self._opened(execution_id[-2:]) as shelf:
                return _size(execution_id, shelf)
        except FileNotFoundError:
            return 0

    def remove(self, execution_id: str) -> int:
        """Remove all that an execution has here; return its size. Raises OSError: it cannot be removed whole."""
        try:
            with self._opened(execution_id[-2:]) as shelf:
                size = _size(execution_id, shelf)
                shutil.rmtree(execution_id, dir_fd=shelf)
                return size
        except FileNotFoundError:
            return 0

    @contextmanager
    def _opened(self, shelf: str) -> Iterator[int]:
        # The root alone may be a link: an operator may have it on another disk.
        root = os.open(self._root, _OPEN_FOLDER & ~os.O_NOFOLLOW)
        try:
            descriptor = os.open(shelf, _OPEN_FOLDER, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _size(name: str, folder: int) -> int:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    size = status.st_blocks * _BLOCK_BYTES
    if stat.S_ISDIR(status.st_mode):
        descriptor = os.open(name, _OPEN_FOLDER, dir_fd=folder)
        try:
            size += sum(_size(entry, descriptor) for entry in os.listdir(descriptor))
        finally:
            os.close(descriptor)
    return size
