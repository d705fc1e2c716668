"""Progress of one run, thinned: an agent may tell as often as it likes, the database is not filled by it."""

from collections.abc import Callable

from supervisor.clock import Clock
from supervisor.machine.reactor import Reactor, Timer

# So many are passed on at once, then one a second, always the latest.
_BURST = 100
_REFILL_SECONDS = 1.0


class ProgressGate:
    """A token bucket that keeps the latest value while it is empty."""

    def __init__(self, tell: Callable[[str, int], None], reactor: Reactor, clock: Clock) -> None:
        """Args: tell: takes each value that is passed on, with the offset that it was offered with."""
        self._tell = tell
        self._reactor = reactor
        self._clock = clock
        self._tokens = float(_BURST)
        self._filled_at = clock.monotonic()
        self._held: tuple[str, int] | None = None
        self._timer: Timer | None = None

    def offer(self, text: str, offset: int) -> None:
        """Pass a value on, or hold it until its time has come or a later one takes its place.

        Args:
            offset: of what follows the value in what its agent says.
        """
        if self._take_token():
            self._let_go()
            self._tell(text, offset)
            return
        if self._held is None:
            self._timer = self._reactor.call_at(self._filled_at + _REFILL_SECONDS, self._on_time)
        self._held = text, offset

    def end(self) -> None:
        """Pass on what is held: the run is over."""
        held = self._let_go()
        if held is not None:
            self._tell(*held)

    def _on_time(self) -> None:
        self._take_token()
        self.end()

    def _take_token(self) -> bool:
        now = self._clock.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) / _REFILL_SECONDS)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _let_go(self) -> tuple[str, int] | None:
        """Hold nothing any more; return what was held."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, None
        return held
