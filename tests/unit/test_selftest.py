"""How the selftest judges, and what it sees from outside."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.selftest import remains
from supervisor.selftest.checks import Evidence
from supervisor.selftest.examination import Verdict, judge
from supervisor.selftest.hostile import agent
from supervisor.selftest.probes import AFTERWARDS, ORDINARY, PROBES, Probe
from supervisor.selftest.traps import Traps
from tests.helpers.wait import wait_until

MARK = "0123456789ab"
BY_NAME = {probe.name: probe for probe in PROBES}
ALL = [*PROBES, ORDINARY]


def ended(code: str, attempts: dict[str, str] | None = None, missing: tuple[str, ...] = ()) -> dict[str, object]:
    """Return an execution as the API shows it."""
    return {
        "termination": {"code": code, "message": "So it was."},
        "final_result": {"attempts": attempts} if attempts is not None else None,
        "isolation": {"missing": list(missing)},
    }


def verdict(probe: Probe, evidence: Evidence) -> Verdict:
    return judge(probe, evidence).verdict


def test_each_probe_has_its_function_and_each_function_its_probe() -> None:
    assert set(agent.PROBES) == {probe.name for probe in ALL}
    assert len(ALL) == len(set(agent.PROBES))


@pytest.mark.parametrize(
    "execution",
    [
        {},
        {"status": "RUNNING", "termination": None, "final_result": None, "isolation": None},
        ended("EXITED_OK", {}),
        ended("EXITED_OK", {"one thing": "escaped"}),
        ended("EXITED_OK", {"one thing": "EPERM", "another": "escaped"}),
        ended("LOST"),
        ended("AGENT_ERROR"),
        ended("SANDBOX_UNAVAILABLE"),
    ],
    ids=["unknown", "never ended", "tried nothing", "got through", "got through once", "lost", "failed", "not run"],
)
def test_no_probe_that_did_not_end_as_expected_is_contained(execution: dict[str, object]) -> None:
    for probe in ALL:
        found = judge(probe, Evidence(execution))
        assert found.verdict is Verdict.NOT_CONTAINED, probe.name
        assert found.observed, probe.name


def as_expected(probe: Probe) -> dict[str, object]:
    """Return an execution that ended as the probe is expected to; the code or outcome is found by trying."""
    outcomes = ("done", "ENOENT", "nobody", "nothing", "ECONNREFUSED", "EAFNOSUPPORT", "EPERM", "EAGAIN", "ENOSPC")
    codes = ("CANCELED", "MEMORY", "CPU_TIME", "WALL_TIME", "RESULT_TOO_LARGE", "RESULT_INVALID", "NO_RESULT")
    executions = [ended("EXITED_OK", {"it": outcome}) for outcome in (*outcomes, "EMFILE", "ValueError", "EROFS")]
    executions += [ended(code) for code in codes]
    return next(found for found in executions if verdict(probe, Evidence(found)) is Verdict.CONTAINED)


def test_each_probe_that_ended_as_expected_is_contained_unless_it_was_seen_to_get_out() -> None:
    out: list[dict[str, Any]] = [
        {"seen_alive": False},
        {"survivors": (7,)},
        {"sprung": frozenset({"the canary"})},
        {"server_fault": "it has ended by itself"},
    ]
    for probe in ALL:
        execution = as_expected(probe)
        assert verdict(probe, Evidence(execution, seen_alive=True)) is Verdict.CONTAINED, probe.name
        for seen in out:
            assert verdict(probe, Evidence(execution, **seen)) is Verdict.NOT_CONTAINED, (probe.name, seen)


def test_flood_that_is_kept_is_not_contained() -> None:
    execution = ended("EXITED_OK", {"print": "done"})
    assert verdict(BY_NAME["flood"], Evidence(execution, log_bytes=64 << 10)) is Verdict.CONTAINED
    assert verdict(BY_NAME["flood"], Evidence(execution, log_bytes=(64 << 10) + 1)) is Verdict.NOT_CONTAINED


def test_either_end_of_a_memory_hog_is_good() -> None:
    assert verdict(BY_NAME["memory"], Evidence(ended("MEMORY"))) is Verdict.CONTAINED
    assert verdict(BY_NAME["memory"], Evidence(ended("EXITED_OK", {"take": "MemoryError"}))) is Verdict.CONTAINED


def test_probe_without_its_layer_is_soft_or_not_enforced_and_says_why() -> None:
    probe = BY_NAME["memory_of_children"]
    held = judge(probe, Evidence(ended("MEMORY", missing=("cgroup",))))
    not_held = judge(probe, Evidence(ended("EXITED_OK", {"take": "done"}, missing=("cgroup",))))
    assert (held.verdict, not_held.verdict) == (Verdict.SOFT, Verdict.NOT_ENFORCED)
    assert "cgroup" in (held.observed or "")
    assert "cgroup" in (not_held.observed or "")


def test_missing_layer_excuses_neither_another_probe_nor_what_got_out() -> None:
    got_out = ended("EXITED_OK", {"take": "done"}, missing=("cgroup",))
    assert verdict(BY_NAME["disk"], Evidence(got_out)) is Verdict.NOT_CONTAINED
    assert verdict(BY_NAME["memory_of_children"], Evidence(got_out, survivors=(7,))) is Verdict.NOT_CONTAINED


def test_server_that_ends_badly_is_not_contained() -> None:
    assert verdict(AFTERWARDS, Evidence()) is Verdict.CONTAINED
    assert verdict(AFTERWARDS, Evidence(server_fault="exit code 1")) is Verdict.NOT_CONTAINED
    assert verdict(AFTERWARDS, Evidence(survivors=(7,))) is Verdict.NOT_CONTAINED


# -- from outside -----------------------------------------------------------------------------------------------------


@pytest.fixture
def traps() -> Iterator[Traps]:
    with Traps() as traps:
        yield traps
    assert not traps.folder.exists()


def test_nothing_is_sprung_by_what_touches_nothing(traps: Traps) -> None:
    assert traps.sprung(MARK, "some words") == frozenset()


def test_canary_tells_who_has_read_and_who_has_written_it(traps: Traps) -> None:
    canary = traps.folder / "canary"
    assert traps.sprung(MARK, f"it says {canary.read_text()}") == {"the canary, by reading"}
    with canary.open("a") as file:
        file.write(MARK)
    assert traps.sprung(MARK, "") == {"the canary, by writing"}
    assert traps.sprung("another mark", "") == frozenset()


def test_secret_that_was_told_is_sprung(traps: Traps) -> None:
    assert traps.sprung(MARK, f"x={traps.secret}") == {"the server's secret"}


def test_sockets_tell_who_has_connected(traps: Traps) -> None:
    with socket.create_connection(("127.0.0.1", traps.places["ports"][0])) as stranger:
        stranger.sendall(b"hello")
        assert traps.sprung(MARK, "") == frozenset()
    with socket.create_connection(("127.0.0.1", traps.places["ports"][0])) as client:
        client.sendall(MARK.encode())
        assert traps.sprung(MARK, "") == {"the TCP listener"}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"\0{traps.places['abstract']}")
        client.sendall(MARK.encode())
        assert traps.sprung(MARK, "") == {"the TCP listener", "the abstract Unix socket"}


def test_process_with_the_mark_is_found_wherever_it_is_and_killed() -> None:
    mark = f"t{os.getpid()}"
    name = f"import ctypes, signal; ctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0); signal.pause()"
    assert remains.find(mark) == []
    with subprocess.Popen([sys.executable, "-c", name], start_new_session=True) as process:
        wait_until(lambda: [found.pid for found in remains.find(mark)] == [process.pid])
        remains.kill(mark)
        assert process.wait(10) == -9
    assert remains.find(mark) == []
