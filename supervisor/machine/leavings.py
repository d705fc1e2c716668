"""What a dead agent has left in its work directory, read by descriptor.

The agent chose names, depth, kinds and sizes, so: no path is followed, every step is relative to an open directory and
goes one level down, no link is followed, no open or read can block, and everything that is counted has an end. Nobody
writes there any more, so what is looked at is what is read.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.artifacts import LeftOut

# O_NONBLOCK: to open a pipe would else wait for somebody to write into it. Source: fifo(7).
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_FOLDER = _OPEN_FILE | os.O_DIRECTORY

# Modes without which it is not opened: what its owner may not read would else depend on whether the server is root.
_NEEDED = {_OPEN_FILE: stat.S_IRUSR, _OPEN_FOLDER: stat.S_IRUSR | stat.S_IXUSR}

_DEEPEST = 16
_MOST_ENTRIES = 20_000
_LONGEST_NAME_BYTES = 512


def is_empty(folder: int) -> bool:
    """Tell whether there is surely nothing in an open directory. One that was removed is empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError as error:
        return isinstance(error, FileNotFoundError)


class Leavings:
    """The files below one directory that can be kept."""

    def __init__(self, folder: int, most_files: int, most_bytes: int) -> None:
        """Args: folder: descriptor of the directory, which stays the caller's. most_bytes: of all files together."""
        self._folder = folder
        self._files_left = most_files
        self._bytes_left = most_bytes
        self._entries_left = _MOST_ENTRIES
        self.left_out: Counter[str] = Counter()

    def files(self) -> Iterator[tuple[str, int, int]]:
        """Yield (name, bytes, descriptor) of each file, which is open until the next one is asked for.

        Those in a folder come before those in the folders in it, each by name.
        """
        if _may(os.fstat(self._folder), _NEEDED[_OPEN_FOLDER]):
            yield from self._files(self._folder, "", 1)
        else:
            self.left_out[LeftOut.UNREADABLE] += 1

    def _files(self, folder: int, prefix: str, depth: int) -> Iterator[tuple[str, int, int]]:
        files, folders = self._list(folder, prefix)
        for name in files:
            if not self._files_left:
                self.left_out[LeftOut.TOO_MANY] += 1
                continue
            with self._opened(folder, name, _OPEN_FILE) as descriptor:
                if descriptor is not None and self._is_wanted(descriptor):
                    size = os.fstat(descriptor).st_size
                    self._files_left -= 1
                    self._bytes_left -= size
                    yield prefix + name, size, descriptor
        for name in folders:
            if depth == _DEEPEST:
                self.left_out[LeftOut.TOO_DEEP] += 1
                continue
            with self._opened(folder, name, _OPEN_FOLDER) as descriptor:
                if descriptor is not None:
                    yield from self._files(descriptor, f"{prefix}{name}/", depth + 1)

    def _list(self, folder: int, prefix: str) -> tuple[list[str], list[str]]:
        """Return the names of the files and of the folders that are directly in an open one, sorted."""
        files, folders = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not self._entries_left:
                    self.left_out[LeftOut.NOT_LOOKED_AT] += 1
                    break
                self._entries_left -= 1
                if entry.is_symlink():
                    self.left_out[LeftOut.SYMBOLIC_LINK] += 1
                elif not _is_plain(prefix + entry.name):
                    self.left_out[LeftOut.NAME] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                else:
                    self.left_out[LeftOut.SPECIAL] += 1
        return sorted(files), sorted(folders)

    @contextmanager
    def _opened(self, folder: int, name: str, flags: int) -> Iterator[int | None]:
        """Open what is in a folder, and close it; None, and counted, if it cannot be read."""
        descriptor = _open(folder, name, flags)
        if descriptor is None:
            self.left_out[LeftOut.UNREADABLE] += 1
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _is_wanted(self, descriptor: int) -> bool:
        """Tell whether an open file can be kept; count it if not."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            reason = LeftOut.SPECIAL
        elif status.st_nlink != 1:
            reason = LeftOut.HARD_LINK
        elif status.st_size > self._bytes_left:
            reason = LeftOut.TOO_LARGE
        elif _has_holes(descriptor, status.st_size):
            reason = LeftOut.SPARSE
        else:
            return True
        self.left_out[reason] += 1
        return False


def _open(folder: int, name: str, flags: int) -> int | None:
    """Return a descriptor of what is in a folder; None if it cannot be read."""
    try:
        if _may(os.stat(name, dir_fd=folder, follow_symlinks=False), _NEEDED[flags]):
            return os.open(name, flags, dir_fd=folder)
    except (PermissionError, FileNotFoundError):
        pass
    return None


def _may(status: os.stat_result, needed: int) -> bool:
    return status.st_mode & needed == needed


def _is_plain(name: str) -> bool:
    r"""Tell whether a name is harmless wherever a client may put it: in a terminal, a page, a header, a path.

    Not UTF-8 is not printable: such bytes come as halves of surrogate pairs. A "\" is what "/" is on other systems.
    """
    return name.isprintable() and "\\" not in name and len(name.encode()) <= _LONGEST_NAME_BYTES


def _has_holes(descriptor: int, size: int) -> bool:
    """Tell whether a file takes less than it would when copied. Source: lseek(2), SEEK_HOLE: its end is a hole."""
    return size > 0 and os.lseek(descriptor, 0, os.SEEK_HOLE) < size
