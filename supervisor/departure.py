"""How the server comes to its end: its runs are stopped at once, or may end before, for a while."""

from collections.abc import Callable

from supervisor import service_manager
from supervisor.clock import Clock
from supervisor.loop import Loop
from supervisor.machine.reactor import Reactor, Timer
from supervisor.settings import Settings

# From the end of the longest grace period to that of the process, and then some: the last writes and the services.
_REST_SECONDS = 15.0


class Departure:
    """Takes the wishes that the server shall end. Nothing is launched from the first one on."""

    def __init__(
        self, settings: Settings, loop: Loop, stop: Callable[[], None], reactor: Reactor, clock: Clock
    ) -> None:
        """Args: stop: stops all runs and services; called again, it leaves the runs no more time."""
        self._settings = settings
        self._loop = loop
        self._stop = stop
        self._reactor = reactor
        self._clock = clock
        self._deadline: Timer | None = None
        self.begun = False

    def on_stop_signal(self) -> None:
        """Do what the setting on_stop says for the first signal; each further one leaves less time."""
        if self._settings.on_stop == "drain" and not self.begun:
            self.drain()
        else:
            self._stop_now()

    def drain(self) -> None:
        """Let the runs end by themselves, for as long as the settings say. Once the end has begun, nothing changes."""
        if self.begun:
            return
        seconds = self._settings.drain_timeout_seconds
        self._begin(seconds)
        self._loop.drain()
        self._deadline = self._reactor.call_at(self._clock.monotonic() + seconds, self._stop_now)

    def _stop_now(self) -> None:
        if not self.begun:
            self._begin(0)
        if self._deadline:
            self._deadline.cancel()
        self._stop()

    def _begin(self, seconds: float) -> None:
        self.begun = True
        service_manager.tell_stopping(seconds + self._settings.shutdown_grace_seconds + _REST_SECONDS)
