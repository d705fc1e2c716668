"""scripts/setup, with a python that only notes what it is asked for: a real installation takes ten seconds."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.command import ROOT

# What a python is asked to do here: to say its version, to have the module venv, to make one, to run pip in it.
_PYTHON = """#!/bin/bash
case "$*" in
    "-c import sys;"*) exit ${{OLD_PYTHON:-0}} ;;
    "-c import ensurepip"*) exit ${{NO_VENV:-0}} ;;
    "-m venv"*) echo venv >>{notes}; mkdir -p "${{@: -1}}/bin"; ln -sf "$(readlink -f "$0")" "${{@: -1}}/bin/python" ;;
    "-m pip"*) echo "pip ${{@: -1}}" >>{notes}; sleep 0.1; echo "pip says why" >&2; exit ${{NO_NETWORK:-0}} ;;
    *) exit 99 ;;
esac
"""


class Checkout:
    """A folder with scripts/setup in it, and a PATH on which every python is the false one."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.notes = folder / "notes"
        self.bin = folder / "bin"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("scripts/setup", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
            (self.bin / name).write_text(_PYTHON.format(notes=self.notes))
            (self.bin / name).chmod(0o755)

    def start(self, *extras: str, script: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(script or self.root / "scripts" / "setup"), *extras],
            cwd="/",
            env={"PATH": f"{self.bin}:{os.defpath}", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def setup(self, *extras: str, script: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*extras, script=script, **environment) as process:
            output, errors = process.communicate(timeout=20)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def done(self) -> list[str]:
        """Return what was done since the last call."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_setup_installs_once_and_then_does_and_says_nothing(checkout: Checkout) -> None:
    first = checkout.setup()
    assert (first.returncode, first.stdout) == (0, "")
    assert checkout.done() == ["venv", f"pip {checkout.root}"]
    again = checkout.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert checkout.done() == []


def test_setup_through_a_symlink_finds_the_checkout(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "setup").symlink_to(checkout.root / "scripts" / "setup")
    assert checkout.setup(script=tmp_path / "setup").returncode == 0
    assert checkout.done() == ["venv", f"pip {checkout.root}"]
    assert checkout.setup().returncode == 0
    assert checkout.done() == []


def test_setup_of_an_extra_adds_it_and_keeps_the_venv(checkout: Checkout) -> None:
    checkout.setup()
    checkout.done()
    assert checkout.setup("test").returncode == 0
    assert checkout.done() == [f"pip {checkout.root}[test]"]
    for extras in ([], ["test"]):
        checkout.setup(*extras)
    assert checkout.done() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "pyproject.toml").write_text("# other dependencies"),
        lambda root: (root / ".venv" / "installed.base").unlink(),
    ],
    ids=["other dependencies", "an installation that was cut short"],
)
def test_setup_after_a_change_installs_again_in_the_same_venv(
    checkout: Checkout, change: Callable[[Path], object]
) -> None:
    checkout.setup()
    checkout.done()
    change(checkout.root)
    assert checkout.setup().returncode == 0
    assert checkout.done() == [f"pip {checkout.root}"]


def test_setup_of_a_checkout_that_was_moved_makes_a_new_venv(checkout: Checkout) -> None:
    checkout.setup()
    checkout.done()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.setup().returncode == 0
    assert checkout.done() == ["venv", f"pip {checkout.root}"]


def test_setup_with_a_venv_whose_python_is_gone_makes_a_new_one(checkout: Checkout) -> None:
    checkout.setup()
    checkout.done()
    (checkout.root / ".venv" / "bin" / "python").unlink()
    assert checkout.setup().returncode == 0
    assert checkout.done() == ["venv", f"pip {checkout.root}"]


def test_two_setups_at_once_install_once(checkout: Checkout) -> None:
    running = [checkout.start() for _ in range(3)]
    for process in running:
        with process:
            process.communicate(timeout=20)
        assert process.returncode == 0
    assert checkout.done() == ["venv", f"pip {checkout.root}"]


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ("OLD_PYTHON", ["cannot find Python 3.11 or newer", "apt-get install python3 python3-venv"]),
        ("NO_VENV", ["no venv module", "apt-get install python3-venv"]),
        ("NO_NETWORK", ["pip says why", "failed:"]),
    ],
)
def test_setup_that_cannot_be_says_what_is_missing_and_works_once_it_is_there(
    checkout: Checkout, lack: str, words: list[str]
) -> None:
    failed = checkout.setup(**{lack: "1"})
    assert failed.returncode == 1
    assert failed.stdout == ""
    for word in words:
        assert word in failed.stderr
    checkout.done()
    assert checkout.setup().returncode == 0
    assert checkout.done()[-1] == f"pip {checkout.root}"
