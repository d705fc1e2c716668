"""What is known of this machine's sandboxes, found out by supervisor/machine/canary.py, and how the API is told."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Canary:
    """What came of a sandboxed run, and what else there is.

    layers: those in effect. error: why there was none, in words; else None. unset_ceilings: names in /proc/sys/user of
    what the sandbox should be kept from having much of, but could not. strict_lacks: what the tier "strict" needs and
    this machine lacks, {need: why} (runner/strict.py). accepted: those needs that the operator does without.
    """

    layers: tuple[str, ...] = ()
    error: str | None = None
    unset_ceilings: tuple[str, ...] = ()
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

    @property
    def limits(self) -> str:
        """Return "enforced" if the kernel holds a whole run to its limits, "soft" if only each of its processes."""
        return "enforced" if "cgroup" in self.layers else "soft"


class Bulletin:
    """A file that the supervisor replaces when it learns something, and that the threads of the API look at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], Canary] | None = None

    def publish(self, canary: Canary) -> None:
        """Have every reader find this from now on. Raises OSError."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(canary)))
        fresh.replace(self._path)

    def canary(self) -> Canary:
        """Return what was published last. If that cannot be read there are no sandboxes, for all that is known."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._read
            if known is None or known[0] != stamp:
                found = json.loads(self._path.read_text())
                lists = {name: tuple(found[name]) for name in ("layers", "unset_ceilings", "accepted")}
                self._read = known = (stamp, Canary(**{**found, **lists}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return Canary(error=f"cannot read {self._path.name}: {error}")
        return known[1]
