"""The version of an agent."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import workdir
from supervisor.agent_digest import AgentDigests
from tests.helpers.clock import FakeClock

LARGE = b"x" * ((1 << 20) + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent's folder with a bit of everything."""
    folder = tmp_path / "agent"
    (folder / "package" / "empty").mkdir(parents=True)
    (folder / "agent.toml").write_text("")
    (folder / "package" / "code.py").write_text("one")
    (folder / "model.bin").write_bytes(LARGE)
    (folder / "link").symlink_to("package/code.py")
    return folder


def digest(folder: Path) -> str:
    return AgentDigests(FakeClock()).digest(folder)


def same_time(path: Path, change: Callable[[], object]) -> None:
    """Change a file and set its time of change back."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_other_text(folder: Path) -> None:
    code = folder / "package" / "code.py"
    same_time(code, lambda: code.write_text("two!"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "other text": write_other_text,
    "new file": lambda folder: (folder / "new.py").write_text(""),
    "file removed": lambda folder: (folder / "agent.toml").unlink(),
    "file renamed": lambda folder: (folder / "agent.toml").rename(folder / "agent.txt"),
    "file moved": lambda folder: (folder / "package" / "code.py").rename(folder / "code.py"),
    "other mode": lambda folder: (folder / "package" / "code.py").chmod(0o755),
    "large file touched": lambda folder: os.utime(folder / "model.bin", ns=(1, 1)),
    "link turned": lambda folder: ((folder / "link").unlink(), (folder / "link").symlink_to("package/code.pz")),
    "new folder": lambda folder: shutil.copytree(folder / "package", folder / "copy"),
}

NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "touched": lambda folder: os.utime(folder / "package" / "code.py", ns=(1, 1)),
    "caches and installed packages": lambda folder: [
        (folder / name).mkdir() or (folder / name / "file").write_text("")
        for name in (".git", ".venv", "__pycache__", "node_modules")
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_digest_after_a_change_is_another(folder: Path, change: Callable[[Path], object]) -> None:
    before = digest(folder)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", before)
    change(folder)
    assert digest(folder) != before


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_digest_after_what_changes_no_agent_is_the_same(folder: Path, change: Callable[[Path], object]) -> None:
    before = digest(folder)
    change(folder)
    assert digest(folder) == before


def test_digest_of_a_copy_elsewhere_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    assert digest(tmp_path / "copy") == digest(folder)


def test_digest_of_what_is_no_file_neither_waits_nor_follows(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to("/nowhere")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "outside").mkdir()
    (folder / "outside").symlink_to(tmp_path / "outside")
    before = digest(folder)
    (tmp_path / "outside" / "file").write_text("")
    assert digest(folder) == before


def test_digest_with_names_that_are_no_text(folder: Path) -> None:
    before = digest(folder)
    (folder / os.fsdecode(b"\xff\n")).write_text("")
    assert digest(folder) != before


def test_digest_of_a_deep_folder_is_computed(folder: Path) -> None:
    deepest = str(folder)
    try:
        for _ in range(1100):
            deepest += "/d"
            os.mkdir(deepest)
        before = digest(folder)
        os.mknod(f"{deepest}/file")
        assert digest(folder) != before
    finally:
        workdir.remove(f"{folder}/d")  # pytest cannot


def test_digest_is_trusted_for_a_second_and_then_looked_at_anew(folder: Path) -> None:
    clock = FakeClock()
    digests = AgentDigests(clock)
    before = digests.digest(folder)
    (folder / "new.py").write_text("")
    clock.advance(0.99)
    assert digests.digest(folder) == before
    clock.advance(0.02)
    assert digests.digest(folder) == digest(folder) != before


def test_digest_is_computed_anew_only_when_a_file_looks_changed(folder: Path) -> None:
    clock = FakeClock()
    digests = AgentDigests(clock)
    before = digests.digest(folder)
    code = folder / "package" / "code.py"
    same_time(code, lambda: code.write_text("two"))
    clock.advance(2)
    assert digests.digest(folder) == before != digest(folder)


def test_digest_of_two_folders_are_apart(folder: Path, tmp_path: Path) -> None:
    digests = AgentDigests(FakeClock())
    (tmp_path / "other").mkdir()
    assert digests.digest(folder) != digests.digest(tmp_path / "other")


def test_digest_of_a_folder_that_is_gone_raises(folder: Path) -> None:
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        digest(folder)
