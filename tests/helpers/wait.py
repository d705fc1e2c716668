"""The only place in the tests that sleeps."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# How many times slower this machine is than one that the tests' time limits are made for: an emulator, for instance.
_SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))


def patience(seconds: float) -> float:
    """Return the time limit on this machine of what may take so many seconds on an ordinary one."""
    return seconds * _SLOWNESS


def wait_until(what: Callable[[], T], seconds: float = 20.0) -> T:
    """Return what() as soon as it is true. Raises AssertionError with the last value when the time is up."""
    deadline = time.monotonic() + patience(seconds)
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true after {patience(seconds)} s; last value: {value!r}")
        time.sleep(0.005)
