"""The state machine of an execution, as one table."""

from enum import StrEnum

from supervisor.errors import InvalidTransition


class Status(StrEnum):
    """What a client sees. QUEUED, in the answer to a submit, is the client contract's other word for PENDING."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Event(StrEnum):
    """What may happen to an execution."""

    CLAIM = "claim"
    CANCEL = "cancel"
    COMPLETE = "complete"
    FAIL = "fail"
    LOSE = "lose"
    RETRY = "retry"
    REQUEUE = "requeue"


class Cause(StrEnum):
    """Why an execution ended: the code of its termination record."""

    EXITED_OK = "EXITED_OK"
    AGENT_ERROR = "AGENT_ERROR"
    EXIT_NONZERO = "EXIT_NONZERO"
    SIGNALED = "SIGNALED"
    NO_RESULT = "NO_RESULT"
    RESULT_INVALID = "RESULT_INVALID"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    WALL_TIME = "WALL_TIME"
    CPU_TIME = "CPU_TIME"
    MEMORY = "MEMORY"
    PROCESSES = "PROCESSES"
    FILE_SIZE = "FILE_SIZE"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
    CANCELED = "CANCELED"
    LOST = "LOST"
    STOPPED = "STOPPED"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED})
LIVE = frozenset({Status.RUNNING, Status.CANCEL_REQUESTED})

# A run that is being stopped can still complete: its whole result was read before the first signal was sent. The
# machine decides that, because it alone knows what was read when; it then reports a completion, else a failure.
TRANSITIONS = {
    (Status.PENDING, Event.CLAIM): Status.RUNNING,
    (Status.PENDING, Event.CANCEL): Status.CANCELED,
    (Status.PENDING, Event.FAIL): Status.FAILED,
    (Status.RUNNING, Event.CANCEL): Status.CANCEL_REQUESTED,
    (Status.RUNNING, Event.COMPLETE): Status.COMPLETED,
    (Status.RUNNING, Event.FAIL): Status.FAILED,
    (Status.RUNNING, Event.LOSE): Status.FAILED,
    (Status.RUNNING, Event.RETRY): Status.PENDING,
    (Status.RUNNING, Event.REQUEUE): Status.PENDING,
    (Status.CANCEL_REQUESTED, Event.CANCEL): Status.CANCEL_REQUESTED,
    (Status.CANCEL_REQUESTED, Event.COMPLETE): Status.COMPLETED,
    (Status.CANCEL_REQUESTED, Event.FAIL): Status.CANCELED,
    (Status.CANCEL_REQUESTED, Event.LOSE): Status.CANCELED,
}


def transition(status: Status, event: Event) -> Status:
    """Return the status that follows. Raises InvalidTransition: the event is not possible in this status."""
    try:
        return TRANSITIONS[status, event]
    except KeyError:
        raise InvalidTransition(f"cannot {event} execution: its status is {status}") from None
