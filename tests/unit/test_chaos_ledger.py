"""The ledger of a chaos run tells of each broken promise, and of none that was kept."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scripts.reliability.entry import Entry
from scripts.reliability.ledger import Ledger
from scripts.reliability.mix import KINDS, expected_result

_ID = "01a2109d-e95f-7cb1-9260-ec189957b4e9"
_AT = "2026-11-25T02:51:54.079518Z"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.jsonl")) as ledger:
        yield ledger


@pytest.fixture
def entry(ledger: Ledger) -> Entry:
    """One that was sent again, because the first answer did not come, and acknowledged."""
    entry = Entry("client0-1", KINDS["quick"])
    for _ in range(2):
        ledger.send(entry)
    ledger.acknowledge(entry, _ID)
    return entry


def body(status: str, code: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "execution_id": _ID,
        "status": status,
        "payload": {"nonce": "client0-1"},
        "final_result": expected_result(KINDS["quick"], "client0-1") if status == "COMPLETED" else None,
        "attempt": 1,
        "started_at": _AT,
        "completed_at": _AT if code else None,
        "termination": {"code": code} if code else None,
        "error_log": None,
        "kill": None,
        **changes,
    }


COMPLETED = body("COMPLETED", "EXITED_OK")


def test_ledger_of_an_execution_that_ran_once_has_no_violation(ledger: Ledger, entry: Entry) -> None:
    for reading in (body("PENDING"), body("RUNNING"), body("PENDING"), body("RUNNING"), COMPLETED, COMPLETED):
        ledger.see(entry, reading)
    ledger.witness("runs", _ID, 1, 1)
    ledger.balance({entry.nonce: [_ID]})
    assert ledger.violations == []


@pytest.mark.parametrize(
    ("readings", "told"),
    [
        ([COMPLETED, body("FAILED", "LOST")], "changed after its end: status"),
        ([COMPLETED, {**COMPLETED, "completed_at": "2026-11-25T02:51:55Z"}], "changed after its end: completed_at"),
        ([body("CANCEL_REQUESTED"), body("RUNNING")], "went from CANCEL_REQUESTED to RUNNING"),
        ([body("CANCEL_REQUESTED"), body("FAILED", "LOST")], "went from CANCEL_REQUESTED to FAILED"),
        ([{**COMPLETED, "final_result": {"nonce": "client0-2"}}], "not its result"),
        ([body("RUNNING", payload={"nonce": "client0-2"})], "the input of another"),
        ([body("CANCELED", "CANCELED")], "nobody asked"),
        ([body("FAILED", "LOST")], "failed with LOST and without a reason"),
        ([body("FAILED", "STOPPED")], "failed with STOPPED and without a reason"),
        ([{**COMPLETED, "attempt": 2}], "completed in attempt 2 of 1"),
        ([{**COMPLETED, "kill": {"survivors": 1}}], "something of it lived"),
    ],
)
def test_ledger_tells_of_a_reading_that_must_not_be(
    readings: list[dict[str, Any]], told: str, ledger: Ledger, entry: Entry
) -> None:
    for reading in readings:
        ledger.see(entry, reading)
    assert any(told in violation for violation in ledger.violations), ledger.violations


REASONS = {"launcher": True, "init": True, "both": True, "supervisor": False, "hangup": False, "api": False}


@pytest.mark.parametrize(("victim", "is_reason"), REASONS.items())
def test_lost_execution_needs_a_death_that_explains_it(
    victim: str, is_reason: bool, ledger: Ledger, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1795575114.0)  # as in _AT
    ledger.kill(victim, 4711)
    ledger.see(entry, body("FAILED", "LOST"))
    assert (ledger.violations == []) == is_reason


@pytest.mark.parametrize("status", ["FAILED", "COMPLETED"])
def test_accepted_cancel_may_come_too_late_but_must_not_be_forgotten(status: str, ledger: Ledger, entry: Entry) -> None:
    ledger.kill("launcher", 4711)
    ledger.send_cancel(entry)
    ledger.cancel_answered(entry, 202, "cancel_requested")
    ledger.see(entry, COMPLETED if status == "COMPLETED" else body("FAILED", "LOST"))
    assert any("though a cancel was accepted" in violation for violation in ledger.violations) == (status == "FAILED")


def test_cancel_after_the_end_must_tell_the_truth_and_change_nothing(ledger: Ledger, entry: Entry) -> None:
    ledger.send_cancel(entry)
    ledger.cancel_answered(entry, 200, "completed")
    ledger.see(entry, body("CANCELED", "CANCELED"))
    ledger.cancel_answered(entry, 202, "cancel_requested")
    assert len(ledger.violations) == 2


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        (lambda ledger: ledger.witness("runs", _ID, 1, 1), "ran 2 times in attempt 1"),
        (lambda ledger: ledger.witness("runs", _ID, 2, 1), "attempt 2, which is not recorded"),
        (lambda ledger: ledger.acknowledge(ledger.entries["client0-1"], "another"), "answered with another"),
        (lambda ledger: ledger.balance({}), "acknowledged and is not recorded"),
        (lambda ledger: ledger.balance({"client0-1": [_ID, "another"]}), "recorded 2 times"),
        (lambda ledger: ledger.balance({"client9-9": ["another"]}), "never sent"),
    ],
)
def test_balance_tells_of_what_was_lost_or_doubled(
    deed: Callable[[Ledger], None], told: str, ledger: Ledger, entry: Entry
) -> None:
    ledger.see(entry, COMPLETED)
    ledger.witness("runs", _ID, 1, 1)
    deed(ledger)
    ledger.balance({entry.nonce: [_ID]})
    assert any(told in violation for violation in ledger.violations), ledger.violations


def test_ledger_tells_of_a_process_that_lives_after_the_end_of_its_trusted_run(ledger: Ledger) -> None:
    entry = Entry("client0-1", KINDS["quick-trusted"])
    with subprocess.Popen(["sleep", "600"]) as process:
        ledger.witness("stays", _ID, 1, process.pid)
        for instant in ("2026-11-25T02:51:55Z", "2999-01-01T00:00:00Z"):
            ledger.see(entry, {**COMPLETED, "completed_at": instant})
            entry.seen = None
        process.kill()
    assert ledger.violations == [
        f"execution client0-1 of agent quick-trusted: process {process.pid} of it lives after its end"
    ]


def test_balance_tells_of_an_execution_that_never_ended_or_never_ran(ledger: Ledger, entry: Entry) -> None:
    ledger.see(entry, body("RUNNING"))
    ledger.balance({entry.nonce: [_ID]})
    ledger.see(entry, COMPLETED)
    ledger.balance({entry.nonce: [_ID]})
    assert ["has not ended" in ledger.violations[0], "never ran" in ledger.violations[1]] == [True, True]
