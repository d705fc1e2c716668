"""What every test gets, and what every test must leave: nothing."""

import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import hypothesis
import psutil
import pytest

from runner import inits
from tests.helpers.control_groups import groups_left
from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.processes import descendants_at_rest, descriptors, is_spare
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("corral", deadline=None)
hypothesis.settings.load_profile("corral")


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_no_garbage() -> None:
    """Each test ends with a garbage collection (see nothing_is_left): without this it takes longer than the test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the agents of tests/agents, for all tests that do not harm it."""
    with RunningServer(tmp_path_factory.mktemp("server") / "data", "--max-running", "8") as running:
        for tier in ("ok", "trusted"):
            running.run(tier)
        # Until the runs are released: their directories are gone, and the inits of the next ones are there.
        wait_until(lambda: not os.listdir(running.data / "work"))
        wait_until(lambda: len(psutil.Process(running.launcher_pid).children()) >= 2 * inits._MOST_IDLE)
        at_rest = _of_server(running)
        yield running
        wait_until(lambda: _is_no_more(_of_server(running), at_rest))
    assert not running.errors(), "the server complained"


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    with closing(Lifeline(tmp_path / "lifeline")) as lifeline:
        yield lifeline


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After each test: no new process, descriptor, thread or mount, neither here nor in the shared server.

    Nor a work directory or a control group of a run in that one.
    """
    watched = request.getfixturevalue("server") if "server" in request.fixturenames else None
    folder = tmp_path_factory.getbasetemp()
    processes, rest = _processes(), _rest(folder)
    in_server = _of_server(watched) if watched else _Held()
    yield
    gc.collect()
    # Not equal: an init that was just being made may be a spare one by now.
    wait_until(lambda: _processes() <= processes)
    assert _rest(folder) == rest
    if watched:
        wait_until(lambda: _is_no_more(_of_server(watched), in_server))


def _processes() -> set[int]:
    """Return our living descendants."""
    return {pid for pid in descendants_at_rest(os.getpid()) if not is_spare(pid)}


def _rest(folder: Path) -> tuple[set[str], int, set[str]]:
    """Return our open descriptors, number of threads and mounts. Args: folder: of this process's temporary files."""
    return _targets(), threading.active_count(), _mounts(folder)


def _mounts(folder: Path) -> set[str]:
    """Return the mount points below the folders of temporary files; elsewhere the host may mount what it likes.

    Without those of the processes that run other tests at the same time: their folders lie beside ours.
    """
    points = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    ours = {point for point in points if point.startswith(f"{folder}/")}
    others = f"{folder.parent}/popen-" if "PYTEST_XDIST_WORKER" in os.environ else None
    temporary = {point for point in points if point.startswith((f"{tempfile.gettempdir()}/", "/var/tmp/"))}
    return ours | {point for point in temporary if others is None or not point.startswith(others)}


def _targets() -> set[str]:
    found = set()
    sockets = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            # A connection to the server may be replaced by another one, at another number.
            sockets += target.startswith("socket:")
            found.add(f"socket {sockets}" if target.startswith("socket:") else f"{name} {target}")
        except FileNotFoundError:
            continue
    return found


class _Held(NamedTuple):
    """Descriptors of supervisor and launcher, and of runs the processes, work directories and control groups."""

    supervisor: int = 0
    launcher: int = 0
    runs: frozenset[int] = frozenset()
    directories: frozenset[str] = frozenset()
    groups: frozenset[Path] = frozenset()


def _of_server(server: RunningServer) -> _Held:
    launcher_pid = server.launcher_pid
    return _Held(
        descriptors(server.process.pid),
        descriptors(launcher_pid),
        frozenset(server.runs()),
        frozenset(os.listdir(server.data / "work")),
        frozenset(groups_left(launcher_pid)),
    )


def _is_no_more(now: _Held, before: _Held) -> bool:
    """Sandboxes that have been used are kept for a moment, so there may also be less than before."""
    return all(found <= earlier for found, earlier in zip(now, before, strict=True))
