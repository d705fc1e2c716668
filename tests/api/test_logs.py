"""Reading what agents print, part by part, while they run and after."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.named_pipes import Gate
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

CAP = 4096  # of each stream of the agent "printer"
FIELDS = ["execution_id", "attempt", "stream", "offset", "next_offset", "size", "ended", "text"]


def printed(server: RunningServer, data: bytes, stream: str = "stdout") -> str:
    """Return the id of an execution that has printed this and ended."""
    return str(server.run("printer", steps=[[stream, data.hex()]])["execution_id"])


def parts(server: RunningServer, execution_id: str, limit: int, offset: int = 0) -> Iterator[dict[str, Any]]:
    """Yield a stream part by part, until there is no more."""
    while True:
        part = server.logs(execution_id, limit=limit, offset=offset)
        yield part
        if part["next_offset"] == part["size"]:
            return
        assert part["next_offset"] > offset
        offset = part["next_offset"]


@pytest.fixture
def gates(tmp_path: Path) -> list[Gate]:
    return [Gate(tmp_path / name) for name in "ab"]


def test_logs_of_one_part_have_every_field(server: RunningServer) -> None:
    execution_id = printed(server, b"first\nsecond\n")
    part = server.logs(execution_id)
    assert list(part) == FIELDS
    assert part == {
        "execution_id": execution_id,
        "attempt": 1,
        "stream": "stdout",
        "offset": 0,
        "next_offset": 13,
        "size": 13,
        "ended": True,
        "text": "first\nsecond\n",
    }


def test_logs_of_both_streams_are_apart(server: RunningServer) -> None:
    steps = [["stdout", b"out".hex()], ["stderr", b"err".hex()], ["stdout", b"put".hex()]]
    execution_id = server.run("printer", steps=steps)["execution_id"]
    assert server.logs(execution_id)["text"] == "output"
    assert server.logs(execution_id, "stderr")["text"] == "err"
    assert server.http.get(f"/executions/{execution_id}/logs").json()["stream"] == "stdout"


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [(0, 4, "0123"), (4, 3, "456"), (8, 4, "89"), (9, 1, "9"), (10, 1, ""), (11, 1, ""), (1 << 62, 1 << 20, "")],
)
def test_logs_part_is_what_was_asked_for(server: RunningServer, offset: int, limit: int, expected: str) -> None:
    part = server.logs(printed(server, b"0123456789"), offset=offset, limit=limit)
    assert (part["text"], part["offset"], part["size"]) == (expected, offset, 10)
    assert part["next_offset"] == offset + len(expected)


@pytest.mark.parametrize("limit", [4, 7, 1024])
def test_logs_part_that_ends_in_a_character_leaves_it_to_the_next(server: RunningServer, limit: int) -> None:
    """The text is longer than one file of the log."""
    text = "aé€\N{GRINNING FACE}" * 220
    found = list(parts(server, printed(server, text.encode()), limit))
    assert "".join(part["text"] for part in found) == text
    assert all(len(part["text"].encode()) == part["next_offset"] - part["offset"] <= limit for part in found)


def test_logs_limit_below_a_character_still_gets_on(server: RunningServer) -> None:
    texts = [part["text"] for part in parts(server, printed(server, "é!".encode()), limit=1)]
    assert texts == ["\ufffd", "\ufffd", "!"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xc0\x80", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"cut \xf0\x9f\x98", "cut \ufffd"),
        (b"\x00\x1b[31m\r\n", "\x00\x1b[31m\r\n"),
    ],
)
def test_logs_bytes_that_are_no_text_are_replaced(server: RunningServer, data: bytes, text: str) -> None:
    part = server.logs(printed(server, data))
    assert part["text"] == text
    assert part["next_offset"] == part["size"] == len(data)


def test_logs_of_a_running_execution_can_be_followed(server: RunningServer, gates: list[Gate]) -> None:
    """A character of which only the first byte is there yet is not given away."""
    first, second = gates
    steps = [["stdout", "61c3"], ["wait", first.path], ["stdout", "a962"], ["wait", second.path]]
    execution_id = server.submit("printer", steps=steps)

    part = wait_until(lambda: (found := server.logs(execution_id))["size"] == 2 and found)
    assert (part["text"], part["next_offset"], part["ended"]) == ("a", 1, False)
    part = server.logs(execution_id, offset=1)
    assert (part["text"], part["offset"], part["next_offset"], part["size"]) == ("", 1, 1, 2)

    first.open()
    part = wait_until(lambda: (found := server.logs(execution_id, offset=1))["size"] == 4 and found)
    assert (part["text"], part["next_offset"], part["ended"]) == ("éb", 4, False)

    second.open()
    server.wait_for_end(execution_id)
    assert server.logs(execution_id, offset=4) == {**part, "offset": 4, "text": "", "ended": True}


def test_logs_over_the_cap_keep_head_and_tail(server: RunningServer) -> None:
    """Half of the cap is head, at least a quarter is tail; offsets go on meaning the same bytes."""
    text = "".join(f"{number:07}\n" for number in range(2000))
    execution_id = printed(server, text.encode())
    found = list(parts(server, execution_id, limit=1 << 20))
    head, tail = found
    assert (head["offset"], head["text"]) == (0, text[: CAP // 2])
    assert tail["offset"] >= len(text) - CAP // 2
    assert tail["text"] == text[tail["offset"] :]
    assert CAP // 4 <= len(tail["text"]) <= CAP // 2
    assert {part["size"] for part in found} == {len(text)}

    in_the_gap = server.logs(execution_id, offset=CAP, limit=8)
    assert (in_the_gap["offset"], in_the_gap["text"]) == (tail["offset"], tail["text"][:8])


def test_logs_character_cut_by_the_gap_is_replaced(server: RunningServer) -> None:
    head = b"x" * (CAP // 2 - 1) + "é".encode()
    found = list(parts(server, printed(server, head + b"y" * 2 * CAP), limit=1 << 20))
    assert "".join(part["text"] for part in found).strip("xy") == "\ufffd"


def test_logs_before_the_start_and_of_silent_agents_are_empty(server: RunningServer) -> None:
    blocker, waiting = server.submit("waits"), server.submit("waits")
    part = server.logs(waiting)
    assert (part["attempt"], part["size"], part["text"], part["ended"]) == (0, 0, "", False)
    for execution_id in (waiting, blocker):
        server.cancel(execution_id)
        assert server.wait_for_end(execution_id)["status"] == "CANCELED"
        part = server.logs(execution_id, "stderr", offset=5)
        assert (part["offset"], part["next_offset"], part["size"]) == (5, 5, 0)
        assert (part["text"], part["ended"]) == ("", True)
