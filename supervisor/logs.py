"""What agents print: one capped log per execution, attempt and stream, in plain files.

A log is a row of segment files named by the offset of their first byte: `stdout.0`, `stdout.524288`, … The first
segment holds the head; later ones hold the tail, and of those the oldest is deleted when the log grows over its cap.
So an offset always means the same byte, what is missing shows as a gap, and a reader needs no lock.

What an agent prints goes from its pipe to the file inside of the kernel, by splice(2): whenever the supervisor is
killed, a byte is in one of the two. The files are all there is to know, so the next supervisor writes on.
"""

import fcntl
import os
import termios
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

STREAMS = ("stdout", "stderr")

# Head : tail is 2 : 2, the tail in segments of a quarter, so at least a quarter of the cap of tail is always there.
_SEGMENTS_PER_LOG, _HEAD_SEGMENTS = 4, 2

_log = structlog.get_logger()


@dataclass(frozen=True)
class Slice:
    """Bytes of a log. start: offset of the first one. end: where to read on. size: bytes written, kept or not."""

    data: bytes
    start: int
    end: int
    size: int


class LogWriter:
    """Appends one stream of one attempt, to what there already is; creates no file before the first byte."""

    def __init__(self, folder: Path, stream: str, cap_bytes: int) -> None:
        """Args: folder: of the attempt. cap_bytes: what the files of this stream may take on disk."""
        self._folder = folder
        self._stream = stream
        self._segment_bytes = max(1, cap_bytes // _SEGMENTS_PER_LOG)
        self._file: int | None = None
        segments = _segments(folder, stream)
        self._start, self._tail = (segments[-1] if segments else 0), segments[1:]
        self._written_to = self.size = _size(folder, stream, segments)

    def append(self, data: bytes) -> None:
        """Write bytes at the end. Raises OSError: the disk does not take them; they are a gap."""
        rest = memoryview(data)
        try:
            while rest:
                file, room = self._segment_with_room()
                written = os.pwrite(file, rest[:room], self.size - self._start)
                self._advance(written)
                rest = rest[written:]
        except OSError:
            self.leave_gap(len(rest))
            raise

    def splice(self, pipe: int, most_bytes: int) -> bytes:
        """Move what is in a pipe, which is not empty, to the end, and return it.

        Raises:
            BlockingIOError: somebody else has taken it. OSError: the disk does not take it; it is still in the pipe.
        """
        file, room = self._segment_with_room()
        place = self.size - self._start
        moved = os.splice(pipe, file, min(most_bytes, room), offset_dst=place, flags=os.SPLICE_F_NONBLOCK)
        self._advance(moved)
        return os.pread(file, moved, place)

    def leave_gap(self, lost_bytes: int) -> None:
        """Go on behind what is lost, in another segment; one that has got nothing would only count for the cap."""
        if self._file is not None and self._written_to == self._start:
            with suppress(OSError):
                self._path(self._start).unlink()
            self._tail = [start for start in self._tail if start != self._start]
        self.close()
        self.size += lost_bytes

    def close(self) -> None:
        """Close the open segment; nothing can be appended any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _advance(self, written: int) -> None:
        self.size += written
        self._written_to = self.size

    def _segment_with_room(self) -> tuple[int, int]:
        """Return the descriptor of the last segment, and the number of bytes that it still takes."""
        room = self._start + self._capacity() - self.size
        if room <= 0 or self._written_to < self.size:
            self._next_segment()
            room = self._capacity()
        if self._file is None:
            self._file = self._open_segment(self._start)
        return self._file, room

    def _capacity(self) -> int:
        return self._segment_bytes * (1 if self._start else _HEAD_SEGMENTS)

    def _next_segment(self) -> None:
        self.close()
        self._file = self._open_segment(self.size)
        self._start = self._written_to = self.size
        self._tail.append(self.size)
        while len(self._tail) > _SEGMENTS_PER_LOG - _HEAD_SEGMENTS:
            self._path(self._tail.pop(0)).unlink(missing_ok=True)

    def _open_segment(self, start: int) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        return os.open(self._path(start), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

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
        try:
            self._writer(*key).append(data)
            self._failing.discard(key)
        except OSError as error:
            self._tell_failure(*key, error)

    def splice(self, execution_id: str, attempt: int, stream: str, pipe: int, most_bytes: int) -> bytes | None:
        """Write what is in an agent's pipe and return it: b"" at its end, None when there is nothing now."""
        if not _is_filled(pipe):
            return _read_pipe(pipe, most_bytes)
        key = (execution_id, attempt, stream)
        try:
            moved = self._writer(*key).splice(pipe, most_bytes)
            self._failing.discard(key)
            return moved
        except BlockingIOError:  # an agent can open its own stdout for reading
            return None
        except OSError as error:
            self._tell_failure(*key, error)
        lost = _read_pipe(pipe, most_bytes)
        if lost and key in self._writers:
            self._writers[key].leave_gap(len(lost))
        return lost

    def size(self, execution_id: str, attempt: int, stream: str) -> int:
        """Return the number of bytes that are written or lost, kept or not; 0 if nobody can look."""
        try:
            return self._writer(execution_id, attempt, stream).size
        except OSError as error:
            self._tell_failure(execution_id, attempt, stream, error)
            return 0

    def tail(self, execution_id: str, attempt: int, stream: str, most_bytes: int) -> bytes:
        """Return the end of what is written."""
        begin = max(0, self.size(execution_id, attempt, stream) - most_bytes)
        return Logs(self._root).read(execution_id, attempt, stream, begin, most_bytes).data

    def close(self, execution_id: str, attempt: int) -> None:
        """End the logs of an attempt."""
        del self._caps[execution_id, attempt]
        for stream in STREAMS:
            key = (execution_id, attempt, stream)
            self._failing.discard(key)
            writer = self._writers.pop(key, None)
            if writer:
                writer.close()

    def _writer(self, execution_id: str, attempt: int, stream: str) -> LogWriter:
        """Return the writer of a log. Raises OSError: what there is of the log cannot be looked at."""
        key = (execution_id, attempt, stream)
        if key not in self._writers:
            folder = attempt_folder(self._root, execution_id, attempt)
            self._writers[key] = LogWriter(folder, stream, self._caps[execution_id, attempt])
        return self._writers[key]

    def _tell_failure(self, execution_id: str, attempt: int, stream: str, error: OSError) -> None:
        """Tell it once for each time that it lasts."""
        key = (execution_id, attempt, stream)
        if key not in self._failing:
            _log.error("log not written", execution=execution_id, stream=stream, error=str(error))
        self._failing.add(key)


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


def _is_filled(pipe: int) -> bool:
    """Tell whether there is something in a pipe. Source: pipe(7), FIONREAD."""
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return any(answer)


def _read_pipe(pipe: int, most_bytes: int) -> bytes | None:
    try:
        return os.read(pipe, most_bytes)
    except BlockingIOError:
        return None
