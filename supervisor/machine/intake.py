"""Taking in what an agent says, with no moment in which a kill of this process could lose a byte of it.

What was read from a pipe is in no pipe any more, and what is in this process's memory dies with it. So nothing is read:
splice(2) moves the bytes inside of the kernel, from the pipe into a file that outlives this process, and there they are
looked at. stdout and stderr are moved into the files of the log. What carries the result is moved into a memory file of
which the launcher has a descriptor too, and the next supervisor looks at all of it again.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Protocol

# At once from one pipe: little enough that a run that floods does not keep the loop from the others.
TAKE_BYTES = 16_384

# So much that is of no use any more is given back to the kernel together.
_SURPLUS_BYTES = 1 << 20

# Where the memory file begins: the offset from which on it is of use, 8 bytes.
HEADER_BYTES = 8

# Source: fallocate(2).
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Pipe(Protocol):
    """The reading end of an agent's pipe."""

    def take(self) -> bytes | None:
        """Return what came, b"" at its end, None when there is nothing now."""


class LoggedPipe:
    """One whose bytes go into a log, and nowhere else."""

    def __init__(self, reader: int, splice: Callable[[int, int], bytes | None]) -> None:
        """Args: reader: its descriptor, the caller's. splice: see LogBook.splice."""
        self._reader = reader
        self._splice = splice

    def take(self) -> bytes | None:
        """As in Pipe."""
        return self._splice(self._reader, TAKE_BYTES)


class KeptPipe:
    """One whose bytes are kept in a memory file, to be looked at again; offsets are those in that file."""

    def __init__(self, reader: int, memory: int, log: Callable[[bytes], None] | None) -> None:
        """Args: reader, memory: its descriptor and the memory file's, both the caller's. log: takes what came."""
        self._log = log
        self._reader = reader
        self._memory = memory
        self.begin = int.from_bytes(os.pread(memory, HEADER_BYTES, 0), "little") or HEADER_BYTES
        self._end = max(self.begin, os.fstat(memory).st_size)

    def backlog(self) -> Iterator[tuple[int, bytes]]:
        """Yield all that is kept, in order, each part with its offset."""
        for offset in range(self.begin, self._end, TAKE_BYTES):
            yield offset, os.pread(self._memory, min(TAKE_BYTES, self._end - offset), offset)

    def take(self) -> bytes | None:
        """As in Pipe."""
        try:
            moved = os.splice(self._reader, self._memory, TAKE_BYTES, offset_dst=self._end, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError:
            # There is no memory for it. Then it is known to this process alone, which is better than to nobody.
            data = _read(self._reader)
            if data is None:
                return None
        else:
            data = os.pread(self._memory, moved, self._end) if moved else b""
        self._end += len(data)
        if self._log:
            self._log(data)
        return data

    def forget_before(self, offset: int) -> None:
        """Note that what is before an offset will not have to be looked at again."""
        if offset - self.begin < _SURPLUS_BYTES:
            return
        os.pwrite(self._memory, offset.to_bytes(HEADER_BYTES, "little"), 0)
        surplus = ctypes.c_long(self.begin), ctypes.c_long(offset - self.begin)
        # Where it fails there is only more memory in use. The header is before every begin.
        _libc.fallocate(self._memory, _PUNCH_HOLE | _KEEP_SIZE, *surplus)
        self.begin = offset


class UselessPipe:
    """One whose bytes nobody wants any more; it is emptied, so that the agent does not wait."""

    def __init__(self, reader: int) -> None:
        """Args: reader: its descriptor, the caller's."""
        self._reader = reader

    def take(self) -> bytes | None:
        """As in Pipe."""
        return _read(self._reader)


def _read(reader: int) -> bytes | None:
    try:
        return os.read(reader, TAKE_BYTES)
    except BlockingIOError:
        return None


def memory_file() -> int:
    """Return an empty memory file. Raises OSError. Source: memfd_create(2)."""
    return os.memfd_create("corral-kept", os.MFD_CLOEXEC)
