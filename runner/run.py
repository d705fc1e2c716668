"""What the launcher holds of a run until the supervisor releases it."""

from __future__ import annotations

import time

from runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runner.inits import Init
    from runner.profile import Profile


# Whatever kills inits may kill several at once, also such as are given a run meanwhile.
_CHANCES = 8


class Run:
    """One run that is not released yet.

    init: None before it has one, and after that has ended. memo, kept: see runner.protocol, LAUNCH and KEPT_ENDS.
    limits, agent_ends: what its init is given; the descriptors are held until its agent may have been started: should
    the init die before, another one can be given the run. chances: how often that may still be done.
    purpose: see inits.Idle.take().
    work: the descriptor of its work directory, from when it is told on.
    directory: path of the work directory, if that is one of the host's. status, usage, left_behind, error: what its
    init has told. counted: see runner.protocol. over: GONE is among its events.
    """

    def __init__(self, message: dict[str, Any], profile: Profile, descriptors: list[int]) -> None:
        """Args: message: a LAUNCH. descriptors: those that came with it; owned by the run from now on."""
        self.name: str = message["run"]
        self.memo: dict[str, Any] = message["memo"]
        self.profile = profile
        self.limits: dict[str, float] = message["limits"]
        self.agent_ends = descriptors[: len(protocol.AGENT_ENDS)]
        self.kept = descriptors[len(protocol.AGENT_ENDS) :]
        self.chances = _CHANCES
        self.purpose: dict[str, Any] | None = None
        self.work: list[int] = []
        self.init: Init | None = None
        self.status: int | None = None
        self.usage: dict[str, float] | None = None
        self.error: str | None = None
        self.left_behind = 0
        self.counted: dict[str, int] = {}
        self.directory: str | None = None
        self.over = False
        self._events: list[dict[str, Any]] = []

    def take_place(self, message: dict[str, Any]) -> None:
        """Note where it works."""
        self.directory = message["directory"]

    def close_agent_ends(self) -> None:
        """Note that its agent may have been started, or never will be: it is given to no other init."""
        protocol.close_all(self.agent_ends)
        self.agent_ends = []

    def may_begin_again(self) -> bool:
        """Tell, a few times, that its init has ended before the agent was started, and nothing says that none can."""
        if not self.agent_ends or self.error or self.status is not None or self.counted.get("killed_for_memory"):
            return False
        if not self.chances:
            self.error = "its init has died"
            return False
        self.chances -= 1
        protocol.close_all(self.work)
        self.work.clear()
        return True

    def take_end(self, message: dict[str, Any]) -> None:
        """Note what the init tells of the end of the agent."""
        self.status, self.usage = message["status"], message["usage"]
        self.left_behind = message.get("left_behind", 0)

    def take_leave(self) -> None:
        """Note that its init has just ended."""
        assert self.init is not None
        self.take_counts()
        self.init = None

    def take_counts(self) -> None:
        """Note what the group of its sandbox has counted; nothing of the run lives."""
        assert self.init is not None
        group = self.init.group
        if group:
            self.counted = group.counted()
            # The kernel counts nobody as killed when this process was quicker.
            self.counted["killed_for_memory"] += self.init.out_of_memory
            # Its init, killed, tells nothing of the time used; of memory this is more than that could tell.
            usage = self.usage or group.cpu_times()
            peak = group.peak_memory_bytes()
            self.usage = usage if peak is None else {**usage, "peak_memory_bytes": peak}

    def started(self) -> tuple[dict[str, Any], list[int]]:
        """Return the event that says which init it has, and its descriptors, which stay the init's."""
        assert self.init is not None
        handles = [handle for handle in (self.init.pidfd, self.init.kill_switch) if handle is not None]
        return {"event": protocol.STARTED, "run": self.name, "pid": self.init.pid}, handles

    def isolated(self, layers: list[str]) -> dict[str, Any]:
        """Return the event that says that its sandbox is in effect. Args: layers: those that are seen from inside."""
        message = {"event": protocol.ISOLATED, "run": self.name, "layers": layers, "cpu_file": None}
        group = self.init.group if self.init else None
        if group:
            message.update(layers=layers + group.layers, cpu_file=group.cpu_file)
        self._events.append(message)
        return message

    def exited(self) -> dict[str, Any]:
        """Return the event that says that its agent has ended, and others live."""
        message = {"event": protocol.EXITED, "run": self.name}
        self._events.append(message)
        return message

    def gone(self) -> dict[str, Any]:
        """Return the event that says how it ended. An error is one of the launch only if no agent was started."""
        self.over = True
        self.close_agent_ends()
        message = {
            "event": protocol.GONE,
            "run": self.name,
            "status": self.status,
            "usage": self.usage,
            "error": self.error,
            "left_behind": self.left_behind,
            "counted": self.counted,
            "at": time.monotonic(),
        }
        self._events.append(message)
        return message

    def history(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Yield, for a supervisor that has just come, all that is to be said of it; the descriptors stay the run's."""
        before = self.init.cpu_seconds_before() if self.init else 0.0
        yield {"event": protocol.HELD, "run": self.name, "memo": self.memo, "cpu_seconds_before": before}, self.kept
        if self.init:
            yield self.started()
        for event in self._events:
            yield event, self.work if event["event"] == protocol.GONE else []

    def close(self) -> None:
        """Close what is held for it; when it is released."""
        protocol.close_all((*self.kept, *self.work))
