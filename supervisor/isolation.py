"""What is known of this machine's sandboxes; found out by supervisor/machine/canary.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Canary:
    """What came of a sandboxed run. layers: those in effect. error: why there was none, in words; else None."""

    layers: tuple[str, ...] = ()
    error: str | None = None

    @property
    def healthy(self) -> bool:
        return self.error is None and bool(self.layers)
