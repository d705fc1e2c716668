"""Not repeating at once what has just been waited for in vain."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from supervisor.clock import Clock
from supervisor.errors import StoreBusy

# As long as clients are told to wait before they try again.
_SECONDS = 1.0


class Breaker:
    """Refuses at once for a while after an attempt that was refused for want of a turn.

    Each thread that waits for one is missing elsewhere: without this, requests that wait in vain one after the other
    would keep all others from being answered, for as long as the lock lasts.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused_until = -math.inf
        self._reason = ""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Do it, or do not. One thread at a time. Raises StoreBusy: it was tried a moment ago."""
        if self._clock.monotonic() < self._refused_until:
            raise StoreBusy(self._reason)
        try:
            yield
        except StoreBusy as error:
            self._reason = str(error)
            self._refused_until = self._clock.monotonic() + _SECONDS
            raise
