"""Keeps the files that runs leave. Copying takes long and the loop must not wait for it, so threads of its own do it.

The end of a run is told when its files are on disk, each in order: contents and index, then the folder gets its name,
then the names above it. So an execution that has ended has its files, also after a power cut, and none has half of
them.
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import BinaryIO

import structlog

from supervisor.artifacts import CONTENTS, INDEX, Artifact, Index, LeftOut
from supervisor.logs import attempt_folder
from supervisor.machine.leavings import Leavings, is_empty
from supervisor.machine.reactor import Reactor

# Where an attempt's files are until they are complete. No execution's folder has a name of this length.
_UNFINISHED = "unfinished"

_COPY_BYTES = 1 << 20

# More than one, so that a run with little to copy seldom waits for one with much.
_THREADS = 4

_log = structlog.get_logger()


class Collector:
    """The threads, and what waits for them."""

    def __init__(self, root: Path, most_files: int, most_bytes: int, reactor: Reactor) -> None:
        """Prepare; remove what a killed server has left unfinished.

        Args:
            root: folder of all that is kept. most_files, most_bytes: of one run.
        Raises:
            OSError: it cannot be used.
        """
        root.mkdir(mode=0o700, exist_ok=True)
        if (root / _UNFINISHED).exists():
            shutil.rmtree(root / _UNFINISHED)
        self._root = root
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._reactor = reactor
        self._threads = ThreadPoolExecutor(_THREADS, "collector")
        # All are started now: later the host may have no room for one. Each waits until it has met the others.
        barrier = Barrier(_THREADS)
        for _ in range(_THREADS):
            self._threads.submit(barrier.wait)
        self._done: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        reactor.watch(self._wake, self._on_done)

    def collect(self, work: int | None, execution_id: str, attempt: int, then: Callable[[], None]) -> None:
        """Keep what an attempt has left, then make a call from the reactor; at once if it has left nothing.

        Args:
            work: descriptor of its work directory, which is closed then; None if it never had one. Nothing may live
                any more that can write there.
        """
        if work is None or is_empty(work):
            if work is not None:
                os.close(work)
            then()
            return
        future = self._threads.submit(self._keep, work, execution_id, attempt)
        future.add_done_callback(partial(self._note_done, then))

    def close(self) -> None:
        """Wait for what is being copied; leave out what has not begun."""
        self._threads.shutdown(cancel_futures=True)
        self._reactor.forget(self._wake)
        os.close(self._wake)

    def _note_done(self, then: Callable[[], None], future: Future[None]) -> None:
        self._done.append((then, future))
        os.eventfd_write(self._wake, 1)

    def _on_done(self) -> None:
        os.eventfd_read(self._wake)
        while self._done:
            then, future = self._done.popleft()
            error = future.exception()
            if error:
                _log.error("files not kept", error=str(error), exc_info=None if isinstance(error, OSError) else error)
            then()

    def _keep(self, work: int, execution_id: str, attempt: int) -> None:
        try:
            unfinished = self._root / _UNFINISHED / f"{execution_id}.{attempt}"
            unfinished.mkdir(parents=True)
            try:
                if self._fill(unfinished, work):
                    _publish(unfinished, attempt_folder(self._root, execution_id, attempt), self._root)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        finally:
            os.close(work)

    def _fill(self, folder: Path, work: int) -> bool:
        """Put into a folder what is kept; if the disk does not take it, an index that says so."""
        try:
            return _copy_all(Leavings(work, self._most_files, self._most_bytes), folder)
        except OSError as error:
            _log.error("files not written", run=folder.name, error=str(error))
        for name in (CONTENTS, INDEX):
            (folder / name).unlink(missing_ok=True)
        return _copy_none(work, folder)


def _copy_all(leavings: Leavings, folder: Path) -> bool:
    """Write contents and index into a folder; return whether there is anything to tell of."""
    with (folder / CONTENTS).open("xb") as contents:
        files = tuple(_copy(name, size, source, contents) for name, size, source in leavings.files())
        _flush(contents)
    _write_index(folder, Index(files, leavings.left_out))
    return bool(files or leavings.left_out)


def _copy_none(work: int, folder: Path) -> bool:
    """Write an index by which no file was kept, and return that there is something to tell of."""
    leavings = Leavings(work, most_files=0, most_bytes=0)
    for _ in leavings.files():
        raise AssertionError("no file may be kept")
    leavings.left_out[LeftOut.NOT_WRITTEN] += leavings.left_out.pop(LeftOut.TOO_MANY, 0)
    _write_index(folder, Index((), leavings.left_out))
    return True


def _write_index(folder: Path, content: Index) -> None:
    with (folder / INDEX).open("xb") as index:
        index.write(content.to_json().encode())
        _flush(index)


def _copy(name: str, size: int, source: int, contents: BinaryIO) -> Artifact:
    digest = hashlib.sha256()
    copied = 0
    while data := os.pread(source, min(size - copied, _COPY_BYTES), copied):
        contents.write(data)
        digest.update(data)
        copied += len(data)
    return Artifact(name, copied, digest.hexdigest())


def _publish(unfinished: Path, final: Path, root: Path) -> None:
    """Give a complete folder its name, and have all names down to it on disk."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # a supervisor was killed before it could record the end
        shutil.rmtree(final)
    _sync_folder(unfinished)
    unfinished.rename(final)
    for folder in (final.parent, final.parent.parent, root):
        _sync_folder(folder)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
