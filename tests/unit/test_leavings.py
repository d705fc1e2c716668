"""What of a dead agent's work directory is taken, and what is left out, on a real file system."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.machine import leavings
from supervisor.machine.leavings import Leavings, is_empty

PLENTY = 1 << 30


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The work directory; a secret is beside it."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def folder(work: Path) -> Iterator[int]:
    """Its descriptor."""
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def taken(folder: int, most_files: int = PLENTY, most_bytes: int = PLENTY) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the files by name, in order, and what was left out."""
    found = Leavings(folder, most_files, most_bytes)
    files = {name: os.pread(descriptor, size + 1, 0) for name, size, descriptor in found.files()}
    return files, dict(found.left_out)


def write(root: Path, *names: str) -> None:
    """Write files whose contents are their names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_files_are_taken_with_their_paths_those_of_a_folder_before_its_folders(work: Path, folder: int) -> None:
    names = ["b", "z", "a/b", "a/a/a", "y/x"]
    write(work, *reversed(names))
    files, left_out = taken(folder)
    assert list(files.items()) == [(name, name.encode()) for name in names]
    assert not left_out


def test_it_can_be_read_again_and_after_a_look(work: Path, folder: int) -> None:
    write(work, "a", "b")
    assert not is_empty(folder)
    assert taken(folder) == taken(folder)
    assert len(taken(folder)[0]) == 2


def test_it_is_empty_only_without_anything(work: Path, folder: int) -> None:
    assert is_empty(folder)
    (work / "folder").mkdir()
    assert not is_empty(folder)
    (work / "folder").rmdir()
    work.rmdir()
    assert is_empty(folder)


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(here)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(1 << 20)


def make_forbidden_folder(path: Path) -> None:
    write(path, "file")
    path.chmod(0o300)


# How to make it, why it is left out, how often it is counted.
ODDITIES: dict[str, tuple[Callable[[Path], object], str, int]] = {
    "symbolic link to a file": (lambda path: path.symlink_to("../secret"), "symbolic_link", 1),
    "symbolic link to a folder": (lambda path: path.symlink_to(".."), "symbolic_link", 1),
    "symbolic link to nothing": (lambda path: path.symlink_to("x"), "symbolic_link", 1),
    "hard link out": (lambda path: path.hardlink_to(path.parent.parent / "secret"), "hard_link", 1),
    "pipe": (lambda path: os.mkfifo(path), "special", 1),
    "socket": (make_socket, "special", 1),
    "sparse file": (make_sparse, "sparse", 1),
    "all hole": (lambda path: (path.touch(), os.truncate(path, 1 << 20)), "sparse", 1),
    "file of a terabyte": (lambda path: (path.touch(), os.truncate(path, 1 << 40)), "too_large", 1),
    "unreadable file": (lambda path: path.touch(0o200), "unreadable", 1),
    "unreadable folder": (make_forbidden_folder, "unreadable", 1),
    "deep tree": (lambda path: write(path, "/".join(["d"] * 300)), "too_deep", 1),
}


@pytest.mark.parametrize(("make", "reason", "times"), ODDITIES.values(), ids=ODDITIES)
def test_what_is_no_ordinary_file_is_left_out(
    work: Path, folder: int, make: Callable[[Path], object], reason: str, times: int
) -> None:
    write(work, "a", "z")
    make(work / "odd")
    files, left_out = taken(folder)
    assert list(files) == ["a", "z"]
    assert left_out == {reason: times}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_device_is_left_out(work: Path, folder: int) -> None:
    os.mknod(work / "null", 0o20666, os.makedev(1, 3))
    assert taken(folder) == ({}, {"special": 1})


NAMES = [b"\xff", b"a\nb", b"\x1b[31m", b"\x7f", "\u202eexe".encode(), "\u2028".encode(), b"..\\..\\x", b"\xed\xa0\x80"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_name_that_may_do_harm_where_it_is_shown_or_saved_is_left_out(work: Path, folder: int, name: bytes) -> None:
    (work / os.fsdecode(name)).write_text("odd")
    (work / "sub" / os.fsdecode(name)).mkdir(parents=True)
    write(work / "sub" / os.fsdecode(name), "inside")
    assert taken(folder) == ({}, {"name": 2})


def test_name_has_an_end_with_all_its_folders(work: Path, folder: int) -> None:
    kept = ["/".join(["a" * 255, "b" * 255, ""])[:-1], "/".join(["a" * 255, "c" * 254, "d"])]
    write(work, *kept, "/".join(["a" * 255, "c" * 254, "dd"]))
    files, left_out = taken(folder)
    assert [len(name) for name in files] == [511, 512]
    assert left_out == {"name": 1}


def test_depth_has_an_end(work: Path, folder: int) -> None:
    fits = "/".join(["d"] * (leavings._DEEPEST - 1))
    write(work, f"{fits}/file", f"{fits}/d/file")
    files, left_out = taken(folder)
    assert list(files) == [f"{fits}/file"]
    assert left_out == {"too_deep": 1}


def test_number_has_an_end_and_the_rest_is_counted(work: Path, folder: int) -> None:
    write(work, "a", "b", "c", "d/e")
    files, left_out = taken(folder, most_files=2)
    assert list(files) == ["a", "b"]
    assert left_out == {"too_many": 2}
    assert taken(folder, most_files=0) == ({}, {"too_many": 4})


def test_bytes_have_an_end_and_smaller_ones_still_fit(work: Path, folder: int) -> None:
    for name, size in (("a", 6), ("b", 5), ("c", 4), ("d", 0), ("e", 1)):
        (work / name).write_bytes(b"x" * size)
    files, left_out = taken(folder, most_bytes=10)
    assert list(files) == ["a", "c", "d"]
    assert left_out == {"too_large": 2}


def test_look_has_an_end(work: Path, folder: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leavings, "_MOST_ENTRIES", 5)
    write(work, "a", "b", "sub/c", "sub/d", "sub/e", "sub/f")
    files, left_out = taken(folder)
    assert len(files) == 4
    assert left_out == {"not_looked_at": 1}


def test_forbidden_directory_is_left_out_as_a_whole(work: Path, folder: int) -> None:
    write(work, "a")
    work.chmod(0)
    assert taken(folder) == ({}, {"unreadable": 1})
    work.chmod(0o700)


def test_nothing_stays_open_when_the_reader_stops_early(work: Path, folder: int) -> None:
    write(work, "a", "d/b", "d/c")
    before = os.listdir("/proc/self/fd")
    files = Leavings(folder, PLENTY, PLENTY).files()
    assert [next(files)[0] for _ in range(2)] == ["a", "d/b"]
    files.close()
    assert os.listdir("/proc/self/fd") == before
