"""What agents print: capped on disk, head and tail kept, offsets true, read while it is written."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from supervisor.logs import LogBook, Logs, LogWriter, Slice, attempt_folder
from supervisor.models import new_execution_id
from tests.helpers.full_disk import files_of_at_most

EXECUTION = new_execution_id()
CAP = 4096
HEAD = CAP // 2
SEGMENT = CAP // 4


def some(size: int) -> bytes:
    """Return so many bytes, of which any few tell where they are."""
    return random.Random(size).randbytes(size)


class Stream:
    """One stream of one attempt, written and read."""

    def __init__(self, root: Path, cap: int = CAP) -> None:
        self.folder = attempt_folder(root, EXECUTION, 1)
        self.writer = LogWriter(self.folder, "stdout", cap)
        self._logs = Logs(root)

    def read(self, offset: int = 0, limit: int = 1 << 20) -> Slice:
        return self._logs.read(EXECUTION, 1, "stdout", offset, limit)

    def slices(self, limit: int = 1 << 20) -> Iterator[Slice]:
        """Read on from slice to slice until there is no more."""
        offset = 0
        while (part := self.read(offset, limit)).data:
            yield part
            offset = part.end

    def on_disk(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("stdout.*"))


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    stream = Stream(tmp_path)
    with closing(stream.writer):
        yield stream


# -- one stream --------------------------------------------------------------------------------------------------------


def test_log_nothing_printed_makes_no_file_and_reads_as_empty(stream: Stream) -> None:
    stream.writer.append(b"")
    assert not stream.folder.exists()
    assert stream.read() == Slice(b"", 0, 0, 0)


def test_log_below_its_cap_is_kept_whole(stream: Stream) -> None:
    data = some(CAP)
    stream.writer.append(data)
    assert b"".join(part.data for part in stream.slices()) == data
    assert stream.on_disk() == CAP


@pytest.mark.parametrize("size", [CAP + 1, CAP + SEGMENT, 3 * CAP - 1, 20 * CAP + 5])
@pytest.mark.parametrize("chunk", [61, 1000, 1 << 20])
def test_log_over_its_cap_keeps_head_and_tail_with_true_offsets(tmp_path: Path, size: int, chunk: int) -> None:
    data = some(size)
    stream = Stream(tmp_path)
    with closing(stream.writer):
        for start in range(0, size, chunk):
            stream.writer.append(data[start : start + chunk])
            assert stream.on_disk() <= CAP
    assert stream.writer.size == size
    kept = list(stream.slices())
    assert all(part.data == data[part.start : part.end] and part.size == size for part in kept)
    assert kept[0].data == data[:HEAD]
    assert kept[-1].end == size
    gaps = [(before.end, after.start) for before, after in pairwise(kept) if before.end < after.start]
    assert len(gaps) <= 1
    tail = size - (gaps[0][1] if gaps else HEAD)
    assert tail > SEGMENT


def test_log_read_at_an_offset_that_is_gone_starts_at_the_next_byte_that_is_kept(stream: Stream) -> None:
    data = some(10 * CAP)
    stream.writer.append(data)
    part = stream.read(HEAD)
    assert part.start > HEAD
    assert part == stream.read(part.start - 1)
    assert part.data == data[part.start : part.end]


@pytest.mark.parametrize("offset", [0, 1, 5, HEAD - 1])
@pytest.mark.parametrize("limit", [1, 10, HEAD, CAP])
def test_log_read_gives_at_most_the_limit_and_ends_with_the_log(stream: Stream, offset: int, limit: int) -> None:
    data = some(CAP)
    stream.writer.append(data)
    end = min(offset + limit, CAP)
    assert stream.read(offset, limit) == Slice(data[offset:end], offset, end, CAP)


@pytest.mark.parametrize("size", [0, 10, HEAD, 5 * CAP])
@pytest.mark.parametrize("beyond", [0, 1, 1 << 30, 1 << 61])
def test_log_read_at_or_past_the_end_gives_no_bytes_and_the_true_size(stream: Stream, size: int, beyond: int) -> None:
    stream.writer.append(some(size))
    assert stream.read(size + beyond) == Slice(b"", size + beyond, size + beyond, size)


def test_log_streams_and_attempts_are_apart(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    for attempt in (1, 2):
        book.open(EXECUTION, attempt, CAP)
        for stream in ("stdout", "stderr"):
            book.append(EXECUTION, attempt, stream, f"{stream} {attempt}".encode())
        book.close(EXECUTION, attempt)
    logs = Logs(tmp_path)
    for attempt in (1, 2):
        for stream in ("stdout", "stderr"):
            assert logs.read(EXECUTION, attempt, stream, 0, 100).data == f"{stream} {attempt}".encode()


@given(
    cap=st.integers(4, 40),
    chunks=st.lists(st.integers(0, 60), max_size=12),
    offset=st.integers(0, 400),
    limit=st.integers(1, 60),
)
def test_log_any_sequence_of_writes_keeps_every_promise(
    tmp_path_factory: pytest.TempPathFactory, cap: int, chunks: list[int], offset: int, limit: int
) -> None:
    stream = Stream(tmp_path_factory.mktemp("logs"), cap)
    data = some(sum(chunks))
    with closing(stream.writer):
        for end in range(1, len(chunks) + 1):
            stream.writer.append(data[sum(chunks[: end - 1]) : sum(chunks[:end])])
            assert stream.on_disk() <= cap
        part = stream.read(offset, limit)
        kept = list(stream.slices(limit))
    assert part.size == len(data)
    assert part.data == data[part.start : part.end]
    assert len(part.data) <= limit
    assert bool(part.data) == (offset < len(data))
    assert (part.start, part.end) == (len(data), len(data)) or part.start >= offset
    assert all(one.data == data[one.start : one.end] for one in kept)
    assert all(before.end <= after.start for before, after in pairwise(kept))
    segment = cap // 4
    kept_bytes = {position for one in kept for position in range(one.start, one.end)}
    assert set(range(min(2 * segment, len(data)))) <= kept_bytes
    assert set(range(max(0, len(data) - segment), len(data))) <= kept_bytes


def test_log_read_while_it_is_written_gives_every_slice_as_it_was_written(tmp_path: Path) -> None:
    data = some(20 * CAP)
    stream = Stream(tmp_path)
    done = threading.Event()

    def follow() -> list[Slice]:
        parts: list[Slice] = []
        offset = 0
        while True:
            last = done.is_set()
            part = stream.read(offset, 300)
            if part.data:
                parts.append(part)
            elif last:
                return parts
            offset = part.end

    with closing(stream.writer), ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        for start in range(0, len(data), 50):
            stream.writer.append(data[start : start + 50])
        done.set()
        parts = following.result(30)
    assert all(part.data == data[part.start : part.end] and part.end <= part.size for part in parts)
    assert all(before.end <= after.start for before, after in pairwise(parts))
    assert parts[-1].end == len(data)


# -- the book of all open logs -----------------------------------------------------------------------------------------


def test_book_log_that_cannot_be_written_is_told_once_and_the_others_go_on(tmp_path: Path) -> None:
    other = new_execution_id()
    book = LogBook(tmp_path)
    attempt_folder(tmp_path, EXECUTION, 1).parent.mkdir(parents=True)
    attempt_folder(tmp_path, EXECUTION, 1).write_text("a file in the place of the folder")
    for execution_id in (EXECUTION, other):
        book.open(execution_id, 1, CAP)
    with capture_logs() as logs:
        for _ in range(3):
            for execution_id in (EXECUTION, other):
                book.append(execution_id, 1, "stdout", b"line ")
    assert [(entry["event"], entry["execution"]) for entry in logs] == [("log not written", EXECUTION)]
    for execution_id in (EXECUTION, other):
        book.close(execution_id, 1)
    assert Logs(tmp_path).read(other, 1, "stdout", 0, 100).data == b"line line line "


@pytest.mark.parametrize("before", [0, 1, HEAD - 1, HEAD])
def test_book_log_has_a_gap_where_the_disk_took_nothing_and_goes_on_behind_it(tmp_path: Path, before: int) -> None:
    book = LogBook(tmp_path)
    book.open(EXECUTION, 1, CAP)
    data = some(before + 100 * CAP)
    lost = before + 90 * CAP
    book.append(EXECUTION, 1, "stdout", data[:before])
    with capture_logs() as logs:
        with files_of_at_most(0):
            for start in range(before, lost, CAP):
                book.append(EXECUTION, 1, "stdout", data[start : start + CAP])
        book.append(EXECUTION, 1, "stdout", data[lost : lost + 5])
        with files_of_at_most(0):
            book.append(EXECUTION, 1, "stdout", data[lost + 5 : lost + 10])
    book.append(EXECUTION, 1, "stdout", data[lost + 10 : lost + 15])
    book.close(EXECUTION, 1)
    assert [entry["event"] for entry in logs] == ["log not written"] * 2, "once for each time"
    logs_ = Logs(tmp_path)
    size = lost + 15
    first = [Slice(data[:before], 0, before, size)] if before else []
    parts = [logs_.read(EXECUTION, 1, "stdout", 0, before)] if before else []
    parts += [logs_.read(EXECUTION, 1, "stdout", offset, CAP) for offset in (before, lost + 5)]
    assert parts == [
        *first,
        Slice(data[lost : lost + 5], lost, lost + 5, size),
        Slice(data[lost + 10 : size], lost + 10, size, size),
    ]


def test_book_is_for_its_owner_alone(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    book.open(EXECUTION, 1, CAP)
    book.append(EXECUTION, 1, "stdout", b"secret")
    book.close(EXECUTION, 1)
    (file,) = attempt_folder(tmp_path, EXECUTION, 1).iterdir()
    assert file.stat().st_mode & 0o077 == 0
