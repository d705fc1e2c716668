"""Start-up: settling what a dead supervisor has left RUNNING."""

from supervisor.clock import Clock
from supervisor.machine import outcome
from supervisor.store import Store

_WHY = "The server was killed, and the run with it; how far it came is not known."


def settle_lost(store: Store, clock: Clock) -> int:
    """Record the end of every execution that is live in the database and nowhere else; return how many there were.

    Only while holding the lock of the data folder: that proves that the supervisor and the launcher that ran them are
    dead, and with the launcher all its runs.
    """
    with store.transaction() as transaction:
        live = transaction.live_attempts()
        for execution_id, attempt, origin in live:
            transaction.end(execution_id, attempt, origin, outcome.lost(_WHY, clock.now()))
    return len(live)
