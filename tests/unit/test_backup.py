"""Copies of a database: whole, private, never in place of something else."""

import os
import signal
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import backup, database, inspection
from supervisor.errors import BackupError, CorralError, StoreError
from supervisor.states import Cause
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.helpers.command import started
from tests.helpers.wait import wait_until
from tests.unit.builders import contents, ended, submit


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    return folder / "copy of today.db"


def rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return contents(connection)


def test_backup_has_every_row_and_is_one_private_file(store: Store, path: Path, target: Path) -> None:
    ended(store, Cause.EXITED_OK)
    submit(store, payload='{"a":"' + "b" * 100_000 + '"}')
    backup.write_new(path, target)
    assert os.listdir(target.parent) == [target.name]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.stat().st_nlink == 1
    assert rows(target) == rows(path)
    assert inspection.inspect(target).violations == ()
    assert os.listdir(target.parent) == [target.name], "to look at a backup needs no other file"


def test_snapshot_stays_as_it_was_while_others_write(store: Store, path: Path) -> None:
    submit(store)
    with database.snapshot(path) as connection:
        submit(store)
        assert len(contents(connection)) == 2, "an execution and its event"


def test_backup_never_replaces_a_file_unless_it_is_told_to(store: Store, path: Path, target: Path) -> None:
    target.write_text("precious")
    with pytest.raises(BackupError, match=r"it is there already; --force replaces it$"):
        backup.write_new(path, target)
    assert target.read_text() == "precious"
    backup.write_over(path, target)
    assert rows(target) == rows(path)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_backup_onto_the_database_itself_is_refused(store: Store, path: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = rows(path)
    with pytest.raises(BackupError, match=r"it is the database itself$"):
        backup.write_over(path, tmp_path / "link" / f"{path.name}{suffix}")
    assert rows(path) == before


@pytest.mark.parametrize("damage", ["missing", "no database", "damaged"])
def test_backup_of_what_is_not_whole_leaves_nothing(
    store: Store, path: Path, target: Path, tmp_path: Path, damage: str
) -> None:
    source = tmp_path / "source.db"
    if damage == "no database":
        source.write_bytes(b"text" * 1000)
    elif damage == "damaged":
        submit(store)
        backup.write_new(path, source)
        with source.open("r+b") as file:
            file.seek(8 * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(StoreError):
        backup.write_new(source, target)
    assert os.listdir(target.parent) == []


def test_backup_that_has_no_place_is_refused(store: Store, path: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"^cannot write backup .*nowhere"):
        backup.write_new(path, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(CorralError):
        backup.write_over(path, tmp_path)


def test_backup_removes_what_a_killed_one_has_left_and_not_what_is_in_use(
    path: Path, clock: FakeClock, target: Path
) -> None:
    with closing(Store(path, clock)) as store:
        submit(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE large (a)")
        connection.executemany("INSERT INTO large VALUES (zeroblob(1000000))", [()] * 60)
        connection.commit()
    with started("backup", target, "--data", path.parent) as process:
        (left,) = wait_until(lambda: list(target.parent.glob(".corral-backup-*/copy.db")))
        process.send_signal(signal.SIGSTOP)
        if target.exists():
            pytest.skip("it was faster than this test")
        backup.write_new(path, target.with_name("meanwhile.db"))
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    backup.write_new(path, target)
    assert sorted(os.listdir(target.parent)) == [target.name, "meanwhile.db"]
