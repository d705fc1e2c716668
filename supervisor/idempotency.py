"""A client's own key for a submission: when the same one comes again, it stands for what was recorded then."""

from dataclasses import dataclass

from supervisor.clock import MICROSECONDS
from supervisor.errors import KeyReused

KEY_SECONDS = 24 * 60 * 60

# How many keys that count no more are removed for each new one. With more than one they do not pile up.
REMOVED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Once:
    """What keeps a submission that is sent again from being recorded again.

    key: the client's own, 1-255 characters. fingerprint: SHA-256 of what is asked for.
    """

    key: str
    fingerprint: bytes

    def earlier(self, found: tuple[bytes, str] | None) -> str | None:
        """Return the execution that the key stands for, None if it is new.

        Args:
            found: the fingerprint that was recorded under the key, and the execution's id.
        Raises:
            KeyReused: it stands for another request.
        """
        if found is None:
            return None
        fingerprint, execution_id = found
        if fingerprint != self.fingerprint:
            raise KeyReused(
                f"cannot use {self.key!r} again: it was sent with another request, that of execution {execution_id}"
            )
        return execution_id


def expired(now: int) -> int:
    """Return the instant up to which keys count no more. now: in microseconds, as the result."""
    return now - KEY_SECONDS * MICROSECONDS
