"""Reading what an agent says on its result channel."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.machine.frames import PROGRESS_BYTES, FrameReader, ResultChannel, WholeOutput
from supervisor.machine.stopper import Reason
from supervisor.states import Cause

LIMIT = 100
INVALID, TOO_LARGE = Cause.RESULT_INVALID, Cause.RESULT_TOO_LARGE

# More than a reader keeps of a line for any reason, whatever its limit is.
LINE_BYTES = 400_000


def texts(progress: list[tuple[str, int]]) -> list[str]:
    return [text for text, _ in progress]


def read(channel: ResultChannel, *chunks: bytes) -> list[str]:
    """Feed the chunks, end the channel, and return the progress."""
    progress = [text for chunk in chunks for text in texts(channel.feed(chunk))]
    channel.finish()
    return progress


def frames(*chunks: bytes, limit: int = LIMIT) -> FrameReader:
    """Return a reader that has read all there is."""
    reader = FrameReader(limit)
    read(reader, *chunks)
    return reader


def output(*chunks: bytes, limit: int = LIMIT) -> WholeOutput:
    channel = WholeOutput(limit)
    read(channel, *chunks)
    return channel


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yield a stream in one piece, in any two, and byte by byte."""
    for middle in range(len(data) + 1):
        yield [data[:middle], data[middle:]]
    yield [data[i : i + 1] for i in range(len(data))]


def sized(bytes_: int) -> str:
    """Return JSON text of an object of so many bytes."""
    return json.dumps({"a": "x" * (bytes_ - 8)}, separators=(",", ":"))


# -- frames that keep the rules ---------------------------------------------------------------------------------------

GOOD = {
    "result": (b'{"result": {"a": 1}}\n', '{"a":1}', []),
    "no newline at the end": (b'{"result": {}}', "{}", []),
    "progress first": (b'{"progress": 1}\n{"progress": {"b": [2]}}\n{"result": {}}\n', "{}", ["1", '{"b":[2]}']),
    "blank lines anywhere": (b'\n\n{"progress": null}\n \t\n\r\n{"result": {}}\n\n \n', "{}", ["null"]),
    "carriage returns": (b'{"result": {}}\r\n', "{}", []),
    "more than ASCII": ('{"result": {"é": "\N{GRINNING FACE}"}}\n'.encode(), '{"é":"\N{GRINNING FACE}"}', []),
    "escapes": (rb'{"result": {"a": "\u00e9\n\u0000"}}', '{"a":"é\\n\\u0000"}', []),
    "progress without a result": (b'{"progress": 1}\n', None, ["1"]),
    "nothing": (b"", None, []),
}


@pytest.mark.parametrize(("data", "result", "progress"), GOOD.values(), ids=GOOD)
def test_frames_however_split_give_result_and_progress(data: bytes, result: str | None, progress: list[str]) -> None:
    for chunks in splits(data):
        reader = FrameReader(LIMIT)
        assert read(reader, *chunks) == progress
        assert (reader.result, reader.error, reader.fault) == (result, None, None)


ERRORS = {
    "message and traceback": (b'{"error": {"message": "no", "traceback": "Tr:\\nno"}}\n', ("no", "Tr:\nno")),
    "no traceback": (b'{"error": {"message": "no"}}', ("no", "no")),
    "empty traceback": (b'{"error": {"message": "no", "traceback": ""}}', ("no", "no")),
    "nothing in it": (b'{"error": {}}', ("", "")),
    "no texts": (b'{"error": {"message": 1, "traceback": [2]}}', ("1", "[2]")),
    "half surrogate pairs": (rb'{"error": {"message": "a\ud800", "traceback": "\udfff"}}', ("a?", "?")),
    "NUL": (rb'{"error": {"message": "a\u0000", "traceback": ""}}', ("a\N{REPLACEMENT CHARACTER}",) * 2),
    "after progress": (b'{"progress": 1}\n{"error": {"message": "no"}}\n', ("no", "no")),
}


@pytest.mark.parametrize(("data", "error"), ERRORS.values(), ids=ERRORS)
def test_frames_error_frame_gives_message_and_traceback(data: bytes, error: tuple[str, str]) -> None:
    for chunks in splits(data):
        reader = frames(*chunks)
        assert (reader.result, reader.error, reader.fault) == (None, error, None)


LIMITS = {
    "named": (b'{"error": {"message": "no", "limit": "memory_bytes"}}\n', "memory_bytes"),
    "not named": (b'{"error": {"message": "no"}}\n', ""),
    "no text": (b'{"error": {"message": "no", "limit": [1]}}\n', "[1]"),
    "no error": (b'{"result": {"limit": "memory_bytes"}}\n', None),
}


@pytest.mark.parametrize(("data", "limit"), LIMITS.values(), ids=LIMITS)
def test_frames_error_frame_may_name_the_limit_that_it_is_about(data: bytes, limit: str | None) -> None:
    reader = frames(data)
    assert (reader.exhausted, reader.fault) == (limit, None)


def test_frames_error_frame_is_taken_whole_when_the_result_limit_is_tiny() -> None:
    """Its size is the size of tracebacks; six bytes for one is what escapes can take."""
    traceback = "\N{GRINNING FACE}" * 32_000
    line = json.dumps({"error": {"message": "no", "traceback": traceback}}).encode()
    assert frames(line[:200_000], line[200_000:], limit=2).error == ("no", traceback)


# -- frames that break them -------------------------------------------------------------------------------------------

BAD = {
    "two results": (b'{"result": {}}\n{"result": {}}\n', INVALID, "something follows it"),
    "two results, the second unended": (b'{"result": {}}\n{"result": {}}', INVALID, "something follows it"),
    "progress after the result": (b'{"result": {}}\n{"progress": 1}\n', INVALID, "something follows it"),
    "garbage after the result": (b'{"result": {}}\nbye', INVALID, "something follows it"),
    "error after the result": (b'{"result": {}}\n{"error": {}}\n', INVALID, "something follows it"),
    "two in one line": (b'{"result": {}}{"result": {}}\n', INVALID, "not JSON: Extra data"),
    "half a line": (b'{"result": {"a"', INVALID, "it ends in the middle of a line"),
    "half a line after progress": (b'{"progress": 1}\n{"res', INVALID, "it ends in the middle of a line"),
    "list": (b'{"result": [1]}\n', INVALID, "it is a list, and must be an object"),
    "list, without newline": (b'{"result": [1]}', INVALID, "it is a list, and must be an object"),
    "number": (b'{"result": 1.5}\n', INVALID, "it is a number, and must be an object"),
    "text": (b'{"result": "x"}\n', INVALID, "it is a text, and must be an object"),
    "true": (b'{"result": true}\n', INVALID, "it is true or false, and must be an object"),
    "null": (b'{"result": null}\n', INVALID, "it is null, and must be an object"),
    "no JSON": (b"hello\n", INVALID, "not JSON"),
    "NaN": (b'{"result": {"a": NaN}}\n', INVALID, "NaN is not a JSON value"),
    "out of range": (b'{"result": {"a": 1e999}}\n', INVALID, "a number is out of range"),
    "invalid UTF-8": (b'{"result": {"a": "\xff"}}\n', INVALID, "not UTF-8 at byte 18"),
    "half a surrogate pair": (rb'{"result": {"a": "\ud800"}}', INVALID, "half of a surrogate pair"),
    "no object": (b"[1]\n", INVALID, "a line is not an object with exactly one key"),
    "no key": (b"{}\n", INVALID, "a line is not an object with exactly one key"),
    "two keys": (b'{"progress": 1, "result": {}}\n', INVALID, "a line is not an object with exactly one key"),
    "unknown kind": (b'{"resutl": {}}\n', INVALID, "'resutl' is not a kind of frame"),
    "long unknown kind": (b'{"' + b"k" * 90 + b'": {}}\n', INVALID, f"'{'k' * 40}' is not a kind of frame"),
    "unknown kind of half a pair": (rb'{"\ud800": 1}', INVALID, r"'\ud800' is not a kind of frame"),
    "error that is no object": (b'{"error": "no"}\n', INVALID, "'error' is not a kind of frame"),
    "unencodable": (b'{"unencodable": "TypeError: set"}\n', INVALID, "it cannot be written as JSON (TypeError: set)"),
    "unencodable half a pair": (rb'{"unencodable": "\ud800"}', INVALID, "it cannot be written as JSON (?)"),
    "half a pair in progress": (b'{"progress": "\\ud800"}\n', INVALID, "in a progress frame, a text holds half"),
    "NUL": (b"\x00\n", INVALID, "not JSON"),
}


@pytest.mark.parametrize(("data", "cause", "reason"), BAD.values(), ids=BAD)
def test_frames_broken_rule_however_split_is_a_fault_and_no_result(data: bytes, cause: Cause, reason: str) -> None:
    for chunks in splits(data):
        reader = frames(*chunks)
        assert reader.fault
        assert (reader.fault.code, reader.fault.by) == (cause, "agent")
        assert reader.fault.message.startswith("The result is not valid: ")
        assert reason in reader.fault.message
        assert reader.result is None


def test_frames_message_of_a_fault_can_be_stored() -> None:
    for data, _, _ in BAD.values():
        fault = frames(data).fault
        assert fault
        fault.message.encode()


def test_frames_first_fault_stands() -> None:
    reader = frames(b"hello\n", b'{"result": 1}\n', b"x" * LINE_BYTES)
    assert reader.fault
    assert "not JSON" in reader.fault.message


def test_frames_progress_before_a_fault_in_the_same_read_is_given() -> None:
    assert texts(FrameReader(LIMIT).feed(b'{"progress": 1}\nhello\n{"progress": 2}\n')) == ["1"]


# -- sizes ------------------------------------------------------------------------------------------------------------

RESULT_TOO_LARGE = Reason(
    TOO_LARGE, f"The result is larger than its limit of {LIMIT} bytes.", "limit", {"result_bytes": LIMIT}
)
AS_RESULT: list[Callable[[str], ResultChannel]] = [
    lambda text: frames(f'{{"result":{text}}}\n'.encode()),
    lambda text: frames(f'{{"result":{text}}}'.encode()),
    lambda text: output(text.encode()),
    lambda text: output(f" {text}\n".encode()),
]
WAYS = ["line", "unended line", "whole output", "output with white space"]


@pytest.mark.parametrize("as_result", AS_RESULT, ids=WAYS)
def test_result_exactly_at_its_limit_is_taken(as_result: Callable[[str], ResultChannel]) -> None:
    channel = as_result(sized(LIMIT))
    assert (channel.result, channel.fault) == (sized(LIMIT), None)


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 1000, LINE_BYTES * 2])
@pytest.mark.parametrize("as_result", AS_RESULT, ids=WAYS)
def test_result_over_its_limit_is_too_large(as_result: Callable[[str], ResultChannel], size: int) -> None:
    channel = as_result(sized(size))
    assert (channel.result, channel.fault) == (None, RESULT_TOO_LARGE)


def test_result_limit_counts_bytes_and_not_characters() -> None:
    assert frames(f'{{"result": {{"a": "{"é" * 50}"}}}}'.encode()).fault == RESULT_TOO_LARGE


def test_frames_line_without_end_is_too_large_before_it_is_all_read() -> None:
    reader = FrameReader(LIMIT)
    for _ in range(LINE_BYTES // 10_000):
        reader.feed(b"x" * 10_000)
    assert reader.fault == RESULT_TOO_LARGE


def test_whole_output_without_end_is_too_large_before_it_is_all_read() -> None:
    channel = WholeOutput(LIMIT)
    channel.feed(b" " * (LIMIT + 65))
    assert channel.fault == RESULT_TOO_LARGE


def test_frames_flood_of_progress_is_thinned_to_what_is_latest_before_each_read_ends() -> None:
    reader = FrameReader(LIMIT)
    flood = b"".join(b'{"progress": %d}\n' % number for number in range(1000))
    assert texts(reader.feed(flood)) == ["999"]
    assert texts(reader.feed(flood + b'{"result": {}}\n')) == ["999"]
    assert (reader.result, reader.fault) == ("{}", None)


def test_frames_few_progress_in_one_read_are_all_given() -> None:
    assert texts(FrameReader(LIMIT).feed(b'{"progress": 0}\n' * 100)) == ["0"] * 100


def test_frames_progress_exactly_at_its_limit_is_given() -> None:
    text = json.dumps("x" * (PROGRESS_BYTES - 2))
    assert texts(FrameReader(LIMIT).feed(f'{{"progress":{text}}}\n'.encode())) == [text]


def test_frames_progress_over_its_limit_is_a_fault() -> None:
    reader = FrameReader(LIMIT)
    assert reader.feed(f'{{"progress": "{"x" * PROGRESS_BYTES}"}}\n'.encode()) == []
    message = "A progress frame is larger than the limit of 65536 bytes."
    assert reader.fault == Reason(TOO_LARGE, message, "limit", {"progress_bytes": 65536})


def kept(channel: ResultChannel) -> int:
    """Return how many bytes a channel keeps for later."""
    return len(channel._buffer)


@pytest.mark.parametrize("channel", [FrameReader(LIMIT), WholeOutput(LIMIT)], ids=["frames", "output"])
def test_after_a_fault_nothing_more_is_kept(channel: ResultChannel) -> None:
    channel.feed(b"x" * LINE_BYTES + b"\n")
    assert channel.fault
    assert channel.feed(b'{"progress": 1}\n' * 1000) == []
    channel.finish()
    assert (kept(channel), channel.result) == (0, None)


# -- the whole output -------------------------------------------------------------------------------------------------

OUTPUTS = {
    "object": (b'{"a": 1}', '{"a":1}', None),
    "over several lines": (b'\n{\n "a": 1\n}\n', '{"a":1}', None),
    "nothing": (b"", None, None),
    "white space": (b" \r\n", None, None),
    "list": (b"[]", None, "it is a list, and must be an object"),
    "two documents": (b"{}\n{}\n", None, "not JSON: Extra data"),
    "log lines around it": (b"hello\n{}", None, "not JSON"),
    "end in the middle": (b'{"a": 1', None, "not JSON"),
    "invalid UTF-8": (b'{"a": "\xff"}', None, "not UTF-8"),
    "Infinity": (b'{"a": Infinity}', None, "Infinity is not a JSON value"),
    "half a surrogate pair": (rb'{"a": "\ud800"}', None, "half of a surrogate pair"),
    "a frame": (b'{"result": {}}', '{"result":{}}', None),
}


@pytest.mark.parametrize(("data", "result", "reason"), OUTPUTS.values(), ids=OUTPUTS)
def test_whole_output_however_split_is_one_document(data: bytes, result: str | None, reason: str | None) -> None:
    for chunks in splits(data):
        channel = WholeOutput(LIMIT)
        assert read(channel, *chunks) == []
        assert channel.result == result
        assert (channel.fault is None) == (reason is None)
        if channel.fault:
            assert channel.fault.code is INVALID
            assert str(reason) in channel.fault.message


# -- anything ---------------------------------------------------------------------------------------------------------

PIECES = (
    st.binary(max_size=80)
    | st.sampled_from([data for data, *_ in (*GOOD.values(), *ERRORS.values(), *BAD.values(), *OUTPUTS.values())])
    | st.sampled_from([b"\n", b"{", b"[" * 500, b'{"result":', b'{"progress":', b"}", b"x" * LINE_BYTES])
)


@given(st.lists(PIECES, max_size=20), st.booleans())
@example([b"x" * LINE_BYTES, b"x"], False)
def test_any_bytes_raise_nothing_are_kept_within_bounds_and_can_be_stored(chunks: list[bytes], whole: bool) -> None:
    channel = WholeOutput(LIMIT) if whole else FrameReader(LIMIT)
    for chunk in chunks:
        for text in texts(channel.feed(chunk)):
            json.loads(text.encode())
        assert kept(channel) <= LINE_BYTES
    channel.finish()
    assert channel.result is None or channel.fault is None
    for text in (channel.result, *(channel.error or ()), channel.fault and channel.fault.message):
        assert text is None or isinstance(text.encode(), bytes)
    if channel.result is not None:
        assert isinstance(json.loads(channel.result), dict)
        assert len(channel.result.encode()) <= LIMIT


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_split_of_any_bytes_ends_the_same(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    split = frames(*(data[start:end] for start, end in pairwise(places)))
    whole = frames(data)
    assert (split.result, split.error, split.fault) == (whole.result, whole.error, whole.fault)
