"""For operators."""

import sqlite3
from typing import Any

import falcon

from supervisor import __version__
from supervisor.clock import MICROSECONDS, Clock, rfc3339
from supervisor.errors import StoreError
from supervisor.isolation import Bulletin, Canary
from supervisor.store import Store

# An answer about what is wrong must not itself take long.
_PATIENCE_SECONDS = 0.5

# With less room on the disk an operator should act; SQLite takes 4 MB for its log before it uses that anew.
_LITTLE_ROOM_BYTES = 16 << 20


class Health:
    """GET /admin/health"""

    def __init__(self, store: Store, clock: Clock, started_at: int, bulletin: Bulletin) -> None:
        self._store = store.impatient(_PATIENCE_SECONDS)
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
            "storage": self._storage(),
            "alerts": self._alerts(),
        }

    on_head = on_get

    def _storage(self) -> dict[str, int | None]:
        try:
            return {**self._store.file_bytes()}
        except StoreError:
            return {"database_bytes": None, "wal_bytes": None}

    def _alerts(self) -> list[dict[str, Any]]:
        return [*self._of_database(), *self._of_disk(), *self._of_runs()]

    def _of_database(self) -> list[dict[str, Any]]:
        """It is tried, not remembered: the answer is true now, and for all processes."""
        try:
            self._store.check_writing()
        except StoreError as error:
            return [{"kind": "database", "reason": str(error)}]
        return []

    def _of_disk(self) -> list[dict[str, Any]]:
        try:
            free = self._store.free_bytes()
        except OSError as error:
            return [{"kind": "disk", "reason": f"cannot look at the disk: {error}", "free_bytes": None}]
        if free >= _LITTLE_ROOM_BYTES:
            return []
        reason = "There is little room on the disk with the database; without any, nothing can be accepted or recorded."
        return [{"kind": "disk", "reason": reason, "free_bytes": free}]

    def _of_runs(self) -> list[dict[str, Any]]:
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
