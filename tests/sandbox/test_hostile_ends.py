"""How hostile agents end, or are ended: each once, for its own cause, and with nobody left."""

import math
import os
from typing import Any

import pytest

from tests.helpers.server import RunningServer
from tests.helpers.siege import assert_nothing_is_left, attack, begin, end, submit
from tests.helpers.wait import patience, wait_until


@pytest.fixture
def server(besieged: RunningServer) -> RunningServer:
    return besieged


def code(execution: dict[str, Any]) -> str:
    return str(execution["termination"]["code"])


# -- by itself --------------------------------------------------------------------------------------------------------

# Attack, what it is given, the cause, and exit code or signal.
ENDS: dict[str, tuple[str, list[Any], str, int]] = {
    "no result": ("exit_at_once", [0], "NO_RESULT", 0),
    "exit code": ("exit_at_once", [9], "EXIT_NONZERO", 9),
    "result closed": ("close_the_result", [], "NO_RESULT", 0),
    "SystemExit(3)": ("leave", [3], "EXIT_NONZERO", 3),
    "SystemExit(text)": ("leave", ["x"], "EXIT_NONZERO", 1),
    "segfault": ("read_at_zero", [], "SIGNALED", -11),
    "abort": ("abort", [], "SIGNALED", -6),
    "SIGKILL": ("kill_itself", [], "SIGNALED", -9),
    "streams closed": ("close_all", [], "EXITED_OK", 0),
    "much that prolongs it": ("linger", [], "EXITED_OK", 0),
    "a daemon that holds its pipes": ("detach", [], "EXITED_OK", 0),
}


def test_each_way_to_end_is_told_as_what_it_was(server: RunningServer) -> None:
    ids = {name: submit(server, how, *arguments) for name, (how, arguments, _, _) in ENDS.items()}
    told = {}
    for name, execution_id in ids.items():
        execution = server.wait_for_end(execution_id)
        termination = execution["termination"]
        number = termination["exit_code"] if termination["signal"] is None else -termination["signal"]
        told[name] = (termination["code"], number)
        # Nobody waited for what was left: the agent's timeout is twice that.
        assert execution["usage"]["wall_seconds"] < patience(10), name
    assert told == {name: (cause, number) for name, (_, _, cause, number) in ENDS.items()}
    assert "Segmentation fault" in server.get(ids["segfault"])["error_log"]
    assert_nothing_is_left(server)


def test_crash_leaves_no_image_of_the_process(server: RunningServer) -> None:
    assert attack(server, "dump_core") == [6, False, []]


@pytest.mark.parametrize("name", ["recurse", "recurse_in_c"])
def test_recursion_without_end_is_its_own_end_only(server: RunningServer, name: str) -> None:
    recursing = submit(server, name, agent="brief")
    assert server.run("ok")["status"] == "COMPLETED"
    execution = server.wait_for_end(recursing)
    assert code(execution) in ("SIGNALED", "AGENT_ERROR", "EXIT_NONZERO", "MEMORY", "WALL_TIME"), execution
    assert len(execution["error_log"]) <= 64 << 10
    assert_nothing_is_left(server)


# -- at its timeout ---------------------------------------------------------------------------------------------------

ENDLESS: dict[str, tuple[str, list[Any]]] = {
    "fork bomb": ("fork_bomb", []),
    "stops itself": ("stop_itself", []),
    "ignores every signal": ("ignore_everything", []),
    "hops": ("hop", []),
    "spins": ("spin_in_threads", []),
    "error without end": ("raise_what_has_no_end", []),
    "half a result": ("say", [[['{"result": {"a"', 1]], "hang"]),
    "flood of stderr": ("flood", [2, 20, "hang"]),
}


def test_what_has_no_end_gets_one_at_its_timeout(server: RunningServer) -> None:
    ids = {name: submit(server, how, *arguments, agent="brief") for name, (how, arguments) in ENDLESS.items()}
    ids["exit handler of a command"] = server.submit("command_without_end")
    codes = {name: code(server.wait_for_end(execution_id)) for name, execution_id in ids.items()}
    # The one that forks and exits has given no result when its first process has ended.
    assert codes == {**dict.fromkeys(ids, "WALL_TIME"), "hops": "NO_RESULT"}
    assert_nothing_is_left(server)


def test_what_attacks_when_it_is_imported_does_so_in_its_sandbox_and_its_time(server: RunningServer) -> None:
    ids = [server.submit(name) for name in ("import_spins", "import_forks", "import_exits_at_once")]
    executions = [server.wait_for_end(execution_id) for execution_id in ids]
    assert [code(execution) for execution in executions] == ["WALL_TIME", "WALL_TIME", "NO_RESULT"]
    assert {execution["isolation"]["tier"] for execution in executions} == {"sandboxed"}
    assert_nothing_is_left(server)


def test_server_answers_while_agents_take_every_core(server: RunningServer) -> None:
    spinning = [begin(server, "spin_in_threads") for _ in range(2)]
    for _ in range(10):
        assert server.http.get("/admin/health", timeout=patience(5)).json()["status"] == "ok"
    assert server.run("ok")["status"] == "COMPLETED"
    assert [code(end(server, execution_id)) for execution_id in spinning] == ["CANCELED"] * 2


# -- by a cancel ------------------------------------------------------------------------------------------------------


def test_signals_of_every_kind_do_not_move_process_1(server: RunningServer) -> None:
    # Root's init may serve again, and is another user than its agent.
    assert attack(server, "endure", 1500) in (["done"], ["EPERM"])


@pytest.mark.parametrize(
    ("name", "arguments", "processes"),
    [
        ("stopped_tree", [20], 20),
        pytest.param(
            *("wait_in_vfork", [], 2),
            marks=pytest.mark.skipif(os.uname().machine != "x86_64", reason="the code is that of x86_64"),
        ),
    ],
)
def test_processes_that_take_no_signal_are_killed(
    server: RunningServer, name: str, arguments: list[Any], processes: int
) -> None:
    execution_id = begin(server, name, *arguments)
    wait_until(lambda: len(server.runs()) == processes)
    assert code(end(server, execution_id)) == "CANCELED"
    assert_nothing_is_left(server)


# That many die in a second or two, and in less than the ten after which a server complains.
CROWD = math.ceil(1000 / patience(1))


def test_crowd_that_replaces_its_dead_is_killed_to_the_last(server: RunningServer) -> None:
    execution_id = server.submit("crowded", attack="crowd", **{"with": [CROWD]})
    wait_until(lambda: server.get(execution_id)["progress"], 60)
    assert len(server.runs()) == CROWD
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id, 60)
    assert (code(execution), execution["kill"]["survivors"]) == ("CANCELED", 0)
    assert_nothing_is_left(server)
