"""The executions, durably. The only module that speaks SQL, beside database.py which opens the file."""

import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from supervisor import database
from supervisor.breaker import Breaker
from supervisor.clock import MICROSECONDS, Clock
from supervisor.connections import Connections, DatabaseFile
from supervisor.errors import AttemptStale, ExecutionUnknown, StoreError
from supervisor.group_commit import GroupCommit
from supervisor.idempotency import REMOVED_AT_ONCE, Once, expired
from supervisor.limits import Limits
from supervisor.models import Claim, Execution, Origin, Outcome, Record, Submission, Termination, as_record
from supervisor.retry import NO_RETRY, Backoff, Retry
from supervisor.states import FINAL, Cause, Event, Status, transition
from supervisor.turns import Turns
from supervisor.verdict import verdict

_QUERIES = database.load_queries()

# A write takes milliseconds; who takes longer was stopped, or has a very busy disk.
_PATIENCE_SECONDS = 5.0

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
    ) -> None:
        """Record the attempt that a claim begins, before it is launched.

        Args:
            agent_digest, limits, retry: of the agent as it is launched; left out if it cannot be.
        """
        self._execute(
            "insert_attempt",
            id=claim.execution_id,
            agent_digest=agent_digest,
            limits=limits.model_dump_json() if limits else None,
            retry=retry.model_dump_json() if retry.max_attempts > 1 else None,
            **as_record(origin),
        )

    def progress(self, execution_id: str, attempt: int, data: str) -> None:
        """Keep what the agent last said of its progress, and log it; only of the live attempt. data: JSON text."""
        if self._execute("set_progress", id=execution_id, attempt=attempt, data=data).rowcount:
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

    def live_attempts(self) -> list[tuple[str, int, Origin, int | None]]:
        """Return (execution id, attempt, origin, unkillable since) of all that are running or being stopped."""
        return [
            (row["id"], row["attempt"], Origin(row["node"], row["boot"], row["epoch"]), row["unkillable_since"])
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


class Store:
    """The database of one data directory; its methods may be called from any thread."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        patience_seconds: float = _PATIENCE_SECONDS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Open the file, creating it or bringing it up to date.

        Args:
            patience_seconds: how long a write waits for that of another process. chance: see Backoff.
        Raises:
            ConfigurationError: see database.open_current.
        """
        writer = database.open_current(path, clock.now())
        self._attach(DatabaseFile(path), clock, patience_seconds, writer, chance)

    @classmethod
    def attach(cls, path: Path, clock: Clock, patience_seconds: float = _PATIENCE_SECONDS) -> Self:
        """Return the store of a file that another process keeps open and up to date.

        It is opened when it is needed, so whatever is wrong with it now is an error of the calls below.
        """
        store = cls.__new__(cls)
        store._attach(DatabaseFile(path), clock, patience_seconds)
        return store

    def impatient(self, patience_seconds: float) -> Self:
        """Return another store of the same file, which waits less for others; it is closed with this one."""
        other = self.__class__.__new__(self.__class__)
        other._attach(self._file, self._clock, patience_seconds)
        self._others.append(other)
        return other

    def _attach(
        self,
        file: DatabaseFile,
        clock: Clock,
        patience_seconds: float,
        writer: sqlite3.Connection | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._file = file
        self._clock = clock
        self._backoff = Backoff(clock, chance)
        self._connections = Connections(file, min(patience_seconds, database.BUSY_SECONDS), writer)
        self._turns = Turns(file.path.with_suffix(".turns"), patience_seconds)
        self._breaker = Breaker(clock)
        self._group = GroupCommit(self._shared)
        self._others: list[Self] = []

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a write transaction; for one thread at a time. At its end it is on disk.

        Raises:
            StoreError: it cannot be begun or recorded; nothing of it is.
        """
        try:
            with self._turns.take():
                writer = self._connections.writer()
                writer.execute("BEGIN IMMEDIATE")
                try:
                    yield Transaction(writer, self._clock.now(), self._backoff)
                    writer.execute("COMMIT")
                finally:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
        except (sqlite3.Error, TimeoutError) as error:
            raise self._connections.writing_failed(error) from error

    @contextmanager
    def _shared(self) -> Iterator[Transaction]:
        with self._breaker.attempt(), self.transaction() as transaction:
            yield transaction

    def enqueue(self, submission: Submission, once: Once | None = None) -> str:
        """See Transaction.enqueue; when this returns it is on disk. Raises StoreError too."""
        return self._group.run(lambda transaction: transaction.enqueue(submission, once))

    def recorded_for(self, once: Once) -> str | None:
        """Return the execution that was recorded under a key, None if none was. Raises KeyReused, StoreError."""
        rows = self._read("get_key", key=once.key, expired=expired(self._clock.now()))
        return once.earlier(tuple(rows[0]) if rows else None)

    def check_writing(self) -> None:
        """Write without changing anything. Raises StoreError: nothing can be recorded now."""
        self._group.run(Transaction.touch)

    def free_bytes(self) -> int:
        """Return the room on the file's disk for a user like ours. Raises OSError."""
        disk = os.statvfs(self._file.path.parent)
        return disk.f_bavail * disk.f_frsize

    def cancel(self, execution_id: str) -> Status:
        """See Transaction.cancel."""
        return self._group.run(lambda transaction: transaction.cancel(execution_id))

    def get(self, execution_id: str) -> Execution:
        """Return an execution as it was last committed. Raises ExecutionUnknown, StoreError."""
        row = next(iter(self._read("get_execution", id=execution_id)), None)
        if row is None:
            raise ExecutionUnknown(f"cannot find execution {execution_id!r}: there is none")
        identifier, agent_id, agent_name, status, *rest = row
        return Execution(identifier, agent_id, agent_name, Status(status), *rest)

    def unkillable(self) -> list[tuple[str, int]]:
        """Return (execution id, since when) of all that are live and outlive SIGKILL. Raises StoreError."""
        return [(row["id"], row["unkillable_since"]) for row in self._read("list_unkillable")]

    def file_bytes(self) -> dict[str, int]:
        """Return the sizes of the file and of its write-ahead log, by name. Raises StoreError."""
        try:
            return {
                "database_bytes": self._file.path.stat().st_size,
                "wal_bytes": self._file.path.with_name(f"{self._file.path.name}-wal").stat().st_size,
            }
        except OSError as error:
            raise StoreError(f"cannot look at the database: {error}") from error

    def close(self) -> None:
        """Close the writing connection and the calling thread's reading one; the others go with their threads."""
        for other in self._others:
            other.close()
        self._connections.close()
        self._turns.close()

    def _read(self, query: str, **values: str | int) -> list[sqlite3.Row]:
        try:
            return self._connections.reader().execute(_QUERIES[query], values).fetchall()
        except sqlite3.Error as error:
            raise self._connections.reading_failed(error) from error


def _json(record: Record | None) -> str | None:
    return None if record is None else _encode(as_record(record))
