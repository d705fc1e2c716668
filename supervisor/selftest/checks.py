"""What must hold of a probe that has ended. A check returns what speaks against it, None if nothing does; pure."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supervisor.states import Cause


@dataclass(frozen=True)
class Evidence:
    """What is known of a probe that has ended, from inside and from outside.

    execution: as the API shows it. log_bytes: what was kept of its stdout. seen_alive: its processes were seen from
    outside while it ran; None if nobody looked. survivors: pids of its processes that lived when its end was told.
    sprung: names of the traps that it set off. server_fault: what is wrong with the server, if anything is.
    """

    execution: dict[str, Any] = field(default_factory=dict)
    log_bytes: int = 0
    seen_alive: bool | None = None
    survivors: tuple[int, ...] = ()
    sprung: frozenset[str] = frozenset()
    server_fault: str | None = None

    @property
    def code(self) -> str | None:
        return (self.execution.get("termination") or {}).get("code")

    @property
    def attempts(self) -> dict[str, str]:
        """What the agent says that it tried, and what came of it."""
        return (self.execution.get("final_result") or {}).get("attempts") or {}

    @property
    def layers_missing(self) -> list[str]:
        return (self.execution.get("isolation") or {}).get("missing") or []


Check = Callable[[Evidence], str | None]


def attempts_end_in(*outcomes: str) -> Check:
    """It completed, and all that it tried came to one of these outcomes."""

    def check(evidence: Evidence) -> str | None:
        if not evidence.attempts:
            return _instead(evidence)
        others = [f"{what}: {came}" for what, came in evidence.attempts.items() if came not in outcomes]
        return "; ".join(others) or None

    return check


def ends_as(cause: Cause) -> Check:
    """It ended for this cause."""
    return lambda evidence: None if evidence.code == cause else _instead(evidence)


def either(first: Check, second: Check) -> Check:
    """One of two checks holds; what is told is what the second has against it."""
    return lambda evidence: first(evidence) and second(evidence)


def logs_at_most(limit: int) -> Check:
    """No more than this many bytes of its stdout were kept."""
    return lambda evidence: f"{evidence.log_bytes} bytes of log were kept" if evidence.log_bytes > limit else None


def spares_the_server(evidence: Evidence) -> str | None:
    """Nothing was wrong with the server."""
    return evidence.server_fault and f"the server: {evidence.server_fault}"


def springs_no_trap(evidence: Evidence) -> str | None:
    """Nothing that only an agent out of its sandbox could have reached was reached."""
    return f"reached: {', '.join(sorted(evidence.sprung))}" if evidence.sprung else None


def leaves_nobody(evidence: Evidence) -> str | None:
    """No process of it lived when its end was told; and where it was looked for before, it was found."""
    if evidence.survivors:
        return f"processes live on: {', '.join(map(str, evidence.survivors))}"
    if evidence.seen_alive is False:
        return "its processes could not be seen from outside while it ran, so nobody can tell that they are gone"
    return None


def _instead(evidence: Evidence) -> str:
    termination = evidence.execution.get("termination") or {}
    return f"it ended as {termination.get('code', 'nothing')}: {termination.get('message', 'no end was seen')}"
