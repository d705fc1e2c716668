"""Reading what SQLite has written to its write-ahead log."""

import struct
from collections.abc import Iterator
from pathlib import Path


def commits(database: Path) -> int:
    """Return the number of transactions in the log of a database: each ends with a frame that names the new size.

    Only as long as the log has not begun anew, which it does after some thousand pages.
    Source: sqlite.org/fileformat2.html, section 4.1.
    """
    return sum(1 for _ in _ends(database.with_name(f"{database.name}-wal")))


def end_of_last_commit(log: Path) -> int:
    """Return the offset at which the last transaction of a log ends; see commits()."""
    return max(_ends(log), default=0)


def _ends(path: Path) -> Iterator[int]:
    """Yield the offset after the last frame of each transaction."""
    log = path.read_bytes()
    if not log:
        return
    (page_bytes,) = struct.unpack_from(">8xI", log)
    frame_bytes = 24 + page_bytes
    for start in range(32, len(log), frame_bytes):
        _, size_after_commit = struct.unpack_from(">II", log, start)
        if size_after_commit > 0:
            yield start + frame_bytes
