"""What is known of this machine's sandboxes; found out by supervisor/machine/canary.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self


@dataclass(frozen=True)
class Canary:
    """What came of a sandboxed run, and what else there is.

    layers: those in effect. error: why there was none, in words; else None. strict_lacks: what the tier "strict" needs
    and this machine lacks, {need: why} (runner/strict.py). accepted: those needs that the operator does without.
    """

    layers: tuple[str, ...] = ()
    error: str | None = None
    strict_lacks: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return self.error is None and bool(self.layers)

    @property
    def degraded(self) -> list[str]:
        """What is missing and accepted, by the names that the setting allow_degraded has for it."""
        if not self.healthy:
            return ["sandbox"]
        return [f"strict.{need}" for need in self.strict_lacks if need in self.accepted]

    def accepting(self, needs: tuple[str, ...]) -> Self:
        """Return the same for an operator who does without some needs of strict runs."""
        return replace(self, accepted=needs)

    def refusal(self, tier: str) -> str | None:
        """Return why no agent of a tier can be run on this machine, None if they can."""
        if tier == "trusted":
            return None
        if not self.healthy:
            return f"no sandbox here: {self.error}"
        lacking = {need: why for need, why in self.strict_lacks.items() if need not in self.accepted}
        if tier == "strict" and lacking:
            return "the tier strict needs " + "; ".join(f"{need}: {why}" for need, why in lacking.items())
        return None
