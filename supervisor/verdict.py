"""What the end of an attempt makes of its execution; pure."""

from dataclasses import replace

from supervisor.models import Outcome
from supervisor.retry import Retry
from supervisor.states import Cause, Event, Status, transition


def verdict(status: Status, outcome: Outcome, attempt: int, retry: Retry) -> tuple[Status, Outcome]:
    """Return the following status of an execution and the outcome to record with it.

    Args:
        status: what it is now; CANCEL_REQUESTED if a client asked for its end.
        outcome: how its attempt ended. attempt: the number of that. retry: when there is another one.
    Returns:
        PENDING if there is another attempt, else the final status. An execution that ends CANCELED has that as its
        cause, however its process came to its end after the request.
    Raises:
        InvalidTransition: the execution is not live.
    """
    following = transition(status, _event(status, outcome, attempt, retry))
    if following is not Status.CANCELED:
        return following, outcome
    termination = replace(outcome.termination, code=Cause.CANCELED, by="client")
    if outcome.termination.code is not Cause.CANCELED:
        message = f"It was canceled. {outcome.termination.message}"
        return following, replace(outcome, termination=replace(termination, message=message), error_log=message)
    return following, replace(outcome, termination=termination)


def _event(status: Status, outcome: Outcome, attempt: int, retry: Retry) -> Event:
    if outcome.completed:
        return Event.COMPLETE
    # Nobody waits for one that is to be canceled, and no attempt runs beside what may be left of another.
    if status is Status.RUNNING and not outcome.may_live and retry.allows(attempt, outcome.termination.code):
        return Event.RETRY
    return Event.LOSE if outcome.termination.code is Cause.LOST else Event.FAIL
