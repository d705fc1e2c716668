"""What becomes of what an agent gives as its result, good or bad, from its descriptor to the client."""

import base64
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

Part = str | int
Give = Callable[[RunningServer, list[Part], int], dict[str, Any]]

OK, INVALID, TOO_LARGE = "EXITED_OK", "RESULT_INVALID", "RESULT_TOO_LARGE"

# The default of limits.result_bytes.
LIMIT = 1 << 20


def cause(execution: dict[str, Any]) -> str:
    """Return why an execution ended, after a look at what must go together at every end."""
    code = str(execution["termination"]["code"])
    completed = execution["status"] == "COMPLETED"
    assert completed == (code == OK) == (execution["final_result"] is not None) == (execution["error_log"] is None)
    return code


# -- a result is one text, in a frame or on stdout --------------------------------------------------------------------


def in_a_frame(server: RunningServer, text: list[Part], exit_code: int = 0) -> dict[str, Any]:
    return server.run("raw_frames", frames=['{"result": ', *text, "}\n"], exit=exit_code)


def on_stdout(server: RunningServer, text: list[Part], exit_code: int = 0) -> dict[str, Any]:
    before, fill, after = (*text, 0, "")[:3]
    return server.run("raw_stdout", before=in_base64(before), fill=fill, after=in_base64(after), exit=exit_code)


def in_base64(text: Part) -> str:
    return base64.b64encode(str(text).encode("latin-1")).decode()


both_ways = pytest.mark.parametrize("give", [in_a_frame, on_stdout])

# Each character is one byte, a number stands for so many x.
TEXTS: dict[str, tuple[list[Part], str]] = {
    "an object": (['{"a": 1}'], OK),
    "deep": (['{"a":' * 98 + "1" + "}" * 98], OK),
    "a list": (["[{}]"], INVALID),
    "a text": (['"done"'], INVALID),
    "null": (["null"], INVALID),
    "not JSON": (["{'a': 1}"], INVALID),
    "NaN": (['{"a": NaN}'], INVALID),
    "Infinity": (['{"a": [-Infinity]}'], INVALID),
    "a number beyond all numbers": (['{"a": 1e999}'], INVALID),
    "a number of many digits": (['{"a": ' + "1" * 5000 + "}"], INVALID),
    "invalid UTF-8": (['{"a": "\xff"}'], INVALID),
    "half a character": (['{"a": "\xc3"}'], INVALID),
    "half a surrogate pair": ([r'{"a": "\ud800"}'], INVALID),
    "a surrogate in UTF-8": (['{"a": "\xed\xa0\x80"}'], INVALID),
    "two objects": (["{}{}"], INVALID),
    "half an object": (['{"a": {'], INVALID),
    "too deep": (['{"a":' * 101 + "1" + "}" * 101], INVALID),
    "far too deep": (["[" * 300_000], INVALID),
    "too many values": (['{"a": [' + "0," * 250_000 + "0]}"], INVALID),
    "at its limit": (['{"a":"', LIMIT - 8, '"}'], OK),
    "over its limit": (['{"a":"', LIMIT - 7, '"}'], TOO_LARGE),
    "far over its limit": (['{"a":"', 40 * LIMIT, '"}'], TOO_LARGE),
}


@both_ways
@pytest.mark.parametrize(("text", "code"), TEXTS.values(), ids=TEXTS)
def test_result_of_raw_bytes_ends_with_its_cause(
    server: RunningServer, give: Give, text: list[Part], code: str
) -> None:
    execution = give(server, text, 0)
    assert cause(execution) == code
    if code != OK:
        # The one plain sentence.
        assert execution["error_log"] == execution["termination"]["message"]


@both_ways
def test_result_before_a_bad_exit_code_is_a_failure(server: RunningServer, give: Give) -> None:
    execution = give(server, ["{}"], 3)
    assert cause(execution) == "EXIT_NONZERO"
    assert execution["termination"]["exit_code"] == 3


@pytest.mark.parametrize("frames_before", [0, 50_000])
def test_bad_frame_before_a_bad_exit_code_is_told_whichever_is_seen_first(
    server: RunningServer, frames_before: int
) -> None:
    frames = ['{"progress":0}\n' * frames_before, "hello\n"]
    execution = server.run("raw_frames", frames=frames, pipe_bytes=1 << 20, exit=3)
    assert (cause(execution), execution["termination"]["by"]) == (INVALID, "agent")


def test_result_too_large_tells_the_limit(server: RunningServer) -> None:
    termination = in_a_frame(server, ['{"a":"', LIMIT, '"}'])["termination"]
    assert (termination["by"], termination["limit"]) == ("limit", {"result_bytes": LIMIT})


# -- frames -----------------------------------------------------------------------------------------------------------

FRAMES: dict[str, tuple[str, str]] = {
    "none": ("", "NO_RESULT"),
    "only blank lines": (" \n\n\r\n", "NO_RESULT"),
    "only progress": ('{"progress": 1}\n', "NO_RESULT"),
    "without an end of line": ('{"result": {}}', OK),
    "no JSON": ("hello\n", INVALID),
    "binary": ("\x00\x01\xff\n", INVALID),
    "two results": ('{"result": {}}\n{"result": {}}\n', INVALID),
    "progress after the result": ('{"result": {}}\n{"progress": 1}\n', INVALID),
    "half a line after the result": ('{"result": {}}\n{', INVALID),
    "half a line": ('{"result": {"a"', INVALID),
    "unknown kind": ('{"answer": {}}\n', INVALID),
    "two keys": ('{"progress": 1, "result": {}}\n', INVALID),
    "no object": ('["result", {}]\n', INVALID),
    "bad progress": ('{"progress": NaN}\n{"result": {}}\n', INVALID),
    "large progress": ('{"progress": "' + "x" * 65_536 + '"}\n{"result": {}}\n', TOO_LARGE),
}


@pytest.mark.parametrize(("frames", "code"), FRAMES.values(), ids=FRAMES)
def test_frames_end_with_their_cause(server: RunningServer, frames: str, code: str) -> None:
    execution = server.run("raw_frames", frames=[frames])
    assert cause(execution) == code
    assert execution["error_log"] is None or execution["error_log"] == execution["termination"]["message"]


def test_half_a_line_before_a_death_is_told_as_the_death(server: RunningServer) -> None:
    assert cause(server.run("raw_frames", frames=['{"result'], exit=139)) == "EXIT_NONZERO"


def test_half_a_line_of_one_that_hangs_ends_at_its_timeout(server: RunningServer) -> None:
    execution = server.run("half_line_hangs")
    assert cause(execution) == "WALL_TIME"
    assert execution["termination"]["limit"] == {"timeout_seconds": 0.5}
    assert execution["termination"]["observed"]["wall_seconds"] >= 0.5


def test_bad_frame_of_one_that_hangs_ends_it_long_before_its_timeout(server: RunningServer) -> None:
    execution = server.run("raw_frames", frames=["hello\n"], hang=3600)
    assert cause(execution) == INVALID
    assert execution["kill"]["survivors"] == 0


def test_closed_result_descriptor_is_no_result(server: RunningServer) -> None:
    assert cause(server.run("raw_frames", frames=[""], close=True)) == "NO_RESULT"


def test_result_before_its_descriptor_is_closed_counts(server: RunningServer) -> None:
    assert cause(server.run("raw_frames", frames=['{"result": {}}\n'], close=True)) == OK


def test_result_while_a_grandchild_holds_the_descriptor_counts_and_the_grandchild_ends(server: RunningServer) -> None:
    execution = server.run("grandchild")
    assert execution["final_result"] == {"done": True}
    assert execution["kill"]["killed"] == 1
    assert not server.runs()


# -- values of a Python agent -----------------------------------------------------------------------------------------

NOT_JSON = [
    *("nothing", "list", "text", "set", "object", "bytes", "circular", "endless", "too deep", "tuple as a key"),
    *("NaN", "Infinity", "half a surrogate pair", "half a surrogate pair as a key", "a generator"),
    *("hostile", "speechless"),
]


@pytest.mark.parametrize("what", NOT_JSON)
def test_value_that_is_no_json_object_is_invalid(server: RunningServer, what: str) -> None:
    execution = server.run("returns", what=what)
    assert cause(execution) == INVALID
    assert execution["error_log"] == execution["termination"]["message"]


def test_value_is_given_as_json_has_it(server: RunningServer) -> None:
    result = server.run("returns", what="odd but fine")["final_result"]
    assert result == {"1": [True, None], "\x00": "\N{GRINNING FACE}é\x7f\u2028"}


def test_value_size_is_that_of_its_utf8(server: RunningServer) -> None:
    assert len(server.run("returns", what="large")["final_result"]["a"]) == 200_000
    assert cause(server.run("returns", what="too large")) == TOO_LARGE


# -- floods: the supervisor parses nothing unbounded, and others go on ------------------------------------------------

FLOODS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a line without end": ("floods_result", {}, TOO_LARGE),
    "millions of blank lines": ("raw_frames", {"frames": ["\n"], "times": 4_000_000}, "NO_RESULT"),
    "many tiny frames": ("raw_frames", {"frames": ['{"progress":0}\n'], "times": 200_000}, "NO_RESULT"),
    "millions of bad lines": ("raw_frames", {"frames": ["0\n"], "times": 4_000_000}, INVALID),
}


@pytest.mark.parametrize(("agent", "input", "code"), FLOODS.values(), ids=FLOODS)
def test_flood_of_frames_ends_with_its_cause_while_others_go_on(
    server: RunningServer, agent: str, input: dict[str, Any], code: str
) -> None:
    flood = server.submit(agent, **input)
    server.wait_for(flood, "RUNNING", "FAILED")
    assert server.run("ok")["status"] == "COMPLETED"
    assert cause(server.wait_for_end(flood)) == code


# -- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_seen_while_the_agent_runs(server: RunningServer) -> None:
    execution_id = server.submit("raw_frames", frames=['{"progress": {"step": 1}}\n'], hang=3600)
    wait_until(lambda: server.wait_for(execution_id, "RUNNING")["progress"] == {"step": 1})
    server.cancel(execution_id)
    assert server.wait_for_end(execution_id)["progress"] == {"step": 1}


def progress_events(server: RunningServer, execution: dict[str, Any]) -> int:
    """Return how many values the database has kept; there is no other way yet to look at them."""
    its_own = "execution_seq = (SELECT seq FROM executions WHERE id = ?)"
    query = f"SELECT count(*) FROM events WHERE kind = 'progress' AND {its_own}"
    with closing(sqlite3.connect(f"file:{server.data}/corral.db?mode=ro", uri=True)) as database:
        (count,) = database.execute(query, [execution["execution_id"]]).fetchone()
    return int(count)


def test_progress_flood_is_thinned_and_the_last_value_kept(server: RunningServer) -> None:
    execution = server.run("floods_progress", times=20_000)
    assert cause(execution) == OK
    assert execution["progress"] == {"number": 19_999}
    # A hundred at once, then one a second, and the last.
    assert progress_events(server, execution) <= 110


WAYS = ["a daemon thread", "a handler", "threads"]


@pytest.mark.parametrize("way", WAYS)
def test_progress_from_elsewhere_than_the_main_thread_spoils_nothing(server: RunningServer, way: str) -> None:
    execution = server.run("progress", way=way)
    assert cause(execution) == OK
    assert execution["progress"]


@pytest.mark.parametrize("value", ["set", "NaN", "surrogate"])
def test_progress_that_is_not_json_raises_in_the_agent(server: RunningServer, value: str) -> None:
    execution = server.run("progress", way="not JSON", **{"not": value})
    assert cause(execution) == "AGENT_ERROR"
    assert "context.progress({input" in execution["error_log"]
