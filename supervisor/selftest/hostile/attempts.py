"""How the probes try things, and what they are told of the host."""

import errno
import os
import time
from collections.abc import Callable
from typing import Any

DONE = "done"

# After so long all that does anything has ended by itself.
LONGEST_SECONDS = 30.0

Attempts = dict[str, str]
"""What was tried, and what came of it: DONE, the name of an error, or a word."""


class At:
    """What of the host the probes aim at; see supervisor/selftest/traps.py."""

    def __init__(self, mark: str, places: dict[str, Any]) -> None:
        self.mark = mark
        self.canary: str = places["canary"]
        self.data: str = places["data"]
        self.ports: list[int] = places["ports"]
        self.abstract: str = places["abstract"]
        self.server_pid: int = places["server_pid"]
        self.secret_name: str = places["secret_name"]


def attempt(action: Callable[..., object], *arguments: Any) -> str:
    """Call something; return DONE or the name of the error."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except (ValueError, MemoryError) as error:
        return type(error).__name__
    return DONE


def attempt_in_child(action: Callable[..., object], *arguments: Any) -> str:
    """As attempt, in a process of its own: what is done there ends with it."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            action(*arguments)
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return DONE if code == 0 else errno.errorcode.get(code, str(code))


def fork(body: Callable[[], object]) -> int:
    """Run something in a new process that then ends; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def linger() -> None:
    """Stay, but not for ever."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)


def read(path: str) -> bytes:
    """Return what is in a file."""
    with open(path, "rb") as file:
        return file.read()
