"""A short chaos run: a server whose processes are killed at random keeps every promise (docs/reliability.md)."""

import re
import subprocess
import sys

from tests.helpers.command import ROOT, environment
from tests.helpers.wait import patience

_SECONDS = 5


def test_server_whose_processes_are_killed_at_random_keeps_every_promise() -> None:
    command = [sys.executable, "-m", "scripts.reliability.chaos", "--seconds", str(_SECONDS), "--seed", "20261125"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=patience(200), check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    killed = re.search(r"^killed +(.*)$", done.stdout, re.MULTILINE)
    assert killed
    victims = {"agent", "init", "api", "launcher", "supervisor", "both", "everything", "hangup"}
    assert set(re.findall("[a-z]+", killed[1])) == victims
    assert re.search(r"^by status .*COMPLETED [1-9]", done.stdout, re.MULTILINE)
