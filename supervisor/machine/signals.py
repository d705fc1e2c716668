"""Signals to the supervisor itself: once the loop runs, taken in by it like everything else."""

import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

from supervisor.machine.reactor import Reactor

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ALL = (*_STOP_SIGNALS, signal.SIGHUP)


def leave_on_stop_signal() -> None:
    """Exit with code 0 on SIGTERM or SIGINT; for the start, when there is nothing yet that would have to be stopped."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _leave)
    # Whoever asks for a start anew has it.
    signal.signal(signal.SIGHUP, _wake_only)


def put_off() -> None:
    """Let signals wait, also through exec(2), until take_up()."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def take_up() -> None:
    """Undo that."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


def on_signals(reactor: Reactor, stop: Callable[[], None], restart: Callable[[], None]) -> None:
    """Call from the reactor for each SIGTERM or SIGINT, and for each SIGHUP, never in the middle of something else.

    Source: the Python library reference, signal.set_wakeup_fd.
    """
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in _ALL:
        signal.signal(number, _wake_only)
    take_up()

    def take() -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = set(reader.recv(4096))
            if numbers & set(_STOP_SIGNALS):
                stop()
            elif signal.SIGHUP in numbers:
                restart()

    reactor.watch(reader, take)


def _wake_only(_number: int, _frame: FrameType | None) -> None:
    """The number has gone through the wakeup descriptor; this only keeps the default action from happening."""


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
