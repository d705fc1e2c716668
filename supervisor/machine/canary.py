"""Whether this machine can have sandboxes: found out by having one."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from runner import protocol
from supervisor.isolation import Canary

_SCRIPT = Path(protocol.__file__).with_name("canary.py")
_PATIENCE_SECONDS = 30


def send_canary() -> Canary:
    """Run a small agent of ours in a sandbox, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="corral-canary-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", _SCRIPT, folder],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Canary(error=f"it has not ended within {_PATIENCE_SECONDS} seconds")
    if done.returncode:
        return Canary(error=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found = json.loads(done.stdout)
    return Canary(tuple(found.get("layers", ())), found.get("error"), found["strict_lacks"])
