"""The version of an agent: a digest of its folder."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.clock import Clock

# Installed packages follow from the agent's own files, and are too many to look at before every run.
_LEFT_OUT = frozenset({".git", ".venv", "__pycache__", "node_modules"})

# Larger files (models, data) count by size and time of change.
_CONTENT_BYTES = 1 << 20

# A change of an agent's files is seen at the latest after this time.
_TRUST_SECONDS = 1.0

_Signature = tuple[tuple[str, int, int, int], ...]


class AgentDigests:
    """Digests of agents' folders, computed anew only when a file has changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[Path, tuple[float, _Signature, str]] = {}

    def digest(self, folder: Path) -> str:
        """Return "sha256:…" over names, modes and contents of the files in a folder."""
        now = self._clock.monotonic()
        known = self._known.get(folder)
        if known and now - known[0] < _TRUST_SECONDS:
            return known[2]
        signature = tuple(_signature(folder))
        value = known[2] if known and known[1] == signature else _digest(folder, signature)
        self._known[folder] = (now, signature, value)
        return value


def _signature(root: Path) -> Iterator[tuple[str, int, int, int]]:
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}{entry.name}"
                if entry.name in _LEFT_OUT:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                    continue
                status = entry.stat(follow_symlinks=False)
                yield name, status.st_mode, status.st_size, status.st_mtime_ns


def _digest(root: Path, signature: _Signature) -> str:
    total = hashlib.sha256()
    for name, mode, size, changed_ns in signature:
        total.update(f"{name}\0{mode}\0{size}\0".encode("utf-8", "surrogateescape"))
        total.update(_content(root / name) if size <= _CONTENT_BYTES else str(changed_ns).encode())
    return f"sha256:{total.hexdigest()}"


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(os.readlink(path))
    return hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
