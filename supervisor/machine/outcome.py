"""From what was seen of an attempt to exactly one outcome; pure."""

import os
import signal
from dataclasses import dataclass

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
    out_of_memory: the kernel has killed some of its tree because of the memory limit.
    lost: the launcher died. launch_error: why the agent could not be started. status: the agent's wait status.
    result, error, fault: see frames.ResultChannel. stop: why the run was stopped, None if nobody stopped it.
    done_before_stop: the whole result had been read before the first signal. limits: the agent's, by name.
    """

    at: int
    usage: Usage
    isolation: Isolation
    limits: dict[str, int | None]
    isolated: bool
    stderr_tail: str
    out_of_memory: bool = False
    lost: bool = False
    launch_error: str | None = None
    status: int | None = None
    result: str | None = None
    error: tuple[str, str] | None = None
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


def _reason(ending: Ending) -> Reason:
    """Return the first cause that applies: what was done to the run, then how it died, then what it said."""
    if ending.lost:
        return _LAUNCHER_DIED
    if ending.launch_error:
        cause = Cause.LAUNCH_FAILED if ending.isolated else Cause.SANDBOX_UNAVAILABLE
        return Reason(cause, f"The agent could not be started: {ending.launch_error}.", "host")
    if ending.stop:
        done = ending.done_before_stop and ending.result is not None
        return _OK if done and ending.stop.code in _TOO_LATE_TO_MATTER else ending.stop
    if ending.out_of_memory and ending.status != 0:
        return _out_of_memory(ending)
    if ending.status is None:
        return _INIT_DIED
    if os.WIFSIGNALED(ending.status):
        return _death(os.WTERMSIG(ending.status), ending)
    if ending.error:
        return Reason(Cause.AGENT_ERROR, f"The agent failed: {ending.error[0]}", "agent")
    code = os.WEXITSTATUS(ending.status)
    if code:
        return Reason(Cause.EXIT_NONZERO, f"The agent exited with code {code}.", "agent")
    if ending.fault:
        return ending.fault
    return _OK if ending.result is not None else _NO_RESULT


def _out_of_memory(ending: Ending) -> Reason:
    limit = ending.limits["memory_bytes"]
    observed = ending.usage.peak_memory_bytes
    return Reason(
        Cause.MEMORY,
        f"The agent and its processes used more than their limit of {limit} bytes of memory.",
        "limit",
        {"memory_bytes": limit} if limit else None,
        {"peak_memory_bytes": observed} if observed else None,
    )


def _death(number: int, ending: Ending) -> Reason:
    """Return why a signal ended the agent. Beyond the CPU limit it may have ignored SIGXCPU and then got SIGKILL."""
    cpu_limit = ending.limits.get("cpu_seconds")
    cpu_used = (ending.usage.user_cpu_seconds or 0) + (ending.usage.system_cpu_seconds or 0)
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu_limit and cpu_used >= cpu_limit):
        return Reason(
            Cause.CPU_TIME,
            f"The agent used more than its limit of {cpu_limit} seconds of CPU time.",
            "limit",
            {"cpu_seconds": cpu_limit} if cpu_limit else None,
            {"cpu_seconds": round(cpu_used, 3)},
        )
    if number == signal.SIGXFSZ:
        limit = ending.limits.get("file_size_bytes")
        message = f"The agent wrote a file larger than its limit of {limit} bytes."
        return Reason(Cause.FILE_SIZE, message, "limit", {"file_size_bytes": limit} if limit is not None else None)
    return Reason(Cause.SIGNALED, f"The agent was killed by signal {number} ({_signal_name(number)}).", "agent")


def _error_log(reason: Reason, ending: Ending) -> str:
    """Return what a person needs: the traceback of an exception, else the cause and the end of stderr."""
    if reason.code is Cause.AGENT_ERROR and ending.error:
        return ending.error[1]
    if not ending.stderr_tail.strip():
        return reason.message
    return f"{reason.message}\n\nThe end of its stderr:\n{ending.stderr_tail}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"
