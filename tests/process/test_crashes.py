"""However an agent ends: its own execution fails with the cause, and nobody else notices."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.server import RunningServer

WORD = "a word before the end"


@pytest.fixture(autouse=True)
def bystander(server: RunningServer, gate: Gate) -> Iterator[None]:
    """Another execution runs all the while, and completes; the server's processes are the same before and after."""
    processes = (server.process.pid, server.launcher_pid, server.api_pid)
    bystander = server.submit("gated", gate=gate.path)
    server.wait_for(bystander, "RUNNING")
    yield
    assert server.get(bystander)["status"] == "RUNNING"
    gate.open()
    assert server.wait_for_end(bystander)["final_result"] == {"passed": True}
    assert (server.process.pid, server.launcher_pid, server.api_pid) == processes
    assert server.process.poll() is None


@dataclass
class End:
    """What is to be told of one way to end. error_log: its first line; parts: what is in it further down."""

    code: str
    exit_code: int | None
    signal: int | None
    error_log: str
    parts: tuple[str, ...] = (WORD,)


ENDS = {
    "segfault": End(
        "SIGNALED", None, 11, "The agent was killed by signal 11 (SIGSEGV).", (WORD, "Segmentation fault", "agent.py")
    ),
    "abort": End("SIGNALED", None, 6, "The agent was killed by signal 6 (SIGABRT)."),
    "SIGKILL": End("SIGNALED", None, 9, "The agent was killed by signal 9 (SIGKILL)."),
    "SIGTERM": End("SIGNALED", None, 15, "The agent was killed by signal 15 (SIGTERM)."),
    "SIGKILL to its group": End("SIGNALED", None, 9, "The agent was killed by signal 9 (SIGKILL)."),
    "_exit 0": End("NO_RESULT", 0, None, "The agent exited with code 0 and without a result."),
    "_exit 3": End("EXIT_NONZERO", 3, None, "The agent exited with code 3."),
    "sys.exit()": End("NO_RESULT", 0, None, "The agent exited with code 0 and without a result."),
    "sys.exit(7)": End("EXIT_NONZERO", 7, None, "The agent exited with code 7."),
    "sys.exit(text)": End("EXIT_NONZERO", 1, None, "The agent exited with code 1.", (WORD, "I have had enough")),
    "no descriptors": End("EXIT_NONZERO", 1, None, "The agent exited with code 1."),
    "no result pipe": End("EXIT_NONZERO", 1, None, "The agent exited with code 1."),
}


@pytest.mark.parametrize("how", ENDS)
def test_crash_is_a_failure_with_cause_and_the_end_of_stderr(server: RunningServer, how: str) -> None:
    end = ENDS[how]
    execution = server.run("crash", how=how)
    assert_failed(execution, end)
    assert execution["termination"]["message"] == end.error_log
    assert f"{end.error_log}\n\nThe end of its stderr:\n{WORD}\n" in execution["error_log"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a newer Python notices before its stack is full")
def test_crash_endless_recursion_without_a_limit_is_a_segfault(server: RunningServer) -> None:
    execution = server.run("crash", how="stack overflow")
    # Of the report on stderr only the end is kept.
    assert_failed(execution, replace(ENDS["segfault"], parts=("agent.py", "in __repr__")))


EXCEPTIONS = {
    "exception": ("ValueError: no such city", "raise ValueError"),
    "exception without words": ("Unspeakable: <exception str() failed>", "raise Unspeakable"),
    "recursion": ("RecursionError: maximum recursion depth exceeded", "recurse()"),
    "interrupt": ("KeyboardInterrupt", "raise KeyboardInterrupt"),
}


@pytest.mark.parametrize("how", EXCEPTIONS)
def test_crash_exception_error_log_is_the_traceback(server: RunningServer, how: str) -> None:
    error, line = EXCEPTIONS[how]
    execution = server.run("crash", how=how)
    assert_failed(execution, End("AGENT_ERROR", 1, None, "Traceback (most recent call last):", ("agent.py", line)))
    assert error in execution["error_log"].splitlines()[-1]
    assert execution["termination"]["message"].startswith("The agent failed: ")
    assert error in execution["termination"]["message"]
    assert_only_the_agents_frames(execution)


def test_crash_exception_in_import_error_log_is_the_traceback(server: RunningServer) -> None:
    execution = server.run("import_fails")
    assert_failed(execution, End("AGENT_ERROR", 1, None, "Traceback (most recent call last):", ("agent.py",)))
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in execution["error_log"]
    assert_only_the_agents_frames(execution)


def test_crash_sys_exit_in_import_is_told_with_its_text(server: RunningServer) -> None:
    execution = server.run("import_exits")
    assert_failed(execution, End("EXIT_NONZERO", 1, None, "The agent exited with code 1.", ("not configured",)))


def test_agent_without_stdout_at_its_end_completes(server: RunningServer) -> None:
    assert server.run("crash", how="no stdout")["status"] == "COMPLETED"


def test_crash_with_a_child_left_behind_kills_it_first(server: RunningServer, lifeline: Lifeline) -> None:
    execution = server.run("tree", shape="fail_and_leave_a_child", lifeline=lifeline.path)
    assert lifeline.ended()
    assert_failed(execution, End("AGENT_ERROR", 1, None, "Traceback (most recent call last):", ("no such city",)))
    assert (execution["kill"]["method"], execution["kill"]["survivors"]) == ("kill", 0)


def assert_failed(execution: dict[str, Any], end: End) -> None:
    termination = execution["termination"]
    assert execution["status"] == "FAILED"
    assert (termination["code"], termination["exit_code"], termination["signal"]) == (
        end.code,
        end.exit_code,
        end.signal,
    )
    assert execution["final_result"] is None
    assert execution["error_log"].splitlines()[0] == end.error_log
    for part in end.parts:
        assert part in execution["error_log"]
    assert execution["usage"]["wall_seconds"] > 0


def assert_only_the_agents_frames(execution: dict[str, Any]) -> None:
    files = [line for line in execution["error_log"].splitlines() if line.startswith("  File ")]
    assert files
    assert all("tests/agents/" in line for line in files)
