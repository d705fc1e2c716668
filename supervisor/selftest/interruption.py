"""SIGINT and SIGTERM, taken in only where the selftest waits: so nothing that is to be removed is left half made."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Hold them back until a wait, or until the end of this context. Processes that are started inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait(seconds: float) -> None:
    """Wait. Raises SystemExit: one of them has come."""
    if found := signal.sigtimedwait(_SIGNALS, seconds):
        raise SystemExit(128 + found.si_signo)


def let_through() -> None:
    """Take them in as they come; for a process that was started while they were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
