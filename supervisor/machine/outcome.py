"""From what was seen of an attempt to exactly one outcome; pure."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.machine.stopper import Reason
from supervisor.models import Isolation, Kill, Outcome, Termination, Usage
from supervisor.states import Cause

_LAUNCHER_DIED = Reason(Cause.LOST, "The launcher died, and the run with it; how far it came is not known.", "server")
_INIT_DIED = Reason(Cause.LOST, "The run's init process was killed; how the agent ended is not known.", "host")
_OK = Reason(Cause.EXITED_OK, "The agent gave its result and exited.", "agent")
_NO_RESULT = Reason(Cause.NO_RESULT, "The agent exited with code 0 and without a result.", "agent")

# Ends that a result which was read whole before the first signal overrules: the work was done when somebody stopped it.
_TOO_LATE_TO_MATTER = frozenset({Cause.CANCELED, Cause.STOPPED})


@dataclass(frozen=True, slots=True)
class Ending:
    """What was seen of an attempt when nothing of it lives.

    isolated: every layer of its tier was in effect before the agent was to start.
    counted, left_behind: see runner.protocol.
    lost: the launcher died. launch_error: why the agent could not be started. status: the agent's wait status.
    result, error, exhausted, fault: see frames.ResultChannel. stop: why the run was stopped, None if nobody stopped it.
    done_before_stop: the whole result had been read before the first signal. limits: the agent's, by name.
    """

    at: int
    usage: Usage
    isolation: Isolation
    limits: dict[str, float | None]
    isolated: bool
    stderr_tail: str
    counted: dict[str, int] = field(default_factory=dict)
    left_behind: int = 0
    lost: bool = False
    launch_error: str | None = None
    status: int | None = None
    result: str | None = None
    error: tuple[str, str] | None = None
    exhausted: str | None = None
    fault: Reason | None = None
    stop: Reason | None = None
    done_before_stop: bool = False
    kill: Kill | None = None


def decide(ending: Ending) -> Outcome:
    """Return the one outcome of an attempt."""
    reason = _reason(ending)
    completed = reason.code is Cause.EXITED_OK
    # With a launch error it is the status of our own process that could not become the agent.
    status = None if ending.launch_error else ending.status
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return Outcome(
        termination=Termination(
            code=reason.code,
            message=reason.message,
            by=reason.by,
            at=ending.at,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            limit=reason.limit,
            observed=reason.observed,
        ),
        usage=ending.usage,
        isolation=ending.isolation,
        result=ending.result if completed else None,
        error_log=None if completed else _error_log(reason, ending),
        kill=ending.kill,
    )


def launch_failed(why: str, at: int) -> Outcome:
    """Return the outcome of an attempt of which nothing was started. Args: why: without a full stop."""
    message = f"The agent could not be started: {why}."
    return Outcome(Termination(Cause.LAUNCH_FAILED, message, "host", at), error_log=message)


def lost(why: str, at: int) -> Outcome:
    """Return the outcome of an attempt that nobody saw end. Args: why: a sentence."""
    return Outcome(Termination(Cause.LOST, why, "server", at), error_log=why)


def over_cpu_time(limit: float, used: float) -> Reason:
    """Return the reason to stop a tree that has used too much CPU time. Args: both in seconds."""
    message = f"The agent and its processes used more than their limit of {limit:g} seconds of CPU time."
    return Reason(Cause.CPU_TIME, message, "limit", {"cpu_seconds": limit}, {"cpu_seconds": round(used, 3)})


def over_wall_time(limit: float, used: float) -> Reason:
    """Return the reason to stop a tree that has run too long. Args: both in seconds."""
    message = f"It ran longer than its limit of {limit:g} seconds."
    return Reason(Cause.WALL_TIME, message, "limit", {"timeout_seconds": limit}, {"wall_seconds": used})


def over_memory(limit: float, used: int | None) -> Reason:
    """Return the reason to stop a tree that has used too much memory. Args: both in bytes; used: None if unknown."""
    message = f"The agent and its processes used more than their limit of {limit} bytes of memory."
    return Reason(Cause.MEMORY, message, "limit", {"memory_bytes": limit}, _peak(used))


# -- what became of it, as it was seen --------------------------------------------------------------------------------


def _reason(ending: Ending) -> Reason:
    """Return the first cause that applies, or the limit that explains it."""
    seen = next(filter(None, (cause(ending) for cause in _CAUSES)))
    behind = (limit(ending) for limit, explained in _LIMITS if seen.code in explained)
    return next(filter(None, behind), seen)


def _launcher_died(ending: Ending) -> Reason | None:
    return _LAUNCHER_DIED if ending.lost else None


def _not_launched(ending: Ending) -> Reason | None:
    if not ending.launch_error:
        return None
    cause = Cause.LAUNCH_FAILED if ending.isolated else Cause.SANDBOX_UNAVAILABLE
    return Reason(cause, f"The agent could not be started: {ending.launch_error}.", "host")


def _stopped(ending: Ending) -> Reason | None:
    done = ending.done_before_stop and ending.result is not None
    return _OK if done and ending.stop and ending.stop.code in _TOO_LATE_TO_MATTER else ending.stop


def _init_died(ending: Ending) -> Reason | None:
    return _INIT_DIED if ending.status is None else None


def _signaled(ending: Ending) -> Reason | None:
    number = _signal(ending)
    if number is None:
        return None
    return Reason(Cause.SIGNALED, f"The agent was killed by signal {number} ({_signal_name(number)}).", "agent")


def _raised(ending: Ending) -> Reason | None:
    return Reason(Cause.AGENT_ERROR, f"The agent failed: {ending.error[0]}", "agent") if ending.error else None


def _exited_nonzero(ending: Ending) -> Reason | None:
    code = os.WEXITSTATUS(ending.status or 0)
    return Reason(Cause.EXIT_NONZERO, f"The agent exited with code {code}.", "agent") if code else None


def _broke_the_rules(ending: Ending) -> Reason | None:
    return ending.fault


def _exited(ending: Ending) -> Reason:
    return _OK if ending.result is not None else _NO_RESULT


# What was done to the run, then how it died, then what it said; each overrules all that follow.
_CAUSES: tuple[Callable[[Ending], Reason | None], ...] = (
    _launcher_died,
    _not_launched,
    _stopped,
    _init_died,
    _signaled,
    _raised,
    _exited_nonzero,
    _broke_the_rules,
    _exited,
)


# -- the limits that may be behind it ---------------------------------------------------------------------------------


def _killed_for_memory(ending: Ending) -> Reason | None:
    if ending.lost or not ending.counted.get("killed_for_memory"):
        return None
    if ending.counted["memory_limit_hits"]:
        return over_memory(ending.limits["memory_bytes"] or 0, ending.usage.peak_memory_bytes)
    message = (
        "The kernel killed the agent or one of its processes: the host has no more memory. Its own limit was not hit."
    )
    return Reason(Cause.MEMORY, message, "host", None, _peak(ending.usage.peak_memory_bytes))


def _used_its_cpu_time(ending: Ending) -> Reason | None:
    limit = ending.limits.get("cpu_seconds")
    used = (ending.usage.user_cpu_seconds or 0) + (ending.usage.system_cpu_seconds or 0)
    return over_cpu_time(limit, used) if limit and used >= limit else None


def _got_no_memory(ending: Ending) -> Reason | None:
    """With a control group nothing is refused for the limit's sake: then it has asked for more than there can be."""
    limit = ending.limits.get("memory_bytes")
    if ending.exhausted != "memory_bytes" or not limit or "cgroup" in ending.isolation.effective:
        return None
    message = f"The agent got no more memory: its limit is {limit} bytes for each process."
    return Reason(Cause.MEMORY, message, "limit", {"memory_bytes": limit}, _peak(ending.usage.peak_memory_bytes))


def _told_of_its_file_by_a_signal(ending: Ending) -> Reason | None:
    return _over_file_size(ending) if _signal(ending) == signal.SIGXFSZ else None


def _told_of_its_file_by_an_error(ending: Ending) -> Reason | None:
    return _over_file_size(ending) if ending.exhausted == "file_size_bytes" else None


def _over_file_size(ending: Ending) -> Reason | None:
    limit = ending.limits.get("file_size_bytes")
    if limit is None:  # it is the host's
        return None
    message = f"The agent wrote a file larger than its limit of {limit} bytes."
    return Reason(Cause.FILE_SIZE, message, "limit", {"file_size_bytes": limit})


def _got_no_process(ending: Ending) -> Reason | None:
    limit = ending.limits.get("processes")
    refused = ending.counted.get("refused_processes", 0)
    if not limit or not (refused or _was_full(limit, ending)):
        return None
    message = f"The agent failed when it had as many processes and threads as its limit allows: {limit}."
    observed: dict[str, float] = {"refused_processes": refused} if refused else {"processes": ending.left_behind + 1}
    return Reason(Cause.PROCESSES, message, "limit", {"processes": limit}, observed)


def _was_full(limit: float, ending: Ending) -> bool:
    """Tell it where nobody counts refusals, by who was there when the agent ended; its exception must agree."""
    if "cgroup" in ending.isolation.effective or (ending.error and ending.exhausted != "processes"):
        return False
    return ending.left_behind > 0 and ending.left_behind + 1 >= limit


_FAILED = frozenset({Cause.SIGNALED, Cause.AGENT_ERROR, Cause.EXIT_NONZERO})

# Each limit with the ends that it can explain: those to which an agent comes by itself. An agent that gave its result
# has come through, whatever it met on the way.
_LIMITS: tuple[tuple[Callable[[Ending], Reason | None], frozenset[Cause]], ...] = (
    (_killed_for_memory, _FAILED | {Cause.NO_RESULT, Cause.LOST}),
    (_used_its_cpu_time, _FAILED | {Cause.NO_RESULT}),
    (_got_no_memory, frozenset({Cause.AGENT_ERROR})),
    (_told_of_its_file_by_a_signal, frozenset({Cause.SIGNALED})),
    (_told_of_its_file_by_an_error, frozenset({Cause.AGENT_ERROR})),
    (_got_no_process, _FAILED),
)


def _signal(ending: Ending) -> int | None:
    status = ending.status
    return os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None


def _peak(memory_bytes: int | None) -> dict[str, float] | None:
    return {"peak_memory_bytes": memory_bytes} if memory_bytes else None


# -- the error log ----------------------------------------------------------------------------------------------------


def _error_log(reason: Reason, ending: Ending) -> str:
    """Return what a person needs: the cause, unless the agent tells it itself, then its exception or its stderr."""
    if ending.error and reason.code in _TOLD_BY_AN_ERROR:
        traceback = ending.error[1]
        return traceback if reason.code is Cause.AGENT_ERROR else f"{reason.message}\n\n{traceback}"
    if not ending.stderr_tail.strip():
        return reason.message
    return f"{reason.message}\n\nThe end of its stderr:\n{ending.stderr_tail}"


# Ends to which an exception of the agent's belongs.
_TOLD_BY_AN_ERROR = frozenset({Cause.AGENT_ERROR, Cause.MEMORY, Cause.CPU_TIME, Cause.FILE_SIZE, Cause.PROCESSES})


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
