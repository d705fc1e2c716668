"""For whoever watches the server or shares out requests: is it there, and can it be given work."""

from collections.abc import Iterator
from pathlib import Path

import falcon

from supervisor.control import STATE, conversation
from supervisor.errors import StoreError, SupervisorSilent
from supervisor.store import Store

# A supervisor that lives answers in milliseconds, and whoever asks us has little time too.
_PATIENCE_SECONDS = 1.0

_RETRY_AFTER_SECONDS = 1


class Liveness:
    """GET /livez"""

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer, which is all that is asked for."""
        response.media = {"status": "ok"}

    on_head = on_get


class Readiness:
    """GET /readyz"""

    def __init__(self, store: Store, data: Path) -> None:
        self._store = store
        self._data = data

    def on_get(self, _request: falcon.Request, response: falcon.Response) -> None:
        """Answer 200 if what is submitted now is recorded and run, else 503 with all that stands against it."""
        reasons = "; ".join([*self._of_database(), *self._of_supervisor()])
        if reasons:
            raise falcon.HTTPServiceUnavailable(
                description=f"cannot be given work: {reasons}", retry_after=_RETRY_AFTER_SECONDS
            )
        response.media = {"status": "ready"}

    on_head = on_get

    def _of_database(self) -> Iterator[str]:
        try:
            self._store.check_writing()
        except StoreError as error:
            yield str(error)

    def _of_supervisor(self) -> Iterator[str]:
        try:
            with conversation(self._data, _PATIENCE_SECONDS) as supervisor:
                state = supervisor.ask(STATE)
        except SupervisorSilent as error:
            yield str(error)
            return
        if state["draining"]:
            yield "the server is about to end"
        if not state["launcher"]:
            yield "the launcher is not there"
        if not state["recording"]:
            yield "the supervisor cannot write to the database"
