"""What hostile agents say: however it is formed, results are refused for their cause, and what is told is sound."""

import json
from typing import Any

import pytest

from tests.helpers.server import RunningServer
from tests.helpers.siege import assert_nothing_is_left, submit

MEGABYTE = 1 << 20


@pytest.fixture
def server(besieged: RunningServer) -> RunningServer:
    return besieged


def result(text: str) -> list[list[Any]]:
    return [['{"result": {"a": ' + text + "}}\n", 1]]


# Frames, of which each character is a byte, in parts of [text, times]; and the cause of the end.
FRAMES: dict[str, tuple[list[list[Any]], str]] = {
    "sound": (result("1"), "EXITED_OK"),
    "none": ([], "NO_RESULT"),
    "too large": ([['{"result": {"a": "', 1], ["x", 2 * MEGABYTE], ['"}}\n', 1]], "RESULT_TOO_LARGE"),
    "line without end": ([['{"result": "', 1], ["x", 20 * MEGABYTE]], "RESULT_TOO_LARGE"),
    "400,000 lists in each other": (result("[" * 400_000), "RESULT_INVALID"),
    "90,000 objects in each other": (
        [['{"result": ', 1], ['{"a":', 90_000], ["1", 1], ["}", 90_000], ["}\n", 1]],
        "RESULT_INVALID",
    ),
    "NaN": (result("NaN"), "RESULT_INVALID"),
    "Infinity": (result("-Infinity"), "RESULT_INVALID"),
    "no UTF-8": (result('"\xff\xfe"'), "RESULT_INVALID"),
    "half a document": ([['{"result": {"a"', 1]], "RESULT_INVALID"),
    "two documents": ([['{"result": {}}\n', 2]], "RESULT_INVALID"),
    "half a surrogate pair": (result(r'"\ud800"'), "RESULT_INVALID"),
    "half a surrogate pair as a key": (result(r'{"\udc00": 1}'), "RESULT_INVALID"),
    "5,000 digits": (result("1" * 5000), "RESULT_INVALID"),
    "beyond all numbers": (result("1e999"), "RESULT_INVALID"),
    "NUL": (result(r'"\u0000"'), "EXITED_OK"),
    "the same key twice": (result('1, "a": 2'), "EXITED_OK"),
    "error with odd letters": (
        [[r'{"error": {"message": "\u0000\ud800\u001b[2J\n", "traceback": 1}}', 1]],
        "AGENT_ERROR",
    ),
    "error that is no object": ([['{"error": []}\n', 1]], "RESULT_INVALID"),
    "progress with odd letters": ([[r'{"progress": "\ud800"}', 1]], "RESULT_INVALID"),
}


def read(server: RunningServer, execution_id: str) -> dict[str, Any]:
    """Return an execution, read as strictly as any client can."""
    return dict(strictly(server.http.get(f"/executions/{execution_id}").content))


def strictly(answer: bytes) -> Any:
    """Parse what is sent. Raises: it is no UTF-8, has a key twice, a number of no range, half of a surrogate pair."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), pairs
        return dict(pairs)

    value = json.loads(answer.decode(), parse_constant=pytest.fail, object_pairs_hook=unique)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    assert not any(byte < 0x20 for byte in answer)
    return value


def test_frames_of_every_kind_end_with_their_cause_and_are_told_in_sound_json(server: RunningServer) -> None:
    ids = {name: submit(server, "say", parts) for name, (parts, _) in FRAMES.items()}
    told = {}
    for name, execution_id in ids.items():
        server.wait_for_end(execution_id)
        execution = read(server, execution_id)
        told[name] = execution["termination"]["code"]
        assert (execution["final_result"] is None) == (told[name] != "EXITED_OK")
    assert told == {name: code for name, (_, code) in FRAMES.items()}
    assert "nested deeper" in read(server, ids["90,000 objects in each other"])["error_log"]
    assert read(server, ids["NUL"])["final_result"] == {"a": "\x00"}
    assert read(server, ids["the same key twice"])["final_result"] == {"a": 2}
    assert_nothing_is_left(server)


def test_flood_is_read_to_its_end_and_kept_to_its_cap_while_others_go_on(server: RunningServer) -> None:
    floods = {stream: submit(server, "flood", number, 190) for stream, number in (("stdout", 1), ("stderr", 2))}
    assert server.run("ok")["status"] == "COMPLETED"
    for stream, execution_id in floods.items():
        execution = server.wait_for_end(execution_id)
        assert execution["status"] == "COMPLETED", execution
        size = 190 * MEGABYTE + len("end")
        last = server.logs(execution_id, stream, offset=size - 10)
        assert (last["size"], last["text"]) == (size, "xxxxxxxend")
        kept = (server.data / "logs" / execution_id[-2:] / execution_id).rglob(f"{stream}.*")
        assert sum(path.stat().st_size for path in kept) <= MEGABYTE
    assert_nothing_is_left(server)


# What would be another line, or another colour, or nothing at all, where it is printed as it is.
NASTY = {
    "escape sequences": "\x1b[2J\x1b]0;title\x07\x9b31m",
    "line ends": 'a\r\n{"level": "info", "event": "forged"}\n\x0b\x0c\x85',
    "line ends of Unicode": "\u2028\u2029".encode().decode("latin-1"),
    "from right to left": "\u202e\u2066".encode().decode("latin-1"),
    "no UTF-8": "\xff\xc3\xed\xa0\x80",
    "NUL": "a\x00b",
    "a line of 10 MB": "x" * 10_000,
}


def test_nasty_words_are_told_in_sound_json_and_are_not_in_the_log_of_the_operator(server: RunningServer) -> None:
    ids = {name: submit(server, "print_and_raise", text, 1000 if "MB" in name else 1) for name, text in NASTY.items()}
    for name, execution_id in ids.items():
        server.wait_for_end(execution_id)
        execution = read(server, execution_id)
        assert execution["termination"]["code"] == "AGENT_ERROR", execution
        assert NASTY[name][:1000].replace("\x00", "\ufffd") in execution["error_log"]
        assert list(execution["progress"]) == [NASTY[name]]
        for stream in ("stdout", "stderr"):
            log = strictly(server.http.get(f"/executions/{execution_id}/logs?stream={stream}").content)
            printed = NASTY[name].encode("latin-1").decode(errors="replace")
            assert log["text"].startswith(printed[:10_000])
    # What runs have said is in their own records alone.
    assert server.errors() == ""


def test_error_of_many_words_is_cut(server: RunningServer) -> None:
    executions = [server.wait_for_end(submit(server, "raise_much", size)) for size in (1 << 20, 50 << 20)]
    small, large = (read(server, execution["execution_id"]) for execution in executions)
    assert small["error_log"].endswith("xend\n")
    assert large["termination"]["code"] in ("AGENT_ERROR", "EXIT_NONZERO", "MEMORY")
    assert max(len(execution["error_log"]) for execution in (small, large)) <= 64 << 10
    assert_nothing_is_left(server)
