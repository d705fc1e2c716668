"""What agents print: one capped log per execution, attempt and stream, in plain files.

A log is a row of segment files named by the offset of their first byte: `stdout.0`, `stdout.524288`, … The first
segment holds the head; later ones hold the tail, and of those the oldest is deleted when the log grows over its cap.
So an offset always means the same byte, what is missing shows as a gap, and a reader needs no lock.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

STREAMS = ("stdout", "stderr")

# Head : tail is 2 : 2, the tail in segments of a quarter, so at least a quarter of the cap of tail is always there.
_SEGMENTS_PER_LOG = 4

_log = structlog.get_logger()


@dataclass(frozen=True)
class Slice:
    """Bytes of a log. start: offset of the first one. end: where to read on. size: bytes written, kept or not."""

    data: bytes
    start: int
    end: int
    size: int


class LogWriter:
    """Appends one stream of one attempt; creates no file before the first byte."""

    def __init__(self, folder: Path, stream: str, cap_bytes: int) -> None:
        """Args: folder: of the attempt. cap_bytes: what the files of this stream may take on disk."""
        self._folder = folder
        self._stream = stream
        self._segment_bytes = max(1, cap_bytes // _SEGMENTS_PER_LOG)
        self._file: int | None = None
        self._tail: list[int] = []
        self._segment_end = 0
        self.size = 0

    def append(self, data: bytes) -> None:
        """Write bytes at the end. Raises OSError: the disk does not take them; they are a gap."""
        rest = memoryview(data)
        try:
            while rest:
                if self._file is None or self.size == self._segment_end:
                    self._next_segment()
                assert self._file is not None
                written = os.write(self._file, rest[: self._segment_end - self.size])
                self.size += written
                rest = rest[written:]
        except OSError:
            self._leave_gap(len(rest))
            raise

    def close(self) -> None:
        """Close the open segment; nothing can be appended any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _leave_gap(self, lost_bytes: int) -> None:
        """Go on behind what is lost, in another segment; one that has got nothing would only count for the cap."""
        if self._file is not None and os.fstat(self._file).st_size == 0:
            with suppress(OSError):
                self._path(self.size).unlink()
            self._tail = [start for start in self._tail if start != self.size]
        self.close()
        self.size += lost_bytes

    def _next_segment(self) -> None:
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path(self.size), flags, 0o600)
        head_segments = _SEGMENTS_PER_LOG // 2
        if self.size == 0:
            self._segment_end = head_segments * self._segment_bytes
            return
        self._segment_end = self.size + self._segment_bytes
        self._tail.append(self.size)
        if len(self._tail) > _SEGMENTS_PER_LOG - head_segments:
            self._path(self._tail.pop(0)).unlink(missing_ok=True)

    def _path(self, start: int) -> Path:
        return self._folder / f"{self._stream}.{start}"


class LogBook:
    """The open logs of all live attempts. What cannot be written is lost; the run goes on, and its log when it can."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._caps: dict[tuple[str, int], int] = {}
        self._writers: dict[tuple[str, int, str], LogWriter] = {}
        self._failing: set[tuple[str, int, str]] = set()

    def open(self, execution_id: str, attempt: int, cap_bytes: int) -> None:
        """Begin the logs of an attempt. cap_bytes: of each stream."""
        self._caps[execution_id, attempt] = cap_bytes

    def append(self, execution_id: str, attempt: int, stream: str, data: bytes) -> None:
        """Write what an agent printed."""
        key = (execution_id, attempt, stream)
        if key not in self._writers:
            folder = attempt_folder(self._root, execution_id, attempt)
            self._writers[key] = LogWriter(folder, stream, self._caps[execution_id, attempt])
        try:
            self._writers[key].append(data)
            self._failing.discard(key)
        except OSError as error:
            if key not in self._failing:
                _log.error("log not written", execution=execution_id, stream=stream, error=str(error))
            self._failing.add(key)

    def close(self, execution_id: str, attempt: int) -> None:
        """End the logs of an attempt."""
        del self._caps[execution_id, attempt]
        for stream in STREAMS:
            writer = self._writers.pop((execution_id, attempt, stream), None)
            self._failing.discard((execution_id, attempt, stream))
            if writer:
                writer.close()


class Logs:
    """Reading the logs of all executions, also while they are written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, execution_id: str, attempt: int, stream: str, offset: int, limit: int) -> Slice:
        """Return up to limit bytes from offset on, or from the next byte that is kept.

        A slice ends before a gap. An offset past the end gives no bytes and the true size.
        """
        folder = attempt_folder(self._root, execution_id, attempt)
        while True:
            try:
                return _slice(folder, stream, offset, limit)
            except FileNotFoundError:
                # The writer has deleted this part of the tail since its folder was listed.
                continue


def attempt_folder(root: Path, execution_id: str, attempt: int) -> Path:
    """Return where the logs of an attempt are. Two levels: the last characters of an id are random, and fill evenly."""
    return root / execution_id[-2:] / execution_id / str(attempt)


def _slice(folder: Path, stream: str, offset: int, limit: int) -> Slice:
    """See Logs.read. Raises FileNotFoundError: a segment is gone; look again."""
    segments = _segments(folder, stream)
    size = _size(folder, stream, segments)
    begin, data = offset, b""
    for start, following in zip(segments, [*segments[1:], size], strict=False):
        if offset >= following:
            continue
        if not data:
            begin = max(offset, start)
        elif start != begin + len(data) or len(data) == limit:
            break
        data += _read(folder / f"{stream}.{start}", begin + len(data) - start, limit - len(data))
    end = begin + len(data)
    return Slice(data, begin, end, max(size, end) if data else size)


def _segments(folder: Path, stream: str) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name.rpartition(".")[2]) for name in names if name.startswith(f"{stream}."))


def _size(folder: Path, stream: str, segments: list[int]) -> int:
    if not segments:
        return 0
    try:
        return segments[-1] + os.stat(folder / f"{stream}.{segments[-1]}").st_size
    except FileNotFoundError:
        return segments[-1]


def _read(path: Path, offset: int, limit: int) -> bytes:
    with open(path, "rb") as segment:
        segment.seek(offset)
        return segment.read(limit)
