"""Keeping what runs leave: on other threads, whole or not at all, and so that no end of a run waits for ever."""

import os
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.artifacts import Artifacts
from supervisor.errors import FileUnknown
from supervisor.logs import attempt_folder
from supervisor.machine import collector as collector_module
from supervisor.machine.collector import Collector
from supervisor.machine.reactor import Reactor
from tests.helpers.full_disk import files_of_at_most

ID = "01999999-9999-7999-8999-999999999999"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def collector(root: Path, reactor: Reactor) -> Iterator[Collector]:
    with closing(Collector(root, 100, 1 << 20, reactor)) as collector:
        yield collector


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def opened(work: Path) -> int:
    return os.open(work, os.O_RDONLY | os.O_DIRECTORY)


def collect(collector: Collector, reactor: Reactor, work: int | None, attempt: int = 1) -> None:
    """Collect, and wait until it is told."""
    told: list[int] = []
    collector.collect(work, ID, attempt, lambda: told.append(attempt))
    while not told:
        reactor.wait()
    assert told == [attempt]


@pytest.mark.parametrize("has_work", [True, False])
def test_nothing_left_is_told_at_once_without_the_thread_and_leaves_nothing(
    collector: Collector, root: Path, work: Path, has_work: bool
) -> None:
    told: list[bool] = []
    descriptor = opened(work) if has_work else None
    collector.collect(descriptor, ID, 1, lambda: told.append(True))
    assert told
    assert not os.listdir(root)
    if descriptor is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_end_is_told_from_the_reactor_when_the_files_are_there(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    (work / "a").write_text("content")
    seen: list[int] = []
    descriptor = opened(work)
    collector.collect(descriptor, ID, 1, lambda: seen.append(len(Artifacts(root).index(ID, 1).files)))
    assert not seen
    while not seen:
        reactor.wait()
    assert seen == [1]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_nothing_on_disk_has_a_name_that_an_agent_chose(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    (work / "chosen").mkdir()
    (work / "chosen" / "name").write_text("content")
    collect(collector, reactor, opened(work))
    folder = attempt_folder(root, ID, 1)
    assert sorted(path for path in root.rglob("*") if path.is_file()) == [folder / "contents", folder / "index.json"]
    assert not os.listdir(root / "unfinished")


def test_only_empty_folders_leave_nothing(collector: Collector, reactor: Reactor, root: Path, work: Path) -> None:
    (work / "a" / "b").mkdir(parents=True)
    collect(collector, reactor, opened(work))
    assert os.listdir(root) == ["unfinished"]


def test_what_was_left_out_is_told_also_if_nothing_was_kept(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    (work / "link").symlink_to("/etc/passwd")
    collect(collector, reactor, opened(work))
    index = Artifacts(root).index(ID, 1)
    assert (index.files, index.left_out) == ((), {"symbolic_link": 1})


def test_attempts_are_apart(collector: Collector, reactor: Reactor, root: Path, work: Path) -> None:
    for attempt in (1, 2):
        (work / "a").write_text(f"of {attempt}")
        collect(collector, reactor, opened(work), attempt)
    for attempt in (1, 2):
        file, contents = Artifacts(root).open(ID, attempt, "a")
        with contents:
            assert contents.read(file.size_bytes) == f"of {attempt}".encode()
    with pytest.raises(FileUnknown):
        Artifacts(root).open(ID, 3, "a")


def test_failure_is_logged_and_the_end_is_told_all_the_same(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    (work / "a").write_text("content")
    (root / "99").write_text("a file where a folder must be")
    with capture_logs() as logs:
        collect(collector, reactor, opened(work))
    assert [entry["event"] for entry in logs] == ["files not kept"]
    assert "Not a directory" in logs[0]["error"]
    assert Artifacts(root.parent / "elsewhere").index(ID, 1).files == ()
    assert not os.listdir(root / "unfinished")
    (root / "99").unlink()
    collect(collector, reactor, opened(work))
    assert len(Artifacts(root).index(ID, 1).files) == 1


def test_files_that_the_disk_does_not_take_are_counted(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    for name, size in (("a", 10), ("b", 5000), ("c", 10)):
        (work / name).write_bytes(bytes([1]) * size)
    (work / "link").symlink_to("a")
    with capture_logs() as logs, files_of_at_most(1000):
        collect(collector, reactor, opened(work))
    assert [entry["event"] for entry in logs] == ["files not written"]
    index = Artifacts(root).index(ID, 1)
    assert (index.files, index.left_out) == ((), {"not_written": 3, "symbolic_link": 1})
    assert not os.listdir(root / "unfinished")


def test_bug_is_logged_with_its_traceback_and_the_end_is_told_all_the_same(
    collector: Collector, reactor: Reactor, root: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "Leavings", None)
    (work / "a").write_text("content")
    with capture_logs() as logs:
        collect(collector, reactor, opened(work))
    assert isinstance(logs[0]["exc_info"], TypeError)
    assert not os.listdir(root / "unfinished")


def test_what_a_killed_server_has_left_unfinished_is_removed(root: Path, reactor: Reactor, work: Path) -> None:
    (root / "unfinished" / f"{ID}.1").mkdir(parents=True)
    (root / "unfinished" / f"{ID}.1" / "contents").write_text("half")
    finished = attempt_folder(root, ID, 2)
    finished.mkdir(parents=True)
    with closing(Collector(root, 100, 1 << 20, reactor)) as collector:
        assert not (root / "unfinished").exists()
        assert finished.exists()
        (work / "a").write_text("content")
        collect(collector, reactor, opened(work))
    assert len(Artifacts(root).index(ID, 1).files) == 1


def test_close_waits_for_what_is_being_copied(root: Path, reactor: Reactor, work: Path) -> None:
    (work / "a").write_bytes(bytes(1 << 20))
    with closing(Collector(root, 100, 1 << 20, reactor)) as collector:
        collector.collect(opened(work), ID, 1, lambda: None)
        while not os.path.lexists(root / "unfinished"):
            reactor.wait(0)
    assert len(Artifacts(root).index(ID, 1).files) == 1


def test_host_without_descriptors_is_logged_and_the_end_is_told_all_the_same(
    collector: Collector, reactor: Reactor, root: Path, work: Path
) -> None:
    (work / "a").write_text("content")
    descriptor = opened(work)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + 1, limits[1]))
    try:
        with capture_logs() as logs:
            collect(collector, reactor, descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "Too many open files" in logs[0]["error"]
    collect(collector, reactor, opened(work), 2)
    assert len(Artifacts(root).index(ID, 2).files) == 1
