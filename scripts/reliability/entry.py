"""What is known of one submit of a chaos run."""

from dataclasses import dataclass
from typing import Any

from scripts.reliability.mix import Kind

FINAL = {"COMPLETED", "FAILED", "CANCELED"}


@dataclass
class Entry:
    """One submit, however often it had to be sent.

    sent: how often. execution_id: None until one was acknowledged. cancel_sent, cancel_promised: a cancel was sent,
    and was answered before the end. told: the final status that the answer to a cancel has named. seen: the last
    reading.
    """

    nonce: str
    kind: Kind
    sent: int = 0
    execution_id: str | None = None
    cancel_sent: bool = False
    cancel_promised: bool = False
    told: str | None = None
    seen: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.seen is not None and self.seen["status"] in FINAL
