"""The records that travel between the API, the store, the loop and the machine. All are immutable."""

import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

from supervisor.limits import Limits
from supervisor.states import FINAL, Cause, Status


def new_execution_id() -> str:
    """Return a UUID that sorts by the time it was made.

    Source: RFC 9562, section 5.7 (version 7).
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks for, validated and ready to be recorded.

    payload: JSON text of an object. limits: the agent's at the time, lowered to what the client asks for.
    """

    execution_id: str
    agent_id: str
    agent_name: str
    priority: int
    payload: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Termination:
    """Why an execution ended.

    message: one sentence for a person. exit_code, signal: of the agent's process, at most one is set. limit, observed:
    the limit that was hit and the measured value, {name with unit: number}. by: who ended it: "agent", "client",
    "limit", "server" or "host". at: instant in microseconds.
    """

    code: Cause
    message: str
    by: str
    at: int
    exit_code: int | None = None
    signal: int | None = None
    limit: dict[str, float] | None = None
    observed: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the whole process tree used. peak_memory_bytes: all its memory at its peak, where its control group
    has counted that; else the resident size of its largest process, at its peak.
    """

    wall_seconds: float
    user_cpu_seconds: float | None = None
    system_cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Kill:
    """Proof of what stopping a process tree took.

    method: the strongest means that was used: "terminate" or "kill". signaled, killed: number of processes that were
    sent SIGTERM and SIGKILL. survivors: processes known to be alive at the end. duration_ms: from the first signal to
    the proof. verified_empty_at: instant in microseconds at which nothing of the tree lived.
    """

    method: str
    signaled: int
    killed: int
    survivors: int
    duration_ms: float
    verified_empty_at: int


@dataclass(frozen=True, slots=True)
class Isolation:
    """Which layers were really on. tier: the name of the profile; effective, missing: names of layers."""

    tier: str
    effective: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    usage, isolation: None if no one can say. result: JSON text, only with a completion. error_log: what a person needs
    to know, only without one. kill: only if something had to be stopped. may_live: something of it may still live.
    """

    termination: Termination
    usage: Usage | None = None
    isolation: Isolation | None = None
    result: str | None = None
    error_log: str | None = None
    kill: Kill | None = None
    may_live: bool = False

    @property
    def completed(self) -> bool:
        return self.termination.code is Cause.EXITED_OK


@dataclass(frozen=True, slots=True)
class Origin:
    """Who runs an attempt: the machine, that machine's boot, and the start of the supervisor that launched it."""

    node: str
    boot: str
    epoch: str


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """An attempt that is running or being stopped, as the database has it.

    launcher: that was to launch it, None if an older version has recorded it. progress_offset: see Progress, of the
    last one that was recorded. unkillable_since: see Unkillable.
    """

    execution_id: str
    attempt: int
    status: Status
    origin: Origin
    launcher: str | None
    progress_offset: int
    unkillable_since: int | None

    @property
    def key(self) -> tuple[str, int]:
        return self.execution_id, self.attempt


@dataclass(frozen=True, slots=True)
class Claim:
    """An execution that has just become RUNNING and is to be launched.

    limits: those of its submission, by name; none if that was recorded by a version without them.
    """

    execution_id: str
    attempt: int
    agent_id: str
    payload: str
    limits: dict[str, float]


@dataclass(frozen=True, slots=True)
class Progress:
    """The agent told how far it is. data: JSON text. offset: of what follows it in what the agent says."""

    execution_id: str
    attempt: int
    data: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Unkillable:
    """Some of an attempt's process tree outlives SIGKILL. since: instant in microseconds at which that was said."""

    execution_id: str
    attempt: int
    since: int


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt has ended and nothing of its process tree lives."""

    execution_id: str
    attempt: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution as the store has it; instants in microseconds, JSON as text.

    limits: those of its last attempt, before that those of its submission. not_before: it waits until then for another
    attempt. attempts: JSON text of a list, see docs/api.md; its instants are in microseconds.
    """

    execution_id: str
    agent_id: str
    agent_name: str
    status: Status
    priority: int
    payload: str
    final_result: str | None
    error_log: str | None
    attempt: int
    created_at: int
    started_at: int | None
    completed_at: int | None
    progress: str | None
    termination: str | None
    usage: str | None
    kill: str | None
    isolation: str | None
    limits: str | None
    unkillable_since: int | None
    not_before: int | None
    attempts: str

    @property
    def ended(self) -> bool:
        return self.status in FINAL

    def has_ended(self, attempt: int) -> bool:
        """Tell whether an attempt that it has had is over; 0 for before the first one."""
        return self.ended or attempt < self.attempt or (self.status is Status.PENDING and attempt > 0)


Record = Termination | Usage | Kill | Isolation | Origin


def as_record(value: Record) -> dict[str, Any]:
    """Return a dataclass as the JSON object that is stored and shown."""
    return {name: getattr(value, name) for name in value.__slots__}
