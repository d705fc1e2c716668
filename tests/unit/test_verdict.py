"""What the end of an attempt makes of its execution."""

import pytest

from supervisor.errors import InvalidTransition
from supervisor.retry import NO_RETRY
from supervisor.states import FINAL, Cause, Status
from supervisor.verdict import verdict
from tests.unit.builders import an_outcome

FAILURES = [cause for cause in Cause if cause is not Cause.EXITED_OK]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.CANCEL_REQUESTED])
def test_verdict_completion_is_completed_also_when_a_cancel_came_too_late(status: Status) -> None:
    outcome = an_outcome()
    assert verdict(status, outcome, 1, NO_RETRY) == (Status.COMPLETED, outcome)


@pytest.mark.parametrize("cause", FAILURES)
def test_verdict_failure_of_a_running_one_is_failed_and_keeps_its_outcome(cause: Cause) -> None:
    outcome = an_outcome(cause)
    assert verdict(Status.RUNNING, outcome, 1, NO_RETRY) == (Status.FAILED, outcome)


@pytest.mark.parametrize("cause", FAILURES)
def test_verdict_failure_after_a_cancel_is_canceled_by_the_client(cause: Cause) -> None:
    following, outcome = verdict(Status.CANCEL_REQUESTED, an_outcome(cause), 1, NO_RETRY)
    assert following is Status.CANCELED
    assert outcome.termination.code is Cause.CANCELED
    assert outcome.termination.by == "client"


def test_verdict_other_end_after_a_cancel_tells_both() -> None:
    _, outcome = verdict(Status.CANCEL_REQUESTED, an_outcome(Cause.SIGNALED), 1, NO_RETRY)
    assert outcome.termination.message == outcome.error_log == "It was canceled. It failed."


def test_verdict_cancel_that_took_effect_keeps_message_and_error_log() -> None:
    _, outcome = verdict(Status.CANCEL_REQUESTED, an_outcome(Cause.CANCELED, error_log="stderr"), 1, NO_RETRY)
    assert (outcome.termination.message, outcome.error_log) == ("It failed.", "stderr")


def test_verdict_canceled_keeps_what_was_measured() -> None:
    before = an_outcome(Cause.LOST)
    _, after = verdict(Status.CANCEL_REQUESTED, before, 1, NO_RETRY)
    assert (after.usage, after.isolation, after.termination.at) == (
        before.usage,
        before.isolation,
        before.termination.at,
    )


@pytest.mark.parametrize("status", [Status.PENDING, *sorted(FINAL)])
@pytest.mark.parametrize("cause", [Cause.EXITED_OK, Cause.LOST])
def test_verdict_one_that_is_not_live_raises(status: Status, cause: Cause) -> None:
    with pytest.raises(InvalidTransition):
        verdict(status, an_outcome(cause), 1, NO_RETRY)
