"""Addresses of Unix sockets in a folder with a path of any length."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unix_address(path: Path) -> Iterator[str]:
    """Yield an address to bind or connect to: an address holds 107 bytes, through /proc a longer path works.

    Source: unix(7), "sun_path".
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
