"""Signals to the supervisor itself: taken in by the loop like everything else."""

import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType

from supervisor.machine.reactor import Reactor


def on_stop_signal(reactor: Reactor, call: Callable[[], None]) -> None:
    """Call from the reactor for each SIGTERM or SIGINT, never in the middle of something else.

    Source: the Python library reference, signal.set_wakeup_fd.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _wake_only)

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = reader.recv(4096)
            if {signal.SIGTERM, signal.SIGINT} & set(numbers):
                call()

    reactor.watch(reader, take)


def _wake_only(_number: int, _frame: FrameType | None) -> None:
    """The number has gone through the wakeup descriptor; this only keeps the default action from happening."""
