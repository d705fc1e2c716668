"""The state machine, pair by pair."""

import pytest

from supervisor.errors import InvalidTransition
from supervisor.states import FINAL, LIVE, TRANSITIONS, Event, Status, transition

EVENTS = ("claim", "cancel", "complete", "fail", "lose", "retry", "requeue")
TABLE = {
    "PENDING": ("RUNNING", "CANCELED", None, "FAILED", None, None, None),
    "RUNNING": (None, "CANCEL_REQUESTED", "COMPLETED", "FAILED", "FAILED", "PENDING", "PENDING"),
    "CANCEL_REQUESTED": (None, "CANCEL_REQUESTED", "COMPLETED", "CANCELED", "CANCELED", None, None),
    "COMPLETED": (None,) * 7,
    "FAILED": (None,) * 7,
    "CANCELED": (None,) * 7,
}
PAIRS = [(status, *pair) for status, row in TABLE.items() for pair in zip(EVENTS, row, strict=True)]


def test_table_of_this_test_has_every_status_and_event() -> None:
    assert list(TABLE) == list(Status)
    assert list(EVENTS) == list(Event)


@pytest.mark.parametrize(("status", "event", "following"), [pair for pair in PAIRS if pair[2]])
def test_transition_possible_pair_gives_the_following_status(status: str, event: str, following: str) -> None:
    assert transition(Status(status), Event(event)) is Status(following)


@pytest.mark.parametrize(("status", "event"), [pair[:2] for pair in PAIRS if not pair[2]])
def test_transition_impossible_pair_raises_in_words(status: str, event: str) -> None:
    with pytest.raises(InvalidTransition, match=f"^cannot {event} execution: its status is {status}$"):
        transition(Status(status), Event(event))


def test_final_statuses_are_those_that_nothing_leaves() -> None:
    left = {status for status, _ in TRANSITIONS}
    assert set(Status) - left == FINAL


def test_live_statuses_are_neither_waiting_nor_final() -> None:
    assert set(Status) - FINAL - {Status.PENDING} == LIVE
