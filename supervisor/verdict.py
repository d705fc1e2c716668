"""What the end of an attempt makes of its execution; pure."""

from dataclasses import replace

from supervisor.models import Outcome
from supervisor.states import Cause, Event, Status, transition


def verdict(status: Status, outcome: Outcome) -> tuple[Status, Outcome]:
    """Return the final status of an execution and the outcome to record with it.

    Args:
        status: what it is now; CANCEL_REQUESTED if a client asked for its end.
        outcome: how its attempt ended.
    Returns:
        An execution that ends CANCELED has that as its cause, however its process came to its end after the request.
    Raises:
        InvalidTransition: the execution is not live.
    """
    following = transition(status, _event(outcome))
    if following is not Status.CANCELED:
        return following, outcome
    termination = replace(outcome.termination, code=Cause.CANCELED, by="client")
    if outcome.termination.code is not Cause.CANCELED:
        message = f"It was canceled. {outcome.termination.message}"
        return following, replace(outcome, termination=replace(termination, message=message), error_log=message)
    return following, replace(outcome, termination=termination)


def _event(outcome: Outcome) -> Event:
    if outcome.completed:
        return Event.COMPLETE
    return Event.LOSE if outcome.termination.code is Cause.LOST else Event.FAIL
