"""What the launcher holds of a run until the supervisor releases it."""

from __future__ import annotations

from runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runner.inits import Init
    from runner.profile import Profile


# Whatever kills inits may kill several at once, also such as are given a run meanwhile.
_CHANCES = 8


class Run:
    """One run that is not released yet.

    init: None before it has one, and after that has ended. kept: the reading ends of its pipes.
    limits, agent_ends: what its init is given; the descriptors are held until its agent may have been started: should
    the init die before, another one can be given the run. chances: how often that may still be done.
    purpose: see inits.Idle.take().
    work: the descriptor of its work directory, from when it is told until it is passed on with the end.
    directory: path of the work directory, if that is one of the host's. status, usage, left_behind, error: what its
    init has told. counted: see runner.protocol. over: GONE has been told.
    """

    def __init__(self, name: str, profile: Profile, limits: dict[str, float], descriptors: list[int]) -> None:
        """Args: descriptors: in the order of protocol.DESCRIPTORS; owned by the run from now on."""
        self.name = name
        self.profile = profile
        self.limits = limits
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
        self.close_agent_ends()
        return {
            "event": protocol.GONE,
            "run": self.name,
            "status": self.status,
            "usage": self.usage,
            "error": self.error,
            "left_behind": self.left_behind,
            "counted": self.counted,
        }
