"""`corral backup`: a copy of a database that is whole, or none.

It is made in a folder of its own beside the target, checked, and on disk before it gets its name. That folder is
locked while it is in use, so what a killed backup has left is known, and removed by the next one to the same place.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor import database, inspection
from supervisor.errors import BackupError

_PREFIX = ".corral-backup-"

_LOCK = "lock"

_Place = Callable[[Path, Path], None]


def write_new(source: Path, target: Path) -> None:
    """Copy a database, also one in use, to a file that is not there yet. Readable by its owner alone.

    Raises:
        BackupError: there is such a file, or none can be made; nothing is left of it.
        StoreError: the database cannot be read, or the copy is damaged.
    """
    if os.path.lexists(target):
        raise BackupError(f"cannot write backup {str(target)!r}: it is there already; --force replaces it")
    _write(source, target, os.link)


def write_over(source: Path, target: Path) -> None:
    """The same for a file that may be there; it is replaced when the copy is complete."""
    _write(source, target, os.replace)


def _write(source: Path, target: Path, place: _Place) -> None:
    if os.path.realpath(target) in (os.path.realpath(source) + suffix for suffix in ("", "-wal", "-shm")):
        raise BackupError(f"cannot write backup {str(target)!r}: it is the database itself")
    folder = target.absolute().parent
    try:
        _remove_left(folder)
        with _workshop(folder) as workshop:
            copy = workshop / "copy.db"
            os.close(_create(copy))
            database.copy(source, copy)
            inspection.verify(copy)
            _sync(copy)
            place(copy, target)
            _sync(folder)
    except OSError as error:
        raise BackupError(f"cannot write backup {str(target)!r}: {error}") from error


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """Make a locked folder in another, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    lock = None
    try:
        lock = _create(folder / _LOCK)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_left(parent: Path) -> None:
    """Remove what killed backups have left. What cannot be removed is somebody else's, or in use."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            # Opened for writing because of file systems where flock(2) asks for it: NFS.
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
