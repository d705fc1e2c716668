"""What the launcher holds of a run until the supervisor releases it."""

from __future__ import annotations

from runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runner.inits import Init
    from runner.profile import Profile


class Run:
    """One run that is not released yet.

    init: None before it has one, and after that has ended. kept: the reading ends of its pipes.
    work: the descriptor of its work directory, from when it is told until it is passed on with the end.
    directory: path of the work directory, if that is one of the host's. status, usage, error: what its init has told.
    out_of_memory: see runner.protocol. over: GONE has been told.
    """

    def __init__(self, name: str, profile: Profile, kept: list[int]) -> None:
        self.name = name
        self.profile = profile
        self.kept = kept
        self.work: list[int] = []
        self.init: Init | None = None
        self.status: int | None = None
        self.usage: dict[str, float] | None = None
        self.error: str | None = None
        self.out_of_memory = False
        self.directory: str | None = None
        self.over = False

    def take_place(self, message: dict[str, Any]) -> None:
        """Note where it works."""
        self.directory = message["directory"]

    def take_end(self, message: dict[str, Any]) -> None:
        """Note what the init tells of the end of the agent."""
        self.status, self.usage = message["status"], message["usage"]

    def take_leave(self) -> None:
        """Note that its init has just ended."""
        assert self.init is not None
        self.take_counts()
        self.init = None

    def take_counts(self) -> None:
        """Note what the group of its sandbox has counted; nothing of the run lives."""
        if self.init and self.init.group:
            self.out_of_memory = self.init.out_of_memory or self.init.group.was_out_of_memory()
            peak = self.init.group.peak_memory_bytes()
            if peak is not None:
                self.usage = {**(self.usage or {}), "peak_memory_bytes": peak}

    def layers_outside(self) -> list[str]:
        """Return the layers that the agent cannot see from inside."""
        return list(self.init.group.layers) if self.init and self.init.group else []

    def gone(self) -> dict[str, Any]:
        """Return the message that says how it ended. An error is one of the launch only if no agent was started."""
        self.over = True
        return {
            "event": protocol.GONE,
            "run": self.name,
            "status": self.status,
            "usage": self.usage,
            "error": self.error,
            "out_of_memory": self.out_of_memory,
        }
