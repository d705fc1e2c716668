"""Writes that share a commit."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from supervisor.errors import CorralError, ExecutionUnknown, StoreError
from supervisor.group_commit import GroupCommit
from supervisor.limits import DEFAULTS
from supervisor.models import Submission, new_execution_id
from supervisor.states import Status
from supervisor.store import Store
from supervisor.turns import Turns
from tests.helpers.wait import wait_until
from tests.helpers.wal import commits
from tests.unit.builders import submit


class Log:
    """Transactions in which a write appends; what was committed is kept, in groups.

    failures: what becomes of the next commits, None for well.
    """

    def __init__(self) -> None:
        self.committed: list[list[object]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[BaseException | None] = []
        self.group = GroupCommit(self._begin)

    def write(self, value: object, error: BaseException | None = None) -> Callable[[list[object]], object]:
        """Return a write that appends a value and returns it, or raises at once."""

        def append(transaction: list[object]) -> object:
            if error:
                raise error
            transaction.append(value)
            return value

        return append

    @contextmanager
    def _begin(self) -> Iterator[list[object]]:
        group: list[object] = []
        assert self.gate.wait(30)
        failure = self.failures.pop(0) if self.failures else None
        yield group
        if failure:
            raise failure
        self.committed.append(group)


@contextmanager
def one_group(log: Log, *writes: Callable[[list[object]], object]) -> Iterator[list["Future[object]"]]:
    """Bring the writes into one group, which waits for a commit that is under way; yield what becomes of each."""
    log.gate.clear()
    with ThreadPoolExecutor(len(writes) + 1) as pool:
        under_way = pool.submit(log.group.run, log.write("under way"))
        wait_until(lambda: log.group._commit_lock.locked() and not log.group._waiting)
        results = [pool.submit(log.group.run, write) for write in writes]
        wait_until(lambda: len(log.group._waiting) == len(writes))
        assert not any(result.done() for result in results)
        log.gate.set()
        under_way.result(30)
        yield results


def test_run_alone_is_one_commit_and_returns_what_the_write_returned() -> None:
    log = Log()
    assert log.group.run(log.write("value")) == "value"
    assert log.committed == [["value"]]


def test_run_returns_only_after_the_commit() -> None:
    log = Log()
    seen = []

    def write(transaction: list[object]) -> None:
        seen.append(list(log.committed))
        transaction.append("value")

    log.group.run(write)
    assert (seen, log.committed) == ([[]], [["value"]])


def test_writes_that_come_during_a_commit_share_the_next_one() -> None:
    log = Log()
    with one_group(log, *(log.write(number) for number in range(10))) as results:
        assert [result.result(30) for result in results] == list(range(10))
    assert log.committed[0] == ["under way"]
    assert len(log.committed) == 2
    assert sorted(log.committed[1], key=str) == list(range(10))


def test_write_that_is_refused_does_not_take_the_others_of_its_group_along() -> None:
    log = Log()
    refusal = CorralError("no")
    with one_group(log, log.write(1), log.write(2, refusal), log.write(3)) as results:
        assert [results[0].result(30), results[2].result(30)] == [1, 3]
        assert results[1].exception(30) is refusal
    assert sorted(log.committed[1], key=str) == [1, 3]


@pytest.mark.parametrize("failure", [StoreError("the disk is full"), KeyboardInterrupt(), ValueError()])
def test_commit_that_fails_is_told_to_everyone_of_its_group_and_nothing_is_recorded(
    failure: BaseException,
) -> None:
    log = Log()
    refusal = CorralError("no")
    log.failures = [None, failure]
    with one_group(log, log.write(1), log.write(2, refusal), log.write(3)) as results:
        errors = [result.exception(30) for result in results]
    assert errors == [failure, refusal, failure]
    assert len(log.committed) == 1
    assert log.group.run(log.write("next")) == "next"


def test_write_that_breaks_takes_its_group_along_because_nobody_knows_what_it_has_changed() -> None:
    log = Log()
    broken = RuntimeError("bug")
    with one_group(log, log.write(1), log.write(2, broken)) as results:
        assert [result.exception(30) for result in results] == [broken, broken]
    assert len(log.committed) == 1


# -- with the real database --------------------------------------------------------------------------------------------


@contextmanager
def others_turn(path: Path) -> Iterator[None]:
    """Hold the database as another process would."""
    with closing(Turns(path.with_suffix(".turns"), 20)) as turns, turns.take():
        yield


def test_store_unknown_execution_in_a_group_does_not_take_the_submits_along(store: Store, path: Path) -> None:
    waiting = submit(store)
    before = commits(path)
    with ThreadPoolExecutor(12) as pool:
        with others_turn(path):
            submits = [pool.submit(submit, store) for _ in range(10)]
            refused = pool.submit(store.cancel, new_execution_id())
            canceled = pool.submit(store.cancel, waiting)
            wait_until(lambda: len(store._group._waiting) >= 10)
        assert isinstance(refused.exception(30), ExecutionUnknown)
        assert canceled.result(30) is Status.PENDING
        assert all(store.get(result.result(30)).status is Status.PENDING for result in submits)
    assert commits(path) - before <= 3


def test_store_write_that_the_database_refuses_fails_its_whole_group_and_nothing_is_recorded(
    store: Store, path: Path
) -> None:
    taken = Submission(new_execution_id(), "agent", "agent", 50, "{}", DEFAULTS)
    store.enqueue(taken)
    fresh = [Submission(new_execution_id(), "agent", "agent", 50, "{}", DEFAULTS) for _ in range(3)]
    with ThreadPoolExecutor(5) as pool:
        with others_turn(path):
            first = pool.submit(submit, store)
            wait_until(lambda: store._group._commit_lock.locked() and not store._group._waiting)
            results = [pool.submit(store.enqueue, submission) for submission in (*fresh, taken)]
            wait_until(lambda: len(store._group._waiting) == 4)
        assert store.get(first.result(30)).status is Status.PENDING
        assert all(isinstance(result.exception(30), StoreError) for result in results)
    for submission in fresh:
        with pytest.raises(ExecutionUnknown):
            store.get(submission.execution_id)
