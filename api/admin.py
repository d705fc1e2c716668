"""For operators."""

import sqlite3
from typing import Any

import falcon

from supervisor import __version__
from supervisor.clock import MICROSECONDS, Clock, rfc3339
from supervisor.errors import StoreError
from supervisor.isolation import Bulletin, Canary
from supervisor.store import Store


class Health:
    """GET /admin/health"""

    def __init__(self, store: Store, clock: Clock, started_at: int, bulletin: Bulletin) -> None:
        self._store = store
        self._clock = clock
        self._started_at = started_at
        self._bulletin = bulletin

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer whatever is wrong; what is, is in the answer."""
        response.media = {
            "status": "ok",
            "sqlite_version": sqlite3.sqlite_version,
            "uptime_sec": max(0, (self._clock.now() - self._started_at) // MICROSECONDS),
            "version": __version__,
            "isolation": _isolation(self._bulletin.canary()),
            "alerts": self._alerts(),
        }

    on_head = on_get

    def _alerts(self) -> list[dict[str, Any]]:
        try:
            stuck = self._store.unkillable()
        except StoreError as error:
            return [{"kind": "database", "reason": str(error)}]
        return [
            {"kind": "unkillable", "execution_id": execution_id, "since": rfc3339(since)}
            for execution_id, since in stuck
        ]


def _isolation(canary: Canary) -> dict[str, Any]:
    return {
        "tier": "sandboxed" if canary.healthy else "trusted",
        "effective": canary.layers,
        "limits": canary.limits,
        "degraded": canary.degraded,
        "reasons": [] if canary.healthy else [canary.error],
        "strict_lacks": canary.strict_lacks,
    }
