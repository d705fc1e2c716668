"""What a supervisor has the launcher keep of a run for the next supervisor.

Every agent may find it in its own memory, which begins as a copy of the launcher's: so neither the payload nor the
environment is in it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from supervisor.agents import Agent
from supervisor.limits import Limits
from supervisor.machine.stopper import Reason
from supervisor.models import Claim
from supervisor.states import Cause


@dataclass(frozen=True, slots=True)
class Memo:
    """One attempt as it was launched: the agent's manifest may be another by the time somebody else takes over.

    began: when it was launched, in seconds of this boot's monotonic clock. stop: why it is being stopped, None if it is
    not. done_before_stop: its whole result had been read before the first signal.
    """

    execution_id: str
    attempt: int
    agent_id: str
    concurrency: int | None
    tier: str
    result: str
    grace_seconds: float
    limits: Limits
    began: float
    stop: Reason | None = None
    done_before_stop: bool = False

    @classmethod
    def of(cls, claim: Claim, agent: Agent, began: float) -> Self:
        """Return that of an attempt that is going to be launched now."""
        manifest = agent.manifest
        return cls(
            *(claim.execution_id, claim.attempt, agent.id, manifest.concurrency, manifest.sandbox.tier),
            *(manifest.result, manifest.grace_seconds, agent.limits, began),
        )

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """Return what to_json() was made from."""
        stop = kept["stop"]
        reason = Reason(**{**stop, "code": Cause(stop["code"])}) if stop else None
        return cls(**{**kept, "limits": Limits.model_validate(kept["limits"]), "stop": reason})

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        kept = {name: getattr(self, name) for name in self.__slots__}
        return {**kept, "limits": self.limits.model_dump(), "stop": asdict(self.stop) if self.stop else None}

    @property
    def key(self) -> tuple[str, int]:
        return self.execution_id, self.attempt

    @property
    def name(self) -> str:
        """What the launcher calls the run."""
        return f"{self.execution_id}.{self.attempt}"

    def stopped(self, reason: Reason, done: bool) -> Self:
        """Return that of the same attempt when it is going to be stopped."""
        return replace(self, stop=reason, done_before_stop=done)
