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
    directory: path of the work directory, if that is one of the host's. status, usage, left_behind, error: what its
    init has told. counted: see runner.protocol. over: GONE has been told.
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
        self.left_behind = 0
        self.counted: dict[str, int] = {}
        self.directory: str | None = None
        self.over = False

    def take_place(self, message: dict[str, Any]) -> None:
        """Note where it works."""
        self.directory = message["directory"]

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

    def isolated(self, layers: list[str]) -> dict[str, Any]:
        """Return the message that says that its sandbox is in effect. Args: layers: those that are seen from inside."""
        message = {"event": protocol.ISOLATED, "run": self.name, "layers": layers, "cpu_file": None}
        group = self.init.group if self.init else None
        if group:
            message.update(layers=layers + group.layers, cpu_file=group.cpu_file)
        return message

    def gone(self) -> dict[str, Any]:
        """Return the message that says how it ended. An error is one of the launch only if no agent was started."""
        self.over = True
        return {
            "event": protocol.GONE,
            "run": self.name,
            "status": self.status,
            "usage": self.usage,
            "error": self.error,
            "left_behind": self.left_behind,
            "counted": self.counted,
        }
