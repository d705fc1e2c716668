"""Disks that take no more."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


@contextmanager
def files_of_at_most(size_bytes: int, *pids: int) -> Iterator[None]:
    """Let files have so many bytes, in this process or in others of the same user: what is beyond cannot be written.

    It needs no rights and is at once undone. The error is EFBIG, for which SQLite says SQLITE_IOERR_WRITE.
    Source: getrlimit(2), RLIMIT_FSIZE.
    """
    with ExitStack() as undo:
        for pid in pids or (0,):
            _, hard = before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))
            undo.callback(_set, pid, before)
        yield


def _set(pid: int, limit: tuple[int, int]) -> None:
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
