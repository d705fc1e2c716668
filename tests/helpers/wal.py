"""Reading what SQLite has written to its write-ahead log."""

import struct
from pathlib import Path


def commits(database: Path) -> int:
    """Return the number of transactions in the log of a database: each ends with a frame that names the new size.

    Only as long as the log has not begun anew, which it does after some thousand pages.
    Source: sqlite.org/fileformat2.html, section 4.1.
    """
    log = database.with_name(f"{database.name}-wal").read_bytes()
    if not log:
        return 0
    (page_bytes,) = struct.unpack_from(">8xI", log)
    ends = 0
    for start in range(32, len(log), 24 + page_bytes):
        _, size_after_commit = struct.unpack_from(">II", log, start)
        ends += size_after_commit > 0
    return ends
