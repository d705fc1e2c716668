"""The two clocks: one for instants that people read, one for durations; replaced together in tests."""

import time
from datetime import UTC, datetime

MICROSECONDS = 1_000_000


class Clock:
    """The machine's clocks."""

    def now(self) -> int:
        """Return the instant in microseconds since the epoch, UTC. It may jump."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Return seconds on a clock that never jumps; only differences mean anything."""
        return time.monotonic()


def rfc3339(instant: int | None) -> str | None:
    """Return an instant in microseconds as text, e.g. "2026-01-02T03:04:05.678901Z"; None stays None.

    Source: RFC 3339.
    """
    if instant is None:
        return None
    moment = datetime.fromtimestamp(instant // MICROSECONDS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{instant % MICROSECONDS:06d}Z"
