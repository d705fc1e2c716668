"""Signals to the supervisor itself: once the loop runs, taken in by it like everything else."""

import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

from supervisor.machine.reactor import Reactor

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def leave_on_stop_signal() -> None:
    """Exit with code 0 on SIGTERM or SIGINT; for the start, when there is nothing yet that would have to be stopped."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _leave)


def on_stop_signal(reactor: Reactor, call: Callable[[], None]) -> None:
    """Call from the reactor for each SIGTERM or SIGINT, never in the middle of something else.

    Source: the Python library reference, signal.set_wakeup_fd.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in _STOP_SIGNALS:
        signal.signal(number, _wake_only)

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = reader.recv(4096)
            if set(_STOP_SIGNALS) & set(numbers):
                call()

    reactor.watch(reader, take)


def _wake_only(_number: int, _frame: FrameType | None) -> None:
    """The number has gone through the wakeup descriptor; this only keeps the default action from happening."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
