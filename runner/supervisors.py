"""Who the launcher works for: one supervisor at a time, always the one that came last, and for a while none.

The launcher outlives its supervisor. When that is killed, or starts itself anew, its connection closes; the runs go on,
and what happens to them is kept (runner.run) until somebody asks. Whoever connects to the listening socket, is of the
same user and says ADOPT, is the supervisor from then on: that there are no two of them is seen to by the lock of the
data folder, so one that comes is always right, and the one before is stopped, hung, or about to be replaced.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import time

from runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_PEER_CREDENTIALS = struct.Struct("3i")

# For the supervisor that has started this process, which has spoken before that.
_FIRST_SECONDS = 10.0


class Supervisors:
    """The listening socket, the supervisor's connection, and how long there has been none."""

    def __init__(
        self,
        listener: socket.socket,
        first: socket.socket,
        selector: selectors.BaseSelector,
        on_come: Callable[[], None],
        on_request: Callable[[dict[str, Any], list[int]], None],
    ) -> None:
        """Begin to listen.

        Args:
            listener: a bound SOCK_SEQPACKET Unix socket. first: connected to who has started this process.
            on_come: there is another supervisor.
            on_request: takes what it says after that, with descriptors.
        """
        # Only here, because it is the process that calls this of which those who connect are told. Source: unix(7),
        # SO_PEERCRED.
        listener.listen()
        self._listener = listener
        self._selector = selector
        self._on_come = on_come
        self._on_request = on_request
        self._channel: protocol.Channel | None = None
        self._is_misunderstood = False
        self._alone_since = time.monotonic()
        self._orphan_seconds = _FIRST_SECONDS
        selector.register(listener, selectors.EVENT_READ, self._accept)
        self._expect(first)

    def patience(self) -> float | None:
        """Return after how many seconds are_gone() will be true if nobody comes; None while there is one."""
        if self._channel and not self._is_misunderstood:
            return None
        return max(0.0, self._alone_since + self._orphan_seconds - time.monotonic())

    def are_gone(self) -> bool:
        """Tell whether to give up the runs: there has been none for too long, or one that speaks another protocol."""
        return self._is_misunderstood or self.patience() == 0.0

    def send(self, event: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Tell the supervisor; if there is none, nobody."""
        if self._channel:
            # One that has died may have said something before; it is lost when that is taken in.
            with contextlib.suppress(protocol.Disconnected):
                self._channel.send(event, descriptors)

    def watch(self) -> None:
        """Wait for room in the socket only while something waits to be sent; after each round."""
        if not self._channel:
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.backlog else 0)
        if events != self._selector.get_key(self._channel).events:
            self._selector.modify(self._channel, events, self._converse)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        _, uid, _ = _PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid != os.geteuid():
            connection.close()
            return
        self._expect(connection)

    def _expect(self, connection: socket.socket) -> None:
        comer = protocol.Channel(connection)
        self._selector.register(comer, selectors.EVENT_READ, lambda: self._greet(comer))

    def _greet(self, comer: protocol.Channel) -> None:
        """Hear the first words of somebody who has connected."""
        try:
            received = comer.receive()
        except (protocol.Disconnected, ValueError):
            self._forget(comer)
            return
        if received is None:
            return
        message, descriptors = received
        protocol.close_all(descriptors)
        if message.get("do") != protocol.ADOPT:
            self._forget(comer)
            return
        if message.get("protocol") != protocol.PROTOCOL:
            self._is_misunderstood = True
            return
        if self._channel:
            self._forget(self._channel)
        self._channel = comer
        self._orphan_seconds = message["orphan_seconds"]
        self._selector.modify(comer, selectors.EVENT_READ, self._converse)
        self._on_come()
        self._converse()

    def _converse(self) -> None:
        if not self._channel:  # lost in the same round in which this was called for
            return
        try:
            self._channel.flush()
            self._take_in()
        except protocol.Disconnected:
            # An error comes before what is still to be read: all that it said before it died is taken in.
            with contextlib.suppress(protocol.Disconnected):
                self._take_in()
            self._lose()

    def _take_in(self) -> None:
        assert self._channel is not None
        while received := self._channel.receive():
            self._on_request(*received)

    def _lose(self) -> None:
        assert self._channel is not None
        self._forget(self._channel)
        self._channel = None
        self._alone_since = time.monotonic()

    def _forget(self, channel: protocol.Channel) -> None:
        self._selector.unregister(channel)
        channel.close()
