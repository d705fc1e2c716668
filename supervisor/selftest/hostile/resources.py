"""Processes that are to stay, and limits."""

import os
import signal
import time
from typing import Any

from .attempts import DONE, LONGEST_SECONDS, At, Attempts, attempt, fork, linger

_MEGABYTE = 1 << 20


def daemon(at: At, context: Any) -> Attempts:
    """Leave a process that has gone from its session and its parent, and holds the pipes."""

    def leave() -> None:
        os.setsid()
        fork(linger)

    os.waitpid(fork(leave), 0)
    return {"leave a daemon": DONE}


def ignore_signals(at: At, context: Any) -> Attempts:
    """Ignore all that can be ignored, and be canceled."""
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        attempt(signal.signal, number, signal.SIG_IGN)
    context.progress("deaf")
    linger()
    return {"outlive the cancel": DONE}


def stop_itself(at: At, context: Any) -> Attempts:
    """Be stopped when it is canceled."""
    context.progress("stopping")
    os.kill(os.getpid(), signal.SIGSTOP)
    linger()
    return {"outlive the cancel": DONE}


def hop(at: At, context: Any) -> Attempts:
    """Have processes that are never the same for long, so that whoever looks for them is late."""
    deadline = time.monotonic() + LONGEST_SECONDS

    def go_on() -> None:
        os.setsid()
        while time.monotonic() < deadline:
            if os.fork():
                os._exit(0)
            os.setsid()

    for _ in range(2):
        fork(go_on)
    context.progress("hopping")
    linger()
    return {"outlive the cancel": DONE}


def processes(at: At, context: Any) -> Attempts:
    """Start more processes than it may."""
    return {"start 64 processes": attempt(lambda: [fork(linger) for _ in range(64)])}


def memory(at: At, context: Any) -> Attempts:
    """Take more memory than it may."""
    return {"take 128 MiB": attempt(lambda: [_take(_MEGABYTE) for _ in range(128)])}


def memory_of_children(at: At, context: Any) -> Attempts:
    """Take memory in processes that each stay below the limit."""
    reader, writer = os.pipe()

    def take() -> None:
        kept: list[bytes] = []
        outcome = attempt(lambda: kept.append(_take(16 * _MEGABYTE)))
        os.write(writer, f"{outcome}\n".encode())
        linger()

    for _ in range(8):
        fork(take)
    os.close(writer)
    with open(reader) as outcomes:
        found = {outcomes.readline().strip() for _ in range(8)}
    return {"take 128 MiB in 8 processes": " ".join(sorted(found))}


def memory_outside(at: At, context: Any) -> Attempts:
    """Take memory that is no process's own: files without a name."""
    return {
        "take 128 MiB in memfd_create": attempt(
            lambda: [os.write(os.memfd_create("m"), bytes(4 * _MEGABYTE)) for _ in range(32)]
        )
    }


def disk(at: At, context: Any) -> Attempts:
    """Write more than it may."""
    places = dict.fromkeys((context.workdir, os.environ["TMPDIR"], "/dev/shm"))
    return {f"write 16 MiB in {place}": attempt(_fill, f"{place}/{at.mark}") for place in places}


def open_files(at: At, context: Any) -> Attempts:
    """Open more files than it may."""
    opened: list[int] = []

    def open_all() -> None:
        while len(opened) < 256:
            opened.append(os.dup(0))

    outcome = attempt(open_all)
    for descriptor in opened:
        os.close(descriptor)
    return {"open 256 files": outcome}


def cpu_time(at: At, context: Any) -> Attempts:
    """Compute longer than it may."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        pass
    return {"spin": DONE}


def wall_time(at: At, context: Any) -> Attempts:
    """Stay longer than it may."""
    linger()
    return {"stay": DONE}


def _take(size: int) -> bytes:
    return b"x" * size


def _fill(path: str) -> None:
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(16):
                if file.write(bytes(_MEGABYTE)) < _MEGABYTE:
                    file.write(b"x")
    finally:
        attempt(os.unlink, path)
