"""What must be true of every execution of a chaos run. Pure: each rule returns a sentence for each way it is broken."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scripts.reliability.entry import FINAL, Entry
from scripts.reliability.mix import expected_result

# What may be read of an execution of which this was read before.
_LATER = {
    "PENDING": {"PENDING", "RUNNING", "CANCEL_REQUESTED", *FINAL},
    # Back again for another attempt, or because the one that was claimed was never launched.
    "RUNNING": {"PENDING", "RUNNING", "CANCEL_REQUESTED", *FINAL},
    "CANCEL_REQUESTED": {"CANCEL_REQUESTED", "COMPLETED", "CANCELED"},
}

# The codes that the death of a process may be the reason of, for an attempt that is live at that time.
_EXCUSES: dict[str, set[str]] = {
    "agent": {"SIGNALED", "LOST"},
    "init": {"LOST"},
    "api": set(),
    "launcher": {"LOST"},
    "supervisor": set(),
    "both": {"LOST"},
    "everything": {"LOST"},
    "hangup": set(),
}

# Between the note of a kill and what is recorded of it, both on the same clock; the machine may be busy.
_SLACK_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Kill:
    """victim: what was killed; at: instant in microseconds just before that."""

    victim: str
    at: int


def acknowledged(entry: Entry, execution_id: str) -> list[str]:
    """Compare the answer to a submit with the one before, if it was sent again after that."""
    if entry.execution_id in (None, execution_id):
        return []
    return [f"it was sent again and answered with another execution, {execution_id}"]


def reading(entry: Entry, now: dict[str, Any]) -> list[str]:
    """Compare a reading with the one before."""
    before = entry.seen
    if now["payload"].get("nonce") != entry.nonce:
        return [f"it has the input of another: {now['payload']}"]
    if entry.told and now["status"] != entry.told:
        return [f"a cancel was answered {entry.told}, and now it is {now['status']}"]
    if before is None:
        return []
    if entry.ended:
        changed = [name for name in before if before[name] != now.get(name)]
        return [f"it changed after its end: {', '.join(changed)}"] if changed else []
    if now["status"] not in _LATER[before["status"]]:
        return [f"it went from {before['status']} to {now['status']}"]
    return []


def answer_to_cancel(entry: Entry, code: int, status: str) -> list[str]:
    """Compare the answer to a cancel with what was read last."""
    if not entry.ended:
        return []
    assert entry.seen is not None
    truth = (200, entry.seen["status"].lower())
    return [] if (code, status) == truth else [f"a cancel after its end was answered {code} {status}, not {truth}"]


def end(entry: Entry, body: dict[str, Any], kills: list[Kill]) -> list[str]:
    """Judge the end of an execution. Args: kills: all so far."""
    return [
        *_of_status(entry, body),
        *_of_code(entry, body, kills),
        *([f"it ended while something of it lived: {body['kill']}"] if (body["kill"] or {}).get("survivors") else []),
    ]


def _of_status(entry: Entry, body: dict[str, Any]) -> list[str]:
    status, result = body["status"], body["final_result"]
    expected = expected_result(entry.kind, entry.nonce)
    if status == "COMPLETED" and (expected is None or result != expected):
        return [f"it completed with what is not its result: {str(result)[:200]}"]
    if status == "CANCELED" and not entry.cancel_sent:
        return ["it is canceled though nobody asked for that"]
    if status == "FAILED" and entry.cancel_promised:
        return [f"it failed though a cancel was accepted: {body['termination']}"]
    return []


def _of_code(entry: Entry, body: dict[str, Any], kills: list[Kill]) -> list[str]:
    code, attempt, most = body["termination"]["code"], body["attempt"], entry.kind.attempts
    broken = []
    if body["status"] == "FAILED" and code not in entry.kind.ends | _excused(body, kills):
        broken.append(f"it failed with {code} and without a reason: {body['error_log']}")
    if attempt > most or (body["status"] == "FAILED" and code == "LOST" and attempt < most):
        broken.append(f"it {body['status'].lower()} in attempt {attempt} of {most}")
    return broken


def _excused(body: dict[str, Any], kills: Iterable[Kill]) -> set[str]:
    """Return the codes for which some kill in the time of an execution's last attempt is a reason."""
    began = microseconds(body["started_at"]) - _SLACK_MICROSECONDS
    ended = microseconds(body["completed_at"]) + _SLACK_MICROSECONDS
    return set().union(*(_EXCUSES[kill.victim] for kill in kills if began <= kill.at <= ended))


def recorded(entry: Entry, found: list[str]) -> list[str]:
    """Compare a submit with the executions that are recorded of it in the end."""
    broken = []
    if entry.execution_id and entry.execution_id not in found:
        broken.append(f"execution {entry.execution_id} was acknowledged and is not recorded")
    if len(found) > 1:
        broken.append(f"it was sent {entry.sent} times and is recorded {len(found)} times")
    return broken


def ran(entry: Entry, witnessed: Counter[int]) -> list[str]:
    """Compare an execution with what its agent has told. Args: witnessed: how often, by attempt."""
    broken = [f"its agent ran {count} times in attempt {attempt}" for attempt, count in witnessed.items() if count > 1]
    if not entry.seen:
        return broken
    attempt = entry.seen["attempt"]
    if entry.seen["status"] == "COMPLETED" and not witnessed[attempt]:
        broken.append("it completed and its agent never ran")
    if witnessed and max(witnessed) > attempt:
        broken.append(f"its agent ran in attempt {max(witnessed)}, which is not recorded")
    return broken


def microseconds(instant: str) -> int:
    """Return an instant as the API tells it in microseconds."""
    return int(datetime.fromisoformat(instant).timestamp() * 1_000_000)
