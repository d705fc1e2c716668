"""From what was seen of an attempt to exactly one outcome."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.machine.outcome import Ending, decide, launch_failed, lost
from supervisor.machine.stopper import Reason
from supervisor.models import Isolation, Kill, Usage
from supervisor.states import Cause
from tests.unit.builders import AT, ISOLATION

CANCELED = Reason(Cause.CANCELED, "It was canceled.", "client")
STOPPED = Reason(Cause.STOPPED, "The server was stopped.", "server")
WALL_TIME = Reason(Cause.WALL_TIME, "It ran too long.", "limit", {"timeout_seconds": 1}, {"wall_seconds": 1.5})
USAGE = Usage(1.5, 0.25, 0.125, 4096)
KILL = Kill("kill", 2, 1, 0, 12.5, AT)
FAULT = Reason(Cause.RESULT_INVALID, "The result is not valid: it is null.", "agent")
ERROR = ("ValueError: no", "Traceback:\nValueError: no\n")


def exited(code: int) -> int:
    """Return the wait status of a process that has exited."""
    return code << 8


def an_ending(**seen: Any) -> Ending:
    limits = {"cpu_seconds": None, "file_size_bytes": None}
    fields = {"usage": USAGE, "limits": limits, "isolation": ISOLATION, "isolated": True, "stderr_tail": "", **seen}
    return Ending(at=AT, **fields)


# What can be seen together, the strongest cause first: each one overrules all that follow it.
PRECEDENCE: list[tuple[dict[str, Any], Cause]] = [
    ({"lost": True}, Cause.LOST),
    ({"launch_error": "no such file", "isolated": False}, Cause.SANDBOX_UNAVAILABLE),
    ({"launch_error": "no such file"}, Cause.LAUNCH_FAILED),
    ({"stop": WALL_TIME}, Cause.WALL_TIME),
    ({"status": signal.SIGSEGV}, Cause.SIGNALED),
    ({"error": ERROR}, Cause.AGENT_ERROR),
    ({"status": exited(3)}, Cause.EXIT_NONZERO),
    ({"fault": FAULT}, Cause.RESULT_INVALID),
    ({"result": "{}"}, Cause.EXITED_OK),
    ({"status": exited(0)}, Cause.NO_RESULT),
]


def all_from(strongest: int) -> dict[str, Any]:
    """Return everything of PRECEDENCE from one entry on; of two wait statuses, the stronger one."""
    seen: dict[str, Any] = {}
    for facts, _ in PRECEDENCE[strongest:]:
        seen = {**facts, **seen}
    return seen


@pytest.mark.parametrize("strongest", range(len(PRECEDENCE)), ids=[cause for _, cause in PRECEDENCE])
def test_decide_several_causes_the_strongest_wins(strongest: int) -> None:
    assert decide(an_ending(**all_from(strongest))).termination.code is PRECEDENCE[strongest][1]


WORDS = [
    ({"lost": True}, "server", "The launcher died, and the run with it; how far it came is not known."),
    ({"launch_error": "no such file"}, "host", "The agent could not be started: no such file."),
    ({"stop": CANCELED}, "client", "It was canceled."),
    ({}, "host", "The run's init process was killed; how the agent ended is not known."),
    ({"status": signal.SIGSEGV}, "agent", "The agent was killed by signal 11 (SIGSEGV)."),
    ({"status": 40}, "agent", "The agent was killed by signal 40 (a real-time signal)."),
    ({"status": exited(1), "error": ERROR}, "agent", "The agent failed: ValueError: no"),
    ({"status": exited(3)}, "agent", "The agent exited with code 3."),
    ({"status": exited(0), "fault": FAULT}, "agent", "The result is not valid: it is null."),
    ({"status": exited(0)}, "agent", "The agent exited with code 0 and without a result."),
    ({"status": exited(0), "result": "{}"}, "agent", "The agent gave its result and exited."),
]


@pytest.mark.parametrize(("seen", "by", "message"), WORDS)
def test_decide_cause_is_told_in_words_and_who_did_it(seen: dict[str, Any], by: str, message: str) -> None:
    termination = decide(an_ending(**seen)).termination
    assert (termination.by, termination.message, termination.at) == (by, message, AT)


def test_decide_init_killed_is_lost() -> None:
    assert decide(an_ending()).termination.code is Cause.LOST


@pytest.mark.parametrize(
    ("status", "exit_code", "number"),
    [(None, None, None), (exited(0), 0, None), (exited(255), 255, None), (9, None, 9), (11 | 0x80, None, 11)],
)
def test_decide_wait_status_becomes_exit_code_or_signal(
    status: int | None, exit_code: int | None, number: int | None
) -> None:
    termination = decide(an_ending(status=status)).termination
    assert (termination.exit_code, termination.signal) == (exit_code, number)


def test_decide_launch_error_has_no_exit_code_because_the_agent_had_none() -> None:
    termination = decide(an_ending(status=exited(1), launch_error="no such file")).termination
    assert (termination.exit_code, termination.signal) == (None, None)


def test_decide_stop_by_a_limit_keeps_limit_and_observed_and_how_the_agent_died() -> None:
    termination = decide(an_ending(stop=WALL_TIME, status=signal.SIGTERM)).termination
    assert (termination.limit, termination.observed) == ({"timeout_seconds": 1}, {"wall_seconds": 1.5})
    assert termination.signal == signal.SIGTERM


def test_decide_any_end_keeps_what_was_measured() -> None:
    outcome = decide(an_ending(stop=CANCELED, kill=KILL))
    assert (outcome.usage, outcome.isolation, outcome.kill) == (USAGE, ISOLATION, KILL)


# -- a result that was there before the stop --------------------------------------------------------------------------

TOO_LATE = [(CANCELED, Cause.EXITED_OK), (STOPPED, Cause.EXITED_OK), (WALL_TIME, Cause.WALL_TIME)]


@pytest.mark.parametrize(("stop", "cause"), TOO_LATE)
def test_decide_result_before_the_stop_overrules_client_and_server_but_no_limit(stop: Reason, cause: Cause) -> None:
    outcome = decide(an_ending(stop=stop, done_before_stop=True, result='{"a":1}', status=signal.SIGKILL))
    assert outcome.termination.code is cause
    assert outcome.result == ('{"a":1}' if cause is Cause.EXITED_OK else None)


@pytest.mark.parametrize("stop", [CANCELED, STOPPED, WALL_TIME])
def test_decide_result_read_after_the_stop_does_not_count(stop: Reason) -> None:
    outcome = decide(an_ending(stop=stop, result="{}", status=exited(0)))
    assert (outcome.termination.code, outcome.result) == (stop.code, None)


def test_decide_result_that_something_followed_after_the_stop_does_not_count() -> None:
    outcome = decide(an_ending(stop=CANCELED, done_before_stop=True, result=None, fault=FAULT, status=exited(0)))
    assert outcome.termination.code is Cause.CANCELED


# -- limits that the kernel enforces ----------------------------------------------------------------------------------


def cpu_time(seconds: float) -> Usage:
    return Usage(wall_seconds=60, user_cpu_seconds=seconds - 0.5, system_cpu_seconds=0.5)


CPU = [
    (signal.SIGXCPU, 2, cpu_time(2.01), Cause.CPU_TIME),
    (signal.SIGXCPU, 2, cpu_time(1.0), Cause.SIGNALED),
    (signal.SIGXCPU, None, cpu_time(1000), Cause.SIGNALED),
    (signal.SIGKILL, 2, cpu_time(2.01), Cause.CPU_TIME),
    (signal.SIGKILL, 2, cpu_time(2.0), Cause.CPU_TIME),
    (signal.SIGKILL, 2, cpu_time(1.99), Cause.SIGNALED),
    (signal.SIGKILL, None, cpu_time(1000), Cause.SIGNALED),
    (signal.SIGKILL, 2, Usage(60), Cause.SIGNALED),
    (signal.SIGTERM, 2, cpu_time(5), Cause.CPU_TIME),
    (exited(1), 2, cpu_time(5), Cause.CPU_TIME),
    (exited(0), 2, cpu_time(5), Cause.CPU_TIME),
    (exited(1), 2, cpu_time(1.99), Cause.EXIT_NONZERO),
]


@pytest.mark.parametrize(("status", "limit", "usage", "cause"), CPU)
def test_decide_signal_and_cpu_time_used_tell_a_cpu_limit(
    status: int, limit: int | None, usage: Usage, cause: Cause
) -> None:
    outcome = decide(an_ending(status=status, usage=usage, limits={"cpu_seconds": limit}))
    assert outcome.termination.code is cause


def test_decide_cpu_limit_tells_limit_and_use() -> None:
    ending = an_ending(status=signal.SIGXCPU, usage=cpu_time(2.0125), limits={"cpu_seconds": 2})
    termination = decide(ending).termination
    assert termination.message == "The agent and its processes used more than their limit of 2 seconds of CPU time."
    assert termination.by == "limit"
    assert (termination.limit, termination.observed) == ({"cpu_seconds": 2}, {"cpu_seconds": 2.013})


def test_decide_file_size_signal_tells_the_limit() -> None:
    termination = decide(an_ending(status=signal.SIGXFSZ, limits={"file_size_bytes": 0})).termination
    assert (termination.code, termination.by) == (Cause.FILE_SIZE, "limit")
    assert termination.message == "The agent wrote a file larger than its limit of 0 bytes."
    assert termination.limit == {"file_size_bytes": 0}


# Each row: what was seen besides, how the agent ended, and what of it is told.
GROUPED = Isolation("sandboxed", ("session", "cgroup"), ())
HIT = {"killed_for_memory": 1, "memory_limit_hits": 1, "refused_processes": 0}
KILLED_BY_THE_HOST = {**HIT, "memory_limit_hits": 0}
REFUSED = {"killed_for_memory": 0, "memory_limit_hits": 0, "refused_processes": 2}
LIMITS = {"cpu_seconds": 2, "memory_bytes": 1000, "processes": 8, "file_size_bytes": 10}

MEMORY = ("limit", {"memory_bytes": 1000}, {"peak_memory_bytes": 4096})
HOST = ("host", None, {"peak_memory_bytes": 4096})
FILE = ("limit", {"file_size_bytes": 10}, None)
PROCESSES = ("limit", {"processes": 8}, {"refused_processes": 2})
THERE = ("limit", {"processes": 8}, {"processes": 8})

ENDS: dict[str, dict[str, Any]] = {
    "init killed": {"status": None},
    "killed": {"status": signal.SIGKILL},
    "aborted": {"status": signal.SIGABRT},
    "exception": {"status": exited(1), "error": ERROR},
    "exit 3": {"status": exited(3)},
    "no result": {"status": exited(0)},
    "broken rule": {"status": exited(0), "fault": FAULT},
    "result": {"status": exited(0), "result": "{}"},
    "not launched": {"status": exited(1), "launch_error": "no such file"},
    "canceled": {"status": signal.SIGTERM, "stop": CANCELED},
    "launcher died": {"lost": True},
}
FAILURES = {"killed", "aborted", "exception", "exit 3"}

BEHIND: list[tuple[dict[str, Any], set[str], Cause, tuple[Any, Any, Any]]] = [
    ({"counted": HIT, "isolation": GROUPED}, FAILURES | {"no result", "init killed"}, Cause.MEMORY, MEMORY),
    (
        {"counted": KILLED_BY_THE_HOST, "isolation": GROUPED},
        FAILURES | {"no result", "init killed"},
        Cause.MEMORY,
        HOST,
    ),
    ({"exhausted": "memory_bytes"}, {"exception"}, Cause.MEMORY, MEMORY),
    ({"exhausted": "memory_bytes", "isolation": GROUPED}, set(), Cause.MEMORY, MEMORY),
    ({"exhausted": "file_size_bytes"}, {"exception"}, Cause.FILE_SIZE, FILE),
    ({"exhausted": "file_size_bytes", "limits": {}}, set(), Cause.FILE_SIZE, FILE),
    ({"exhausted": "disk_bytes"}, set(), Cause.FILE_SIZE, FILE),
    ({"counted": REFUSED, "isolation": GROUPED}, FAILURES, Cause.PROCESSES, PROCESSES),
    ({"left_behind": 7, "isolation": GROUPED}, set(), Cause.PROCESSES, THERE),
    ({"left_behind": 7}, FAILURES - {"exception"}, Cause.PROCESSES, THERE),
    ({"left_behind": 7, "exhausted": "processes"}, FAILURES, Cause.PROCESSES, THERE),
    ({"left_behind": 6, "exhausted": "processes"}, set(), Cause.PROCESSES, THERE),
    ({"left_behind": 0, "limits": {**LIMITS, "processes": 1}}, set(), Cause.PROCESSES, THERE),
    ({"left_behind": 7, "limits": {}}, set(), Cause.PROCESSES, THERE),
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(("seen", "explained", "cause", "told"), BEHIND)
def test_decide_limit_explains_the_failures_that_it_can_bring_about_and_no_other_end(
    seen: dict[str, Any], explained: set[str], cause: Cause, told: tuple[Any, Any, Any], end: str
) -> None:
    termination = decide(an_ending(**{"limits": LIMITS, **ENDS[end], **seen})).termination
    unexplained = decide(an_ending(**{"limits": LIMITS, **ENDS[end]})).termination
    if end in explained:
        assert (termination.code, (termination.by, termination.limit, termination.observed)) == (cause, told)
    else:
        assert termination == unexplained
        assert termination.code is not cause


def test_decide_signal_of_a_file_limit_that_nobody_set_is_a_signal() -> None:
    termination = decide(an_ending(status=signal.SIGXFSZ, limits={"file_size_bytes": None})).termination
    assert (termination.code, termination.limit) == (Cause.SIGNALED, None)


def test_decide_several_limits_are_behind_it_the_surest_is_told() -> None:
    """A kill that was counted, then time that was measured, then what the agent says, then what was refused once."""
    seen: dict[str, Any] = {"status": exited(1), "error": ERROR, "limits": LIMITS, "isolation": GROUPED}
    seen |= {"counted": {**HIT, "refused_processes": 1}, "usage": cpu_time(5), "exhausted": "file_size_bytes"}
    found = [decide(an_ending(**seen)).termination.code]
    seen["counted"] = REFUSED
    found.append(decide(an_ending(**seen)).termination.code)
    seen["usage"] = cpu_time(1)
    found.append(decide(an_ending(**seen)).termination.code)
    seen["exhausted"] = ""
    found.append(decide(an_ending(**seen)).termination.code)
    assert found == [Cause.MEMORY, Cause.CPU_TIME, Cause.FILE_SIZE, Cause.PROCESSES]


# -- the error log ----------------------------------------------------------------------------------------------------


def test_decide_completed_has_no_error_log_whatever_was_on_stderr() -> None:
    assert decide(an_ending(status=0, result="{}", stderr_tail="warning")).error_log is None


def test_decide_exception_error_log_is_the_traceback() -> None:
    assert decide(an_ending(status=exited(1), error=ERROR, stderr_tail="noise")).error_log == ERROR[1]


def test_decide_exception_before_a_stop_error_log_is_about_the_stop() -> None:
    assert decide(an_ending(status=exited(1), error=ERROR, stop=CANCELED)).error_log == "It was canceled."


def test_decide_limit_behind_an_exception_error_log_is_the_limit_and_the_traceback() -> None:
    outcome = decide(an_ending(status=exited(1), error=ERROR, exhausted="memory_bytes", limits=LIMITS))
    assert outcome.error_log == f"{outcome.termination.message}\n\n{ERROR[1]}"


def test_decide_limit_behind_an_exit_code_error_log_is_the_limit_and_stderr() -> None:
    outcome = decide(an_ending(status=exited(3), left_behind=7, limits=LIMITS, stderr_tail="sh: cannot fork\n"))
    assert outcome.error_log == f"{outcome.termination.message}\n\nThe end of its stderr:\nsh: cannot fork\n"


@pytest.mark.parametrize("stderr", ["", " \n"])
def test_decide_failure_without_stderr_error_log_is_the_message(stderr: str) -> None:
    assert decide(an_ending(status=exited(3), stderr_tail=stderr)).error_log == "The agent exited with code 3."


def test_decide_failure_with_stderr_error_log_is_message_and_stderr() -> None:
    error_log = decide(an_ending(status=exited(3), stderr_tail="sh: oops\n")).error_log
    assert error_log == "The agent exited with code 3.\n\nThe end of its stderr:\nsh: oops\n"


def everything_that_can_be_seen() -> Iterator[dict[str, Any]]:
    for facts, _ in PRECEDENCE:
        for more, _ in PRECEDENCE:
            yield {**facts, **more}


def test_decide_always_gives_either_result_or_error_log() -> None:
    for seen in everything_that_can_be_seen():
        outcome = decide(an_ending(**seen))
        assert outcome.completed == (outcome.result is not None) == (outcome.error_log is None)


# -- ends that nobody saw ---------------------------------------------------------------------------------------------


def test_launch_failed_why_is_in_message_and_error_log() -> None:
    outcome = launch_failed("it is gone", AT)
    assert outcome.termination.code is Cause.LAUNCH_FAILED
    assert outcome.termination.message == outcome.error_log == "The agent could not be started: it is gone."
    assert (outcome.usage, outcome.isolation, outcome.completed) == (None, None, False)


def test_lost_why_is_message_and_error_log() -> None:
    outcome = lost("Nobody knows.", AT)
    assert (outcome.termination.code, outcome.termination.by) == (Cause.LOST, "server")
    assert outcome.termination.message == outcome.error_log == "Nobody knows."
