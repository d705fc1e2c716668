"""The command `corral` as a user types it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.processes import wait_for_exit
from tests.helpers.wait import patience

CORRAL = [sys.executable, "-m", "supervisor.cli"]
ROOT = Path(__file__).parent.parent.parent


def environment(**extra: str) -> dict[str, str]:
    """Return ours without any setting of Corral's, and with what is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")} | extra


def corral(*arguments: str | Path, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end. Args: extra: of the environment."""
    return subprocess.run(
        [*CORRAL, *map(str, arguments)],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT), COLUMNS="200", **extra),
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )


@contextmanager
def started(
    *arguments: str | Path, cwd: Path | None = None, command: list[str] = CORRAL, **extra: str
) -> Iterator[subprocess.Popen[str]]:
    """Start the command, with pipes for stdout and stderr; at the end it gets SIGTERM if it still lives."""
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT), **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            wait_for_exit(process.pid)


def ready_line(process: subprocess.Popen[str], seconds: float = 30.0) -> str:
    """Return the first line that a starting server prints. Raises AssertionError: it ended or said nothing."""
    assert process.stdout is not None
    assert process.stderr is not None
    assert select.select([process.stdout], [], [], patience(seconds))[0], "no line in time"
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return line


def url_in(line: str) -> str:
    """Return the base URL of a ready line."""
    return next(word for word in line.split() if word.startswith("http://"))
