"""Makes the probes on a server of their own, and tells what came of each."""

import itertools
import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import get_args

from supervisor.errors import ConfigurationError, CorralError
from supervisor.manifest import Sandbox
from supervisor.selftest import interruption, remains
from supervisor.selftest.checks import Check, Evidence, leaves_nobody, spares_the_server, springs_no_trap
from supervisor.selftest.client import Client
from supervisor.selftest.private_server import PrivateServer, ServerUnusable
from supervisor.selftest.probes import AFTERWARDS, ORDINARY, PATIENCE_SECONDS, PROBES, Probe
from supervisor.selftest.traps import SECRET_NAME, Traps
from supervisor.selftest.trial import Trial
from supervisor.settings import Settings, load

TIERS: tuple[str, ...] = get_args(Sandbox.model_fields["tier"].annotation)

# Few enough for a small machine, with the bystander among them.
_SIDE_BY_SIDE = 6

_SHUTDOWN_GRACE_SECONDS = 0.5
_LOOK_SECONDS = 0.03

# Of a process's name, which has 15 bytes, these and two digits. Source: prctl(2), PR_SET_NAME.
_MARK_BYTES = 5


class SelftestImpossible(CorralError):
    """Nothing can be said about this machine: the probes could not be made."""


class Verdict(StrEnum):
    """What came of a probe."""

    CONTAINED = "contained"
    SOFT = "contained, softly"
    NOT_ENFORCED = "not enforced here"
    NOT_CONTAINED = "not contained"


@dataclass(frozen=True)
class Finding:
    """What came of one probe. observed: what spoke against it, or what its verdict rests on; None if nothing to add."""

    probe: str
    tries: str
    expected: str
    verdict: Verdict
    observed: str | None = None


def examine(tier: str, config: Path | None) -> Generator[Finding]:
    """Make all probes; yield what came of each, in the order of the table. To close it is to leave nothing behind.

    Args:
        tier: of their agents. config: the settings file, as of `corral serve`; where it listens, its folders and whom
            it trusts are the selftest's own.
    Raises:
        SelftestImpossible: nothing can be said, because the server does not start or runs not even an ordinary agent.
        SystemExit: SIGINT or SIGTERM has come.
    """
    if tier not in TIERS:
        raise SelftestImpossible(f"there is no tier {tier!r}, only {', '.join(TIERS)}")
    try:
        with interruption.held_back(), Traps() as traps:
            yield from _examine(tier, config, traps)
    except (ConfigurationError, ServerUnusable, OSError) as error:
        raise SelftestImpossible(str(error)) from error


def judge(probe: Probe, evidence: Evidence) -> Finding:
    """Return what came of a probe; pure."""
    objections = _objections(probe.checks, evidence)
    breaches = _objections((springs_no_trap, leaves_nobody, spares_the_server), evidence)
    missing = probe.layer in evidence.layers_missing
    if breaches or (objections and not missing):
        verdict = Verdict.NOT_CONTAINED
    elif missing:
        verdict = Verdict.NOT_ENFORCED if objections else Verdict.SOFT
    else:
        verdict = Verdict.CONTAINED
    notes = [f"this machine has no layer {probe.layer!r} for the server"] if missing else []
    return Finding(probe.name, probe.tries, probe.expected, verdict, "; ".join(notes + objections + breaches) or None)


def _examine(tier: str, config: Path | None, traps: Traps) -> Iterator[Finding]:
    for probe in (ORDINARY, *PROBES):
        traps.add_agent(probe.name, probe.manifest(tier))
    settings = _settings(tier, config, traps)
    mark = secrets.token_hex(_MARK_BYTES)
    try:
        with (
            PrivateServer(settings, {SECRET_NAME: traps.secret}, traps.folder / "server.log") as server,
            closing(Client(server.wait_until_ready())) as client,
        ):
            yield from _Examination(server, client, traps, mark).findings()
    finally:
        remains.kill(mark)


def _objections(checks: Iterable[Check], evidence: Evidence) -> list[str]:
    return [found for check in checks if (found := check(evidence))]


def _settings(tier: str, config: Path | None, traps: Traps) -> Settings:
    ours = {
        "host": "127.0.0.1",
        "port": 0,
        "data": traps.data,
        "agents": traps.agents,
        "max_running": _SIDE_BY_SIDE,
        "trusted_agents": ["*"] if tier == "trusted" else [],
        "allow_degraded": [],
        "shutdown_grace_seconds": _SHUTDOWN_GRACE_SECONDS,
        "orphan_timeout_seconds": 0,
    }
    return load(ours, config)


class _Examination:
    """All probes on one server."""

    def __init__(self, server: PrivateServer, client: Client, traps: Traps, mark: str) -> None:
        self._server = server
        self._client = client
        self._traps = traps
        self._marks = (f"{mark}{number:02}" for number in itertools.count())
        self._mark = mark
        self._places = {
            **traps.places,
            "server_pid": server.pid,
            "ports": [*traps.places["ports"], client.port],
        }

    def findings(self) -> Iterator[Finding]:
        """Yield what came of each probe."""
        for first in self._make((ORDINARY,)):
            if first.verdict is not Verdict.CONTAINED:
                raise SelftestImpossible(f"not even an ordinary agent completes: {first.observed}")
        yield from self._make(PROBES)
        yield from self._make((ORDINARY,))
        yield self._end()

    def _make(self, probes: Sequence[Probe]) -> Iterator[Finding]:
        """Make probes, some side by side; those that accompany the others begin first."""
        in_order = sorted(probes, key=lambda probe: not probe.accompanies)
        trials = {probe: Trial(probe, next(self._marks), self._client, self._traps, self._places) for probe in in_order}
        deadline = time.monotonic() + PATIENCE_SECONDS
        for probe in probes:
            while not (evidence := trials[probe].evidence):
                self._look([trial for trial in trials.values() if not trial.evidence], deadline)
            yield judge(probe, evidence)

    def _look(self, waiting: list[Trial], deadline: float) -> None:
        for trial in waiting[:_SIDE_BY_SIDE]:
            trial.look(alone=len(waiting) == 1)
        fault = "it has ended by itself" if self._server.has_ended() else None
        if fault or time.monotonic() > deadline:
            for trial in waiting:
                trial.give_up(fault)
        interruption.wait(_LOOK_SECONDS)

    def _end(self) -> Finding:
        fault = self._server.stop()
        survivors = tuple(process.pid for process in remains.find(self._mark))
        return judge(AFTERWARDS, Evidence(server_fault=fault, survivors=survivors))
