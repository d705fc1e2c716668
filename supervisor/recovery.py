"""Start-up: settling what a dead supervisor has left RUNNING."""

from dataclasses import replace

from supervisor.clock import Clock
from supervisor.machine import outcome
from supervisor.store import Store

_WHY = "The server was killed, and the run with it; how far it came is not known."
_WHY_UNKILLABLE = (
    "The server ended while the run could not be killed; what is left of it dies when the kernel lets go of it."
)


def settle_lost(store: Store, clock: Clock) -> int:
    """Record the end of every attempt that is live in the database and nowhere else; return how many there were.

    Only while holding the lock of the data folder: that proves that the supervisor and the launcher that ran them are
    dead, and with the launcher all its runs, but for what not even SIGKILL ends.
    """
    with store.transaction() as transaction:
        live = transaction.live_attempts()
        for execution_id, attempt, origin, unkillable_since in live:
            why = _WHY if unkillable_since is None else _WHY_UNKILLABLE
            ended = replace(outcome.lost(why, clock.now()), may_live=unkillable_since is not None)
            transaction.end(execution_id, attempt, origin, ended)
    return len(live)
