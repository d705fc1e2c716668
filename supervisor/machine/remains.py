"""What is left of trusted runs whose launcher is dead and was no child of this process: nobody hands it over.

The kernel gives it to the machine's init. It is found by what it cannot help to have: a fork of the launcher has the
launcher's command line, with its name in it, and what was started by exec(2) the agent's environment, unless it was
started with another one. So this is less than certain, in place of nothing.
"""

import contextlib
import os
import time
from collections.abc import Collection

import psutil

_ROUND_SECONDS = 0.01
_PATIENCE_SECONDS = 5.0

Key = tuple[str, int]


def kill(launchers: Collection[str], attempts: Collection[Key]) -> int:
    """Kill the processes of dead launchers, by their names, and of attempts that died with them.

    Returns:
        How many there still were; call again until it is 0.
    """
    killed = 0
    for name in os.listdir("/proc"):
        # psutil notes the start time before anything is read, and compares it before it signals.
        with contextlib.suppress(psutil.NoSuchProcess):
            if name.isdigit() and int(name) != os.getpid():
                process = psutil.Process(int(name))
                if _words(name, "cmdline") & set(launchers) or _attempt(name) in attempts:
                    process.kill()
                    killed += 1
    return killed


def kill_all(launchers: Collection[str], attempts: Collection[Key]) -> None:
    """Kill them until none is left; give up after a while, because not even SIGKILL ends everything at once."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while kill(launchers, attempts) and time.monotonic() < deadline:
        time.sleep(_ROUND_SECONDS)  # noqa: TID251 - before the loop exists; they are nobody's whose end could be told


def _attempt(pid: str) -> Key | None:
    """Return the attempt that a process was started for, if its environment says so."""
    variables = dict(word.partition("=")[::2] for word in _words(pid, "environ"))
    number = variables.get("CORRAL_ATTEMPT", "")
    return (variables.get("CORRAL_EXECUTION_ID", ""), int(number)) if number.isdigit() else None


def _words(pid: str, file: str) -> set[str]:
    """Return the words of a file of /proc; none of a zombie, or of one that is not ours to look into."""
    try:
        with open(f"/proc/{pid}/{file}", "rb") as words:
            return set(words.read().decode(errors="replace").split("\0"))
    except OSError:
        return set()
