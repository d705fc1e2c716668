"""Time that passes only when a test says so."""

from supervisor.clock import MICROSECONDS, Clock


class FakeClock(Clock):
    """Both clocks stand still until they are moved. It begins at 2026-01-02T03:04:05.000006Z."""

    def __init__(self) -> None:
        self._now = 1_767_323_045_000_006
        self._monotonic = 1000.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += round(seconds * MICROSECONDS)
        self._monotonic += seconds

    def set_wall(self, seconds: float) -> None:
        """Have somebody set the clock that people read, by so much."""
        self._now += round(seconds * MICROSECONDS)
