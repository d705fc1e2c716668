"""What many unit tests need: a clock that stands still, and a real database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import database
from supervisor.machine.reactor import Reactor
from supervisor.store import Store
from tests.helpers.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reactor(clock: FakeClock) -> Iterator[Reactor]:
    with closing(Reactor(clock)) as reactor:
        yield reactor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "corral.db"


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[Store]:
    with closing(Store(path, clock)) as store:
        yield store


@pytest.fixture
def sql(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """A second connection to the store's database, for what the store does not offer."""
    with closing(database.connect(path)) as connection:
        yield connection
