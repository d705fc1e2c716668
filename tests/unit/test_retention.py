"""What is removed when there is too much: the oldest ends first, whole, and nothing else."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor import database, inspection
from supervisor.errors import ExecutionUnknown
from supervisor.execution_folders import ExecutionFolders
from supervisor.logs import attempt_folder
from supervisor.retention import Retention
from supervisor.settings import Settings
from supervisor.states import Cause
from supervisor.store import Store
from supervisor.upkeep import Upkeep
from tests.helpers.clock import FakeClock
from tests.unit.builders import cancel_requested, end, ended, run, submit

DAY = 86_400

Keep = Callable[..., Retention]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("logs", "files"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def upkeep(store: Store, path: Path, clock: FakeClock) -> Iterator[Upkeep]:
    with closing(Upkeep(path, clock, 1.0)) as upkeep:
        yield upkeep


@pytest.fixture
def keep(data: Path, upkeep: Upkeep, clock: FakeClock) -> Keep:
    def made(**settings: Any) -> Retention:
        retention = Retention(Settings(data=data, **settings), upkeep, clock)
        retention.sweep(no_rest)
        return retention

    return made


def no_rest() -> None:
    """Go on at once."""


def write(data: Path, execution_id: str, size: int = 10) -> None:
    """Make what a run leaves: a log and a file."""
    for root, name in (("logs", "stdout.0"), ("files", "contents")):
        folder = attempt_folder(data / root, execution_id, 1)
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"x" * size)


def folders(data: Path) -> set[str]:
    """Return the ids that have a folder; each has one of both kinds."""
    logs, files = ({path.parent.name for path in (data / root).glob("*/*/1")} for root in ("logs", "files"))
    assert logs == files
    return logs


def left(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM executions ORDER BY seq")]


def some(store: Store, clock: FakeClock, data: Path, count: int = 5, size: int = 10) -> list[str]:
    """Return the ids of executions that ended a day apart, with logs and files; now is a day after the last."""
    ids = []
    for _ in range(count):
        ids.append(ended(store, Cause.EXITED_OK))
        write(data, ids[-1], size)
        clock.advance(DAY)
    return ids


def test_retention_by_count_removes_what_ended_first(
    store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep
) -> None:
    first, second = run(store), run(store)
    end(store, second)
    clock.advance(1)
    end(store, first)
    ids = some(store, clock, data)
    keep(keep_executions=6).apply(no_rest)
    assert left(path) == [first, *ids]
    keep(keep_executions=2).apply(no_rest)
    assert left(path) == ids[-2:]
    assert folders(data) == set(ids[-2:])
    with pytest.raises(ExecutionUnknown):
        store.get(first)
    assert inspection.inspect(path).violations == ()


def test_retention_by_age_goes_by_the_end(store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep) -> None:
    ids = some(store, clock, data)
    retention = keep(keep_days=2.5)
    retention.apply(no_rest)
    assert left(path) == ids[-2:]
    assert folders(data) == set(ids[-2:])
    clock.advance(DAY)
    retention.apply(no_rest)
    assert left(path) == ids[-1:]


def test_retention_by_bytes_counts_database_logs_and_files(
    store: Store, path: Path, clock: FakeClock, data: Path, upkeep: Upkeep, keep: Keep
) -> None:
    ids = some(store, clock, data, size=1 << 20)
    folder_bytes = sum(ExecutionFolders(data / root).size(ids[0]) for root in ("logs", "files"))
    assert 2 << 20 <= folder_bytes < 3 << 20
    keep(keep_bytes=upkeep.used_bytes() + 5 * folder_bytes).apply(no_rest)
    assert left(path) == ids
    retention = keep(keep_bytes=upkeep.used_bytes() + 3 * folder_bytes)
    retention.apply(no_rest)
    assert folders(data) == set(ids[2:])
    # What has ended since is counted too.
    ids += some(store, clock, data, count=1, size=1 << 20)
    retention.apply(no_rest)
    assert left(path) == ids[3:]
    assert folders(data) == set(ids[3:])


def test_retention_by_bytes_removes_for_the_rows_alone(
    store: Store, path: Path, clock: FakeClock, data: Path, upkeep: Upkeep, keep: Keep
) -> None:
    for _ in range(20):
        execution_id = run(store, payload='{"a":"' + "b" * 200_000 + '"}')
        end(store, execution_id)
    before = path.stat().st_size + path.with_name("corral.db-wal").stat().st_size
    assert upkeep.used_bytes() > 4_000_000
    keep(keep_bytes=2 << 20).apply(no_rest)
    assert upkeep.used_bytes() <= 2 << 20
    assert before > 4_000_000


def test_retention_never_removes_what_has_not_ended(
    store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep
) -> None:
    ids = {run(store), cancel_requested(store), submit(store)}
    store.cancel(submit(store))  # there is something to remove
    for execution_id in ids:
        write(data, execution_id)
    clock.advance(1000 * DAY)
    keep(keep_executions=1, keep_days=1, keep_bytes=1 << 20).apply(no_rest)
    assert set(left(path)) == ids
    assert folders(data) == ids


def test_retention_counts_each_end_once_whatever_the_clock_says(
    store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep
) -> None:
    retention = keep(keep_executions=3)
    running = run(store)
    for _ in range(3):
        retention.apply(no_rest)
        clock.advance(-3600)
        ended(store, Cause.EXITED_OK)
    retention.apply(no_rest)
    assert len(left(path)) == 4
    end(store, running)
    retention.apply(no_rest)
    assert len(left(path)) == 3


def test_retention_step_ends_in_time_and_the_next_goes_on(
    store: Store, path: Path, clock: FakeClock, upkeep: Upkeep
) -> None:
    execution_id = run(store)
    with store.transaction() as transaction:
        for number in range(2500):
            transaction.progress(execution_id, 1, str(number))
    end(store, execution_id)
    other = ended(store, Cause.EXITED_OK)

    class Hasty(FakeClock):
        """Each look takes as long as a step may."""

        def monotonic(self) -> float:
            self.advance(0.015)
            return super().monotonic()

    with closing(Upkeep(path, Hasty(), 1.0)) as hasty:
        steps = [hasty.remove(upkeep.oldest(10)) for _ in range(2)]
        assert steps == [[], []]
        assert left(path) == [execution_id, other]
        assert inspection.inspect(path).violations == ()
        assert [one.execution_id for one in hasty.remove(upkeep.oldest(10))] == [execution_id]
        assert left(path) == [other]


def test_sweep_leaves_to_the_first_look_what_ends_meanwhile(store: Store, upkeep: Upkeep) -> None:
    before, running = ended(store, Cause.EXITED_OK), run(store)
    count, event = upkeep.ended()
    end(store, running)
    nobody = "0190d7b2-1111-7000-8000-000000000000"
    assert upkeep.known([nobody, before, running], event) == {before: True, running: False}
    assert (count, upkeep.ended_since(event)[0]) == (1, [running])


def test_sweep_removes_folders_without_a_row_and_leaves_all_else(
    store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep
) -> None:
    (kept,) = some(store, clock, data, count=1)
    lost = [f"0190d7b2-1111-7000-8000-0000000000{number:02x}" for number in range(40)]
    for execution_id in lost:
        write(data, execution_id)
    outside = data / "outside"
    outside.mkdir()
    (outside / "precious").write_text("here")
    others = [data / "logs" / "00" / "notes", data / "files" / "unfinished", data / "logs" / "README"]
    for other in others:
        other.mkdir(exist_ok=True)
    inside = attempt_folder(data / "logs", lost[1], 1) / "link"
    inside.symlink_to(outside)
    link = data / "logs" / "ff" / "0190d7b2-1111-7000-8000-0000000000ff"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    keep()
    assert folders(data) == {kept}
    assert all(other.is_dir() for other in others)
    assert (outside / "precious").read_text() == "here"
    assert left(path) == [kept]


def test_database_file_gets_smaller_when_much_was_removed(
    store: Store, path: Path, clock: FakeClock, data: Path, upkeep: Upkeep, keep: Keep
) -> None:
    for _ in range(40):
        end(store, run(store, payload='{"a":"' + "b" * 200_000 + '"}'))
    with closing(database.connect(path)) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size > 8_000_000
    keep(keep_executions=1).apply(no_rest)
    with closing(database.connect(path)) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size < 3_000_000


def test_write_ahead_log_that_a_reader_has_let_grow_begins_anew(
    store: Store, path: Path, data: Path, upkeep: Upkeep, keep: Keep
) -> None:
    log = path.with_name("corral.db-wal")
    with database.snapshot(path):
        for _ in range(40):
            submit(store, payload='{"a":"' + "b" * 500_000 + '"}')
        assert log.stat().st_size > database.LOG_BYTES
        upkeep.checkpoint()  # in vain, and without a long wait
    upkeep.checkpoint()
    submit(store)
    assert log.stat().st_size <= database.LOG_BYTES


def test_database_of_a_version_that_never_shrank_is_converted_once(path: Path, clock: FakeClock) -> None:
    path.write_bytes((Path(__file__).with_name("databases") / "0001.db").read_bytes())
    with closing(Store(path, clock)) as store, closing(Upkeep(path, clock, 1.0)) as upkeep:
        with closing(sqlite3.connect(path)) as sql:
            assert sql.execute("PRAGMA auto_vacuum").fetchone()[0] == 0
        assert upkeep.let_shrink()
        with closing(sqlite3.connect(path)) as sql:
            assert sql.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
        submit(store)
    assert inspection.inspect(path).violations == ()


def test_database_new_file_can_shrink(store: Store, path: Path) -> None:
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA auto_vacuum").fetchone()[0] == 2


def test_folder_that_cannot_be_removed_is_told_and_does_not_hold_up_the_rest(
    store: Store, path: Path, clock: FakeClock, data: Path, keep: Keep, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = some(store, clock, data, count=3)
    retention = keep(keep_executions=1)
    folder = data / "logs" / ids[0][-2:] / ids[0]
    os.rename(folder, data / "elsewhere")
    folder.symlink_to(data / "elsewhere")
    retention.apply(no_rest)
    assert left(path) == ids[2:]
    assert (data / "elsewhere" / "1" / "stdout.0").exists()
    assert "folder left as it is" in capsys.readouterr().out
