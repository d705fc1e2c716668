"""What is done to executions within one write transaction: every move of the state machine, and what goes with it."""

import json
import sqlite3

from supervisor import database
from supervisor.clock import MICROSECONDS
from supervisor.errors import AttemptStale, ExecutionUnknown, StoreError, Superseded
from supervisor.idempotency import REMOVED_AT_ONCE, Once, expired
from supervisor.limits import Limits
from supervisor.models import (
    Claim,
    LiveAttempt,
    Origin,
    Outcome,
    Record,
    Submission,
    Termination,
    as_record,
)
from supervisor.retry import NO_RETRY, Backoff, Retry
from supervisor.states import FINAL, Cause, Event, Status, transition
from supervisor.verdict import verdict

_QUERIES = database.load_queries()

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Transaction:
    """One write transaction; what it does is recorded whole or not at all."""

    def __init__(self, connection: sqlite3.Connection, now: int, backoff: Backoff) -> None:
        self._connection = connection
        self._now = now
        self._backoff = backoff

    def enqueue(self, submission: Submission, once: Once | None = None) -> str:
        """Record a PENDING execution, unless that was done before under the same key.

        Returns:
            The id of the execution, which is the submission's if it is new.
        Raises:
            KeyReused: the key stands for another request; nothing is changed.
        """
        if once:
            earlier = once.earlier(self._execute("get_key", key=once.key, expired=expired(self._now)).fetchone())
            if earlier:
                return earlier
            self._keep(once, submission.execution_id)
        self._execute(
            "insert_execution",
            id=submission.execution_id,
            agent_id=submission.agent_id,
            agent_name=submission.agent_name,
            priority=submission.priority,
            payload=submission.payload,
            limits=submission.limits.model_dump_json(),
        )
        self._log_status(submission.execution_id, Status.PENDING)
        return submission.execution_id

    def touch(self) -> None:
        """Write, and change nothing."""
        self._execute("touch")

    def cancel(self, execution_id: str) -> Status:
        """Ask for the end of an execution: a PENDING one is CANCELED at once, a RUNNING one is CANCEL_REQUESTED.

        Returns:
            The status it had. One that has ended is left as it is.
        Raises:
            ExecutionUnknown: there is no such execution.
        """
        status, attempt = self._status(execution_id)
        if status in FINAL:
            return status
        following = transition(status, Event.CANCEL)
        if following is Status.CANCELED:
            message = f"It was canceled before it was started{' again' if attempt else ''}."
            termination = Termination(Cause.CANCELED, message, "client", self._now)
            self._end(execution_id, attempt, status, following, termination, error_log=termination.message)
        elif following is not status:
            self._execute("set_cancel_requested", id=execution_id)
            self._log_status(execution_id, following)
        return status

    def claim(self, full_agents: list[str]) -> Claim | None:
        """Make the first in line RUNNING: highest priority, then oldest. Returns None if none can run.

        Args:
            full_agents: ids of agents that may not be given another run now.
        """
        row = self._execute("claim", full_agents=json.dumps(full_agents)).fetchone()
        if row is None:
            return None
        self._log_status(row["id"], Status.RUNNING)
        limits = json.loads(row["limits"]) if row["limits"] else {}
        return Claim(row["id"], row["attempt"], row["agent_id"], row["payload"], limits)

    def put_in_line(self, most: int) -> float | None:
        """Let those be claimed whose time to try again has come.

        Args:
            most: of them at once.
        Returns:
            Seconds until the next one is due, not above 0 if one is already; None if none waits for its time.
        """
        seconds = self._seconds_to_next()
        if seconds is None or seconds > 0:
            return seconds
        self._execute("put_in_line", due=self._backoff.now(), most=most)
        return self._seconds_to_next()

    def start_attempt(
        self,
        claim: Claim,
        origin: Origin,
        agent_digest: str | None = None,
        limits: Limits | None = None,
        retry: Retry = NO_RETRY,
        launcher: str | None = None,
    ) -> None:
        """Record the attempt that a claim begins, before it is launched.

        Args:
            agent_digest, limits, retry: of the agent as it is launched; left out if it cannot be.
            launcher: that is going to launch it.
        """
        self._execute(
            "insert_attempt",
            id=claim.execution_id,
            agent_digest=agent_digest,
            limits=limits.model_dump_json() if limits else None,
            retry=retry.model_dump_json() if retry.max_attempts > 1 else None,
            launcher=launcher,
            **as_record(origin),
        )

    def unclaim(self, execution_id: str, attempt: int) -> None:
        """Undo the claim of an attempt that was never launched: PENDING again, at the same place in the line.

        Raises:
            ExecutionUnknown, InvalidTransition: it is not running; nothing is changed.
            AttemptStale: it is at another attempt; nothing is changed.
        """
        status, _ = self._status(execution_id)
        following = transition(status, Event.REQUEUE)
        self._execute("delete_attempt", id=execution_id, attempt=attempt)
        if not self._execute("unclaim", id=execution_id, attempt=attempt).rowcount:
            raise AttemptStale(f"cannot requeue execution {execution_id}: attempt {attempt} is not the live one")
        self._log_status(execution_id, following)

    def take_over(self, origin: Origin) -> list[LiveAttempt]:
        """Let this supervisor be the only one that records, and have it run what others of this node and boot have run.

        Returns:
            All that are running or being stopped. Those of another boot are still that one's.
        """
        self._execute("set_supervisor", **as_record(origin))
        self._execute("take_over_attempts", **as_record(origin))
        return self.live_attempts()

    def check_supervisor(self, origin: Origin) -> None:
        """Raise Superseded if this supervisor is not the last one that has taken over."""
        if self._execute("is_supervisor", **as_record(origin)).fetchone() is None:
            raise Superseded("cannot record: another supervisor has taken over")

    def progress(self, execution_id: str, attempt: int, data: str, offset: int = 0) -> None:
        """Keep what the agent last said of its progress, and log it; only of the live attempt.

        Args:
            data, offset: see models.Progress.
        """
        if self._execute("set_progress", id=execution_id, attempt=attempt, data=data, offset=offset).rowcount:
            self._log(execution_id, "progress", data)

    def unkillable(self, execution_id: str, attempt: int, since: int) -> None:
        """Record, once, that the live attempt outlives SIGKILL. since: instant in microseconds."""
        if self._execute("set_unkillable", id=execution_id, attempt=attempt, since=since).rowcount:
            self._log(execution_id, "unkillable", f'{{"since":{since}}}')

    def end(self, execution_id: str, attempt: int, origin: Origin, outcome: Outcome) -> Status:
        """Record the one end of an attempt, and that of its execution or that there is to be another attempt.

        Returns:
            The following status: what it is depends on whether a cancel came before, and on the agent's retry policy
            as the attempt was launched. PENDING: there is another attempt.
        Raises:
            ExecutionUnknown, InvalidTransition: it is not live; nothing is changed.
            AttemptStale: the attempt is not the live one of this origin; nothing is changed.
        """
        status, _ = self._status(execution_id)
        retry = NO_RETRY if outcome.completed else self._retry(execution_id)
        following, outcome = verdict(status, outcome, attempt, retry)
        changed = self._execute(
            "end_attempt",
            id=execution_id,
            attempt=attempt,
            node=origin.node,
            epoch=origin.epoch,
            termination=_json(outcome.termination),
            error_log=outcome.error_log,
            usage=_json(outcome.usage),
            kill=_json(outcome.kill),
            isolation=_json(outcome.isolation),
        ).rowcount
        if not changed:
            raise AttemptStale(f"cannot end execution {execution_id}: attempt {attempt} is not the live one")
        if outcome.kill:
            self._log(execution_id, "kill", _json(outcome.kill) or "")
        if following is Status.PENDING:
            self._wait_for_retry(execution_id, attempt, status, self._backoff.not_before(retry, attempt))
        else:
            self._end(execution_id, attempt, status, following, outcome.termination, outcome.result, outcome.error_log)
        return following

    def cancel_requested(self) -> list[tuple[str, int]]:
        """Return (execution id, attempt) of all that are to be stopped."""
        return [(row["id"], row["attempt"]) for row in self._execute("list_cancel_requested")]

    def live_attempts(self) -> list[LiveAttempt]:
        """Return all that are running or being stopped."""
        return [
            LiveAttempt(
                *(row["id"], row["attempt"], Status(row["status"]), Origin(row["node"], row["boot"], row["epoch"])),
                *(row["launcher"], row["progress_offset"], row["unkillable_since"]),
            )
            for row in self._execute("list_live_attempts")
        ]

    def _keep(self, once: Once, execution_id: str) -> None:
        """Remember a key, and forget some that count no more."""
        self._execute("delete_expired_keys", expired=expired(self._now), most=REMOVED_AT_ONCE)
        self._execute("set_key", key=once.key, fingerprint=once.fingerprint, id=execution_id)

    def _status(self, execution_id: str) -> tuple[Status, int]:
        row = self._execute("get_status", id=execution_id).fetchone()
        if row is None:
            raise ExecutionUnknown(f"cannot find execution {execution_id!r}: there is none")
        return Status(row["status"]), row["attempt"]

    def _retry(self, execution_id: str) -> Retry:
        """Return the retry policy of the live attempt."""
        row = self._execute("get_retry", id=execution_id).fetchone()
        return Retry.model_validate_json(row["retry"]) if row and row["retry"] else NO_RETRY

    def _seconds_to_next(self) -> float | None:
        first = self._execute("get_first_not_before").fetchone()[0]
        return None if first is None else (first - self._backoff.now()) / MICROSECONDS

    def _wait_for_retry(self, execution_id: str, attempt: int, status: Status, not_before: int | None) -> None:
        changed = self._execute(
            "wait_for_retry", id=execution_id, attempt=attempt, from_status=status, not_before=not_before
        ).rowcount
        if not changed:
            raise StoreError(f"cannot try execution {execution_id} again: attempt {attempt} is not the live one")
        self._log_status(execution_id, Status.PENDING)

    def _end(
        self,
        execution_id: str,
        attempt: int,
        status: Status,
        following: Status,
        termination: Termination,
        result: str | None = None,
        error_log: str | None = None,
    ) -> None:
        changed = self._execute(
            "end_execution",
            id=execution_id,
            attempt=attempt,
            from_status=status,
            status=following,
            termination=_json(termination),
            result=result,
            error_log=error_log,
        ).rowcount
        if not changed:
            raise StoreError(f"cannot end execution {execution_id}: attempt {attempt} is not the live one")
        self._log_status(execution_id, following)

    def _log_status(self, execution_id: str, status: Status) -> None:
        self._log(execution_id, "status", f'{{"status":"{status}"}}')

    def _log(self, execution_id: str, kind: str, data: str) -> None:
        self._execute("insert_event", id=execution_id, kind=kind, data=data)

    def _execute(self, query: str, **values: str | int | bytes | None) -> sqlite3.Cursor:
        return self._connection.execute(_QUERIES[query], {"now": self._now, **values})


def _json(record: Record | None) -> str | None:
    return None if record is None else _encode(as_record(record))
