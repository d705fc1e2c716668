"""One probe under way: submitted, looked at, canceled if that is part of it, and at its end the evidence."""

from typing import Any

from supervisor.selftest import remains
from supervisor.selftest.checks import Evidence
from supervisor.selftest.client import Client, RequestFailed
from supervisor.selftest.probes import Probe
from supervisor.selftest.traps import Traps
from supervisor.states import FINAL, Status


class Trial:
    """evidence: None until the probe has ended."""

    def __init__(self, probe: Probe, mark: str, client: Client, traps: Traps, places: dict[str, Any]) -> None:
        """Prepare; the first look() submits it. Args: mark: the name of all its processes. places: what it aims at."""
        self.evidence: Evidence | None = None
        self._probe = probe
        self._mark = mark
        self._client = client
        self._traps = traps
        self._places = places
        self._id: str | None = None
        self._execution: dict[str, Any] = {}
        self._seen_alive: bool | None = None

    def look(self, alone: bool) -> None:
        """Take it a step further if it is time. Args: alone: all other probes have ended."""
        if self._id is None:
            self._submit()
            return
        try:
            self._execution = self._client.get(self._id)
            if self._execution["status"] in FINAL:
                self._conclude(self._id)
            elif self._is_to_be_canceled(alone):
                self._seen_alive = bool(remains.find(self._mark))
                self._client.cancel(self._id)
        except RequestFailed:
            # A server that has lost its API process starts another one.
            return

    def give_up(self, server_fault: str | None) -> None:
        """Take what is known as the evidence: that it was not seen to end. Args: server_fault: see Evidence."""
        self.evidence = Evidence(self._execution, survivors=self._living(), server_fault=server_fault)

    def _submit(self) -> None:
        name = self._probe.name
        try:
            self._id = self._client.submit(name, {"probe": name, "mark": self._mark, "places": self._places})
        except RequestFailed as error:
            self.give_up(str(error))

    def _is_to_be_canceled(self, alone: bool) -> bool:
        due = self._probe.canceled or (self._probe.accompanies and alone)
        return due and self._execution["status"] == Status.RUNNING and self._execution["progress"] is not None

    def _conclude(self, execution_id: str) -> None:
        # First of all: an end is told when no process lives.
        survivors = self._living()
        log = self._client.log(execution_id)
        self.evidence = Evidence(
            execution=self._execution,
            log_bytes=len(log.encode()),
            seen_alive=self._seen_alive,
            survivors=survivors,
            sprung=self._traps.sprung(self._mark, f"{self._execution} {log}"),
        )

    def _living(self) -> tuple[int, ...]:
        return tuple(process.pid for process in remains.find(self._mark))
