"""What has left a pipe is in a file at once, and can be looked at again by somebody else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import logs
from supervisor.logs import LogBook, Logs, LogWriter
from supervisor.machine.frames import FrameReader
from supervisor.machine.intake import HEADER_BYTES, TAKE_BYTES, KeptPipe, UselessPipe, memory_file
from supervisor.models import new_execution_id

EXECUTION = new_execution_id()
CAP = 4096


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            try:
                os.close(descriptor)
            except OSError:
                continue


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = memory_file()
    yield descriptor
    os.close(descriptor)


def rest(pipe: KeptPipe) -> bytes:
    return b"".join(data for _, data in pipe.backlog())


# -- what carries the result -------------------------------------------------------------------------------------------


def test_kept_pipe_gives_what_comes_then_nothing_then_the_end(memory: int) -> None:
    with pipe() as (reader, writer):
        kept = KeptPipe(reader, memory, None)
        assert kept.take() is None
        os.write(writer, b"some")
        assert [kept.take(), kept.take()] == [b"some", None]
        os.close(writer)
        assert kept.take() == b""


@pytest.mark.parametrize("size", [1, TAKE_BYTES, 60_000])
def test_kept_pipe_that_somebody_else_takes_over_has_every_byte_once(memory: int, size: int) -> None:
    data = os.urandom(size)
    with pipe() as (reader, writer):
        first = KeptPipe(reader, memory, None)
        os.write(writer, data)
        taken = first.take()
        second = KeptPipe(reader, memory, None)
        assert rest(second) == taken
        while more := second.take():
            taken = (taken or b"") + more
        assert taken == data
        assert rest(KeptPipe(reader, memory, None)) == data


def test_kept_pipe_gives_back_memory_of_what_is_not_looked_at_again(memory: int) -> None:
    logged: list[bytes] = []
    with pipe() as (reader, writer):
        kept = KeptPipe(reader, memory, logged.append)
        for _ in range(400):
            os.write(writer, b"x" * TAKE_BYTES)
            kept.take()
            kept.forget_before(HEADER_BYTES + TAKE_BYTES * len(logged) - 10)
        assert os.fstat(memory).st_blocks * 512 < 3 << 20
        os.write(writer, b"the end")
        kept.take()
        assert len(rest(KeptPipe(reader, memory, None))) < 2 << 20
        assert rest(KeptPipe(reader, memory, None)).endswith(b"xxxxxthe end")
        assert sum(map(len, logged)) == 400 * TAKE_BYTES + 7


def test_useless_pipe_is_emptied() -> None:
    with pipe() as (reader, writer):
        useless = UselessPipe(reader)
        os.write(writer, b"some")
        assert [useless.take(), useless.take()] == [b"some", None]


LINES = (b'{"progress": 1}\n', b"\n", b'{"progress": "long"}\n', b'{"result": {}}\n', b"no frame\n")


@given(lines=st.lists(st.sampled_from(LINES), max_size=8), step=st.sampled_from([1, 7, 1000]))
def test_frames_reader_that_begins_at_what_is_settled_misses_nothing_but_progress_that_is_overtaken(
    lines: list[bytes], step: int
) -> None:
    data = bytes(HEADER_BYTES) + b"".join(lines)
    reader = FrameReader(100, HEADER_BYTES)
    told: list[tuple[str, int]] = []
    for start in range(HEADER_BYTES, len(data), step):
        told += reader.feed(data[start : start + step])
        again = FrameReader(100, reader.settled)
        assert again.feed(data[reader.settled : start + step])[-1:] == told[-1:]
        assert (again.result, again.fault) == (reader.result, reader.fault)
    for text, offset in told:
        assert data[:offset].endswith(f'{{"progress": {text}}}\n'.encode())


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takers", [1, 3])
@pytest.mark.parametrize("size", [10, CAP, 10 * CAP])
def test_log_is_the_same_whether_it_is_written_or_spliced_by_one_or_by_several(
    tmp_path: Path, takers: int, size: int
) -> None:
    data = os.urandom(size)
    written = LogWriter(tmp_path / "written", "stdout", CAP)
    written.append(data)
    written.close()
    with pipe() as (reader, writer):
        os.write(writer, data)
        seen = b""
        for number in range(takers):
            # Each has only what is on disk to go by, as after a kill.
            book = LogBook(tmp_path)
            book.open(EXECUTION, 1, CAP)
            while len(seen) < size * (number + 1) // takers:
                seen += book.splice(EXECUTION, 1, "stdout", reader, 100) or b""
            assert book.size(EXECUTION, 1, "stdout") == len(seen)
            assert book.tail(EXECUTION, 1, "stdout", 10) == seen[-10:]
            book.close(EXECUTION, 1)
    assert seen == data
    (folder,) = tmp_path.glob("*/*/1")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "written").iterdir()}


def test_log_of_a_pipe_with_nothing_in_it_makes_no_file(tmp_path: Path) -> None:
    book = LogBook(tmp_path)
    book.open(EXECUTION, 1, CAP)
    with pipe() as (reader, writer):
        assert book.splice(EXECUTION, 1, "stdout", reader, 100) is None
        os.close(writer)
        assert book.splice(EXECUTION, 1, "stdout", reader, 100) == b""
    book.close(EXECUTION, 1)
    assert os.listdir(tmp_path) == []


def test_log_of_which_an_agent_takes_something_back_at_the_last_moment_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = LogBook(tmp_path)
    book.open(EXECUTION, 1, CAP)
    with pipe() as (reader, writer):
        with monkeypatch.context() as patch:
            patch.setattr(logs, "_is_filled", lambda _: True)
            assert book.splice(EXECUTION, 1, "stdout", reader, 100) is None
        os.write(writer, b"some")
        assert book.splice(EXECUTION, 1, "stdout", reader, 100) == b"some"
    book.close(EXECUTION, 1)
    assert Logs(tmp_path).read(EXECUTION, 1, "stdout", 0, 100).data == b"some"


def test_log_that_cannot_be_written_lets_the_pipe_be_emptied(tmp_path: Path) -> None:
    book = LogBook(tmp_path / "file")
    (tmp_path / "file").touch()
    book.open(EXECUTION, 1, CAP)
    with pipe() as (reader, writer):
        os.write(writer, b"some")
        assert book.splice(EXECUTION, 1, "stdout", reader, 100) == b"some"
        assert book.splice(EXECUTION, 1, "stdout", reader, 100) is None
    book.close(EXECUTION, 1)
    assert Logs(tmp_path / "none").read(EXECUTION, 1, "stdout", 0, 1).size == 0
