"""For operators."""

import sqlite3

import falcon

from supervisor import __version__
from supervisor.clock import MICROSECONDS, Clock
from supervisor.isolation import Canary


class Health:
    """GET /admin/health"""

    def __init__(self, clock: Clock, started_at: int, canary: Canary) -> None:
        self._clock = clock
        self._started_at = started_at
        self._isolation = {
            "tier": "sandboxed" if canary.healthy else "trusted",
            "effective": canary.layers,
            "degraded": canary.degraded,
            "reasons": [] if canary.healthy else [canary.error],
            "strict_lacks": canary.strict_lacks,
        }

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer without a look at the database or a process."""
        response.media = {
            "status": "ok",
            "sqlite_version": sqlite3.sqlite_version,
            "uptime_sec": max(0, (self._clock.now() - self._started_at) // MICROSECONDS),
            "version": __version__,
            "isolation": self._isolation,
        }

    on_head = on_get
