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
        """Submit the probe; where that fails, this is the evidence.

        Args:
            mark: the name of all its processes. places: what it aims at.
        """
        self.probe = probe
        self.evidence: Evidence | None = None
        self._mark = mark
        self._client = client
        self._traps = traps
        self._execution: dict[str, Any] = {}
        self._seen_alive: bool | None = None
        try:
            self._id = client.submit(probe.name, {"probe": probe.name, "mark": mark, "places": places})
        except RequestFailed as error:
            self.evidence = Evidence(server_fault=str(error))

    def look(self, alone: bool) -> None:
        """See how far it is. Args: alone: all other probes have ended."""
        try:
            self._execution = self._client.get(self._id)
            if self._execution["status"] in FINAL:
                self._conclude()
            elif self._is_to_be_canceled(alone):
                self._seen_alive = bool(remains.find(self._mark))
                self._client.cancel(self._id)
        except RequestFailed:
            # A server that has lost its API process starts another one.
            return

    def give_up(self, server_fault: str | None) -> None:
        """Take what is known as the evidence: that it has not ended. Args: server_fault: see Evidence."""
        self.evidence = Evidence(self._execution, survivors=self._living(), server_fault=server_fault)

    def _is_to_be_canceled(self, alone: bool) -> bool:
        due = self.probe.canceled or (self.probe.accompanies and alone)
        return due and self._execution["status"] == Status.RUNNING and self._execution["progress"] is not None

    def _conclude(self) -> None:
        # First of all: an end is told when no process lives.
        survivors = self._living()
        log = self._client.log(self._id)
        self.evidence = Evidence(
            execution=self._execution,
            log_bytes=len(log.encode()),
            seen_alive=self._seen_alive,
            survivors=survivors,
            sprung=self._traps.sprung(self._mark, f"{self._execution} {log}"),
        )

    def _living(self) -> tuple[int, ...]:
        return tuple(process.pid for process in remains.find(self._mark))
