"""Concurrent writes of one process share a commit, because a commit waits for the disk and a write does not."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar, cast

from supervisor.errors import CorralError

T = TypeVar("T")
Transaction = TypeVar("Transaction")


class _Ticket(Generic[Transaction]):
    """One caller's write and, once it is done, what came of it."""

    def __init__(self, write: Callable[[Transaction], object]) -> None:
        self.write = write
        self.done = False
        self.value: object = None
        self.error: BaseException | None = None


class GroupCommit(Generic[Transaction]):
    """Whoever comes first commits for all who have come meanwhile; nobody returns before the commit that has theirs."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Transaction]]) -> None:
        """Args: begin: opens a transaction, a context that commits at its end and rolls back on an exception."""
        self._begin = begin
        self._waiting: list[_Ticket[Transaction]] = []
        self._waiting_lock = threading.Lock()
        self._commit_lock = threading.Lock()

    def run(self, write: Callable[[Transaction], T]) -> T:
        """Do a write in a shared transaction and return what it returned, after the commit.

        Args:
            write: takes the transaction. It must raise a CorralError before it has changed anything, or not at all.
        Raises:
            whatever write raised; StoreError: the shared transaction failed and nothing is recorded.
        Blocks: until the commit is on disk.
        """
        ticket = _Ticket(write)
        with self._waiting_lock:
            self._waiting.append(ticket)
        with self._commit_lock:
            if not ticket.done:
                self._commit_all()
        if ticket.error:
            raise ticket.error
        return cast(T, ticket.value)

    def _commit_all(self) -> None:
        with self._waiting_lock:
            tickets, self._waiting = self._waiting, []
        try:
            with self._begin() as transaction:
                for ticket in tickets:
                    _do(ticket, transaction)
        except BaseException as error:
            for ticket in tickets:
                ticket.error = ticket.error or error
        for ticket in tickets:
            ticket.done = True


def _do(ticket: _Ticket[Transaction], transaction: Transaction) -> None:
    try:
        ticket.value = ticket.write(transaction)
    except CorralError as error:
        ticket.error = error
