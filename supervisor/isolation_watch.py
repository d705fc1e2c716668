"""Keeps true what is published of this machine's sandboxes, for as long as the server runs."""

from collections.abc import Callable

import structlog

from supervisor.clock import Clock
from supervisor.isolation import Canary
from supervisor.machine.reactor import Reactor, Timer

# From a canary that lived to the next one, however many runs fail: their agents may be the reason.
_PAUSE_SECONDS = 10.0

# From one that died to the next.
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0

_log = structlog.get_logger()


class IsolationWatch:
    """Sends another canary when a run could not have its sandbox, and while there are none; otherwise it does nothing.

    It only tells. That a sandbox is whole is up to each run, which does not start its agent otherwise.
    """

    def __init__(
        self,
        send: Callable[[Callable[[Canary], None]], None],
        publish: Callable[[Canary], None],
        reactor: Reactor,
        clock: Clock,
    ) -> None:
        """Prepare.

        Args:
            send: has a canary run, and gives what came of it to its argument, later. publish: takes what is new.
        """
        self._send = send
        self._publish = publish
        self._reactor = reactor
        self._clock = clock
        self._known = Canary()
        self._timer: Timer | None = None
        self._flies = False
        self._is_over = False
        self._is_in_doubt = False
        self._not_before = 0.0
        self._retry_seconds = _FIRST_RETRY_SECONDS

    def start(self, canary: Canary) -> None:
        """Begin with what came of the canary at the start of the server. Raises OSError: it cannot be published."""
        self._known = canary
        self._publish(canary)
        self._plan(canary)

    def doubt(self) -> None:
        """A run could not have its sandbox."""
        self._is_in_doubt = True
        self._plan_flight()

    def stop(self) -> None:
        """Send no more."""
        self._is_over = True
        if self._timer:
            self._timer.cancel()

    def _plan_flight(self) -> None:
        if not (self._flies or self._timer or self._is_over):
            when = max(self._clock.monotonic(), self._not_before)
            self._timer = self._reactor.call_at(when, self._fly)

    def _fly(self) -> None:
        self._timer = None
        self._flies = True
        self._is_in_doubt = False
        self._send(self._on_landed)

    def _on_landed(self, canary: Canary) -> None:
        self._flies = False
        if canary != self._known:
            _log.warning("sandboxes", healthy=canary.healthy, error=canary.error, limits=canary.limits)
            self._tell(canary)
        self._plan(canary)

    def _tell(self, canary: Canary) -> None:
        try:
            self._publish(canary)
        except OSError as error:
            # It is still not what is known, so it is tried again.
            _log.error("state of sandboxes not published", error=str(error))
            self._is_in_doubt = True
        else:
            self._known = canary

    def _plan(self, canary: Canary) -> None:
        pause = _PAUSE_SECONDS
        if canary.healthy:
            self._retry_seconds = _FIRST_RETRY_SECONDS
        else:
            pause, self._retry_seconds = self._retry_seconds, min(2 * self._retry_seconds, _LONGEST_RETRY_SECONDS)
        self._not_before = self._clock.monotonic() + pause
        if self._is_in_doubt or not canary.healthy:
            self._plan_flight()
