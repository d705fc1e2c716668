"""Start-up: what another supervisor has left running, settled.

Only while holding the lock of the data folder. Each attempt that is live in the database is one of these:
  held        the launcher that lives on has it: it is taken over, and ends like any other
  unlaunched  that same launcher has never got it, so nothing of it was ever started: its claim is undone
  lost        it ran under a launcher that is dead, and has died with it, or before this machine was started
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from supervisor.clock import Clock
from supervisor.machine import outcome
from supervisor.models import LiveAttempt, Origin, Outcome, Termination
from supervisor.states import Cause, Status
from supervisor.store import Store
from supervisor.transaction import Transaction

_WHY = "The server was killed, and the run with it; how far it came is not known."
_WHY_UNKILLABLE = (
    "The server ended while the run could not be killed; what is left of it dies when the kernel lets go of it."
)


@dataclass
class Settled:
    """How many were not taken over. unlaunched: that wait again, or were canceled before they were started."""

    unlaunched: int = 0
    lost: int = 0


def take_over(store: Store, origin: Origin) -> list[LiveAttempt]:
    """Let this supervisor be the one that records; return the attempts that are live in the database."""
    with store.transaction() as transaction:
        return transaction.take_over(origin)


def lost(live: Collection[LiveAttempt], held: Collection[tuple[str, int]], launcher: str | None) -> list[LiveAttempt]:
    """Return those that have died with their launcher. Args: see settle()."""
    return [attempt for attempt in live if attempt.key not in held and not _is_of(attempt, launcher)]


def settle(store: Store, clock: Clock, held: Collection[tuple[str, int]], launcher: str | None) -> Settled:
    """Record what became of those that the launcher does not hold.

    Args:
        held: those that it does, as (execution id, attempt). launcher: its name; None if there is none.
    """
    settled = Settled()
    with store.transaction() as transaction:
        for attempt in transaction.live_attempts():
            if attempt.key in held:
                continue
            if _is_of(attempt, launcher):
                settled.unlaunched += 1
                _undo(transaction, attempt, clock)
            else:
                settled.lost += 1
                why = _WHY if attempt.unkillable_since is None else _WHY_UNKILLABLE
                lost = replace(outcome.lost(why, clock.now()), may_live=attempt.unkillable_since is not None)
                transaction.end(*attempt.key, attempt.origin, lost)
    return settled


def _is_of(attempt: LiveAttempt, launcher: str | None) -> bool:
    return launcher is not None and attempt.launcher == launcher


def _undo(transaction: Transaction, attempt: LiveAttempt, clock: Clock) -> None:
    if attempt.status is Status.RUNNING:
        transaction.unclaim(*attempt.key)
        return
    canceled = Termination(Cause.CANCELED, "It was canceled before it was started.", "client", clock.now())
    transaction.end(*attempt.key, attempt.origin, Outcome(canceled, error_log=canceled.message))
