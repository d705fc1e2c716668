"""Which of the promises that a chaos run can hold the server to are held: what it does not promise yet is off."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promises:
    """adoption: runs survive the supervisor, so its death alone ends none LOST, and an execution whose launch was not
    confirmed goes back to PENDING. retries: a manifest's [retry] is followed. idempotency: a submit that is sent
    again with its key is the same execution.
    """

    adoption: bool
    retries: bool
    idempotency: bool


PROMISES = Promises(adoption=False, retries=False, idempotency=False)
