"""A database file with which something is wrong: what the store says, that nothing is lost, and that it goes on."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError, StoreBusy, StoreDamaged, StoreError
from supervisor.store import Store
from tests.helpers import ordinary_user
from tests.helpers.clock import FakeClock
from tests.helpers.command import ROOT
from tests.helpers.full_disk import files_of_at_most
from tests.unit.builders import claim, end, run, submit


def assert_whole(path: Path) -> None:
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- a disk that takes no more -----------------------------------------------------------------------------------------


@pytest.fixture
def little_room(store: Store) -> sqlite3.Connection:
    """The store's own connection, whose file may not grow. Source: sqlite.org/pragma.html, "max_page_count"."""
    writer = store._connections.writer()
    writer.execute("PRAGMA max_page_count = 1")  # it is never less than what is there
    return writer


def test_full_database_refuses_and_goes_on_when_there_is_room(
    store: Store, path: Path, little_room: sqlite3.Connection
) -> None:
    running, waiting = run(store), submit(store)
    big = f'{{"text":"{"x" * 100_000}"}}'
    for _ in range(3):
        with pytest.raises(StoreError, match=r"^cannot write to the database: the disk is full \(SQLITE_FULL: "):
            submit(store, payload=big)
        with pytest.raises(StoreError, match="SQLITE_FULL"):
            end(store, running, result=big)
    assert store.get(running).status == "RUNNING"
    little_room.execute("PRAGMA max_page_count = 1000000")
    end(store, running, result=big)
    assert store.get(submit(store, payload=big)).payload == big
    assert claim(store).execution_id == waiting  # type: ignore[union-attr]
    assert_whole(path)


def test_disk_that_takes_nothing_refuses_and_goes_on_when_it_does(store: Store, path: Path) -> None:
    running = run(store)
    with files_of_at_most(0):
        for _ in range(3):
            with pytest.raises(StoreError, match=r"the disk does not do what it is told \(SQLITE_IOERR_WRITE: "):
                submit(store)
            with pytest.raises(StoreError, match="SQLITE_IOERR"):
                store.check_writing()
            assert store.get(running).status == "RUNNING"
    end(store, running)
    store.check_writing()
    assert store.get(submit(store)).status == "PENDING"
    assert_whole(path)


@pytest.mark.parametrize("room", range(0, 60_000, 4_000))
def test_disk_that_is_full_in_the_middle_of_a_write_has_all_of_it_or_nothing(
    store: Store, path: Path, room: int
) -> None:
    """Also after a crash: a copy of the files as they are then is opened as the next server would."""
    with files_of_at_most(path.with_name("corral.db-wal").stat().st_size + room):
        accepted = []
        for _ in range(20):
            try:
                accepted.append(submit(store, payload='{"text":"0123456789"}'))
            except StoreError:
                break
        copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with closing(Store(copy, FakeClock())) as crashed:
        assert all(crashed.get(execution_id).status == "PENDING" for execution_id in accepted)
    assert_whole(copy)
    assert_whole(path)


def test_new_database_on_a_full_disk_is_refused_and_made_later(path: Path, clock: FakeClock) -> None:
    for room in (0, 5_000, 20_000, 60_000):
        with files_of_at_most(room), pytest.raises(ConfigurationError, match=r"SQLITE_(IOERR|FULL)"):
            Store(path, clock)
    with closing(Store(path, clock)) as store:
        assert store.get(submit(store))
    assert_whole(path)


# -- another writer ----------------------------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the database locked by a program that does not take turns."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_database_locked_by_another_program_is_waited_for_only_so_long(path: Path, clock: FakeClock) -> None:
    with closing(Store(path, clock, patience_seconds=0.2)) as store:
        running = run(store)
        with locked(path):
            began = time.monotonic()
            with pytest.raises(StoreBusy, match=r"another process has been writing for a while \(SQLITE_BUSY: "):
                submit(store)
            assert 0.1 < time.monotonic() - began < 4
            assert store.get(running).status == "RUNNING"
        end(store, running)


def test_database_that_was_waited_for_in_vain_is_not_tried_again_at_once(path: Path, clock: FakeClock) -> None:
    with closing(Store(path, clock, patience_seconds=0.2)) as store:
        with locked(path), pytest.raises(StoreBusy):
            submit(store)
        clock.advance(0.99)
        with pytest.raises(StoreBusy, match="SQLITE_BUSY"):
            submit(store)
        clock.advance(0.01)
        assert store.get(submit(store))


def test_database_locked_for_reading_too_is_waited_for_only_so_long(path: Path, clock: FakeClock) -> None:
    Store(path, clock).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with closing(Store.attach(path, clock, 0.2)) as store:
            for call in (lambda: submit(store), lambda: store.get("x")):
                with pytest.raises(StoreBusy, match="SQLITE_BUSY"):
                    call()
            other.close()
            clock.advance(1)
            assert store.get(submit(store))
        with closing(Store(path, clock)):
            pass


# -- damage ------------------------------------------------------------------------------------------------------------


def overwrite(path: Path, page: int) -> None:
    """Damage one page of a file. Args: page: from 1."""
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(random.Random(page).randbytes(4096))


def test_damage_that_is_found_stops_all_writing_and_says_what_to_do(path: Path, clock: FakeClock) -> None:
    with closing(Store(path, clock)) as store:
        ids = [submit(store, payload=f'{{"text":"{"x" * 3_000}"}}') for _ in range(30)]
    with closing(sqlite3.connect(path)) as sql:
        root, pages = sql.execute(
            "SELECT (SELECT rootpage FROM sqlite_schema WHERE name = 'executions'), page_count FROM pragma_page_count"
        ).fetchone()
    for page in range(pages // 2, pages):
        if page != root:
            overwrite(path, page)
    with closing(Store.attach(path, clock)) as store:
        submit(store)
        with pytest.raises(StoreDamaged, match=r"^cannot read from the database: .*SQLITE_CORRUPT"):
            read_all(store, ids)
        for call in (lambda: submit(store), store.check_writing, store.impatient(0.1).check_writing):
            with pytest.raises(StoreDamaged, match="stop the server and restore the database from a backup"):
                call()


def read_all(store: Store, ids: list[str]) -> None:
    for execution_id in ids:
        store.get(execution_id)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.4, 0.7, 0.99])
def test_log_of_writes_that_was_cut_leaves_a_whole_database_with_the_first_of_them(
    path: Path, clock: FakeClock, part: float
) -> None:
    copy = path.with_name("copy.db")
    with closing(Store(path, clock)) as store:
        ids = [submit(store) for _ in range(20)]
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    log = copy.with_name("copy.db-wal")
    os.truncate(log, int(log.stat().st_size * part))
    with closing(Store(copy, clock)) as store:
        found = [has(store, execution_id) for execution_id in ids]
        assert found == sorted(found, reverse=True)
        assert store.get(submit(store))
    assert_whole(copy)


def has(store: Store, execution_id: str) -> bool:
    try:
        return bool(store.get(execution_id))
    except StoreError:
        return False


# -- a file that is not where it was -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [None, "empty", "copy"])
def test_file_that_was_moved_is_not_written_to_until_it_is_back(path: Path, store: Store, other: str | None) -> None:
    """What is written into a file that has no name is gone with the process."""
    execution_id = submit(store)
    aside = path.with_name("aside.db")
    if other == "copy":
        shutil.copy(path, path.with_name("copy.db"))
    path.rename(aside)
    if other == "empty":
        path.touch()
    elif other == "copy":
        path.with_name("copy.db").rename(path)
    reason = "another file is in its place; restart the server to use it" if other else "No such file or directory"
    with pytest.raises(StoreError, match=reason):
        submit(store)
    with pytest.raises(StoreError, match=reason):
        store.check_writing()
    aside.rename(path)
    assert store.get(execution_id)
    assert store.get(submit(store)).status == "PENDING"


def test_store_of_another_process_does_not_make_a_file_that_is_not_there(path: Path, clock: FakeClock) -> None:
    with closing(Store.attach(path, clock)) as store:
        for call in (lambda: submit(store), lambda: store.get("x")):
            with pytest.raises(StoreError, match=r"cannot be opened|No such file"):
                call()
        assert not path.exists()
        Store(path, clock).close()
        assert store.get(submit(store))


# -- no permission -----------------------------------------------------------------------------------------------------

OPEN = """
import sys
import tempfile
from pathlib import Path
from supervisor.clock import Clock
from supervisor.errors import CorralError
from supervisor.store import Store
try:
    Store(Path(sys.argv[1]), Clock())
except (CorralError, OSError) as error:
    print(error)
"""

# A connection that is opened meanwhile is for reading only, for as long as it lives.
WRITE_MEANWHILE_AND_AFTERWARDS = """
import sys
import tempfile
from pathlib import Path
from supervisor.clock import Clock
from supervisor.errors import StoreError
from supervisor.store import Store
path = Path(sys.argv[1])
supervisors = Store(path, Clock())
store = Store.attach(path, Clock())
path.chmod(0o400)
for _ in range(2):
    try:
        store.check_writing()
    except StoreError as error:
        print(error)
path.chmod(0o600)
store.check_writing()
print("written")
"""


@pytest.fixture
def database_of_ordinary_user(clock: FakeClock) -> Iterator[Path]:
    """A database in a folder of its own, which belong to the user that as_ordinary_user() is."""
    # Not below pytest's folder, which only its own user may enter.
    with tempfile.TemporaryDirectory(prefix="corral-test-", dir="/var/tmp") as folder:
        path = Path(folder, "corral.db")
        Store(path, clock).close()
        if os.geteuid() == 0:
            for place in (path.parent, path, path.with_suffix(".turns")):
                os.chown(place, ordinary_user.UID, ordinary_user.UID)
        yield path


def as_ordinary_user(program: str, path: Path) -> list[str]:
    """Return the lines that a program prints, run by a user whom modes of files stop."""
    done = subprocess.run(
        [*(ordinary_user.wrapper() if os.geteuid() == 0 else ()), sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("mode", "folder_mode", "reason"),
    [
        (0o400, 0o700, "its file or its folder cannot be written (SQLITE_READONLY"),
        (0o000, 0o700, "its file or its folder cannot be opened (SQLITE_CANTOPEN"),
        (0o600, 0o500, "its file or its folder cannot be"),
        (0o600, 0o000, "Permission denied"),
    ],
)
def test_file_that_may_not_be_written_is_refused_and_left_as_it_was(
    database_of_ordinary_user: Path, mode: int, folder_mode: int, reason: str
) -> None:
    path = database_of_ordinary_user
    before = path.read_bytes()
    path.chmod(mode)
    path.parent.chmod(folder_mode)
    try:
        (told,) = as_ordinary_user(OPEN, path)
    finally:
        path.parent.chmod(0o700)
        path.chmod(0o600)
    assert reason in told
    assert path.read_bytes() == before


def test_file_that_may_be_written_again_is_written_by_who_has_opened_it_meanwhile(
    database_of_ordinary_user: Path,
) -> None:
    *refusals, last = as_ordinary_user(WRITE_MEANWHILE_AND_AFTERWARDS, database_of_ordinary_user)
    assert [refusal.partition(" (")[0] for refusal in refusals] == [
        "cannot write to the database: its file or its folder cannot be written"
    ] * 2
    assert last == "written"
