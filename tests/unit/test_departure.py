"""Which wish for the end of the server does what, and when; with a clock that is moved by hand."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from supervisor.departure import Departure
from supervisor.machine.reactor import Reactor
from supervisor.settings import Settings
from tests.helpers.clock import FakeClock


class Server:
    """Keeps what it is told to do."""

    def __init__(self, on_stop: Literal["stop", "drain"], reactor: Reactor, clock: FakeClock) -> None:
        self.did: list[str] = []
        self._reactor = reactor
        self._clock = clock
        settings = Settings(on_stop=on_stop, drain_timeout_seconds=60, shutdown_grace_seconds=5)
        self.departure = Departure(settings, self, self.stop, reactor, clock)  # type: ignore[arg-type]

    def drain(self) -> None:
        self.did.append("drain")

    def stop(self) -> None:
        self.did.append("stop")

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._reactor.wait(0)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What the server takes for the service manager."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def told(manager: socket.socket) -> list[bytes]:
    messages = []
    try:
        while True:
            messages.append(manager.recv(100))
    except BlockingIOError:
        return messages


def test_signal_stops_and_each_further_one_hurries(reactor: Reactor, clock: FakeClock, manager: socket.socket) -> None:
    server = Server("stop", reactor, clock)
    assert not server.departure.begun
    for _ in range(3):
        server.departure.on_stop_signal()
    assert server.departure.begun
    server.departure.drain()
    server.pass_time(3600)
    assert server.did == ["stop"] * 3
    assert told(manager) == [b"STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000"]


def test_drain_stops_what_is_left_when_its_time_is_up(
    reactor: Reactor, clock: FakeClock, manager: socket.socket
) -> None:
    server = Server("stop", reactor, clock)
    server.departure.drain()
    assert server.departure.begun
    server.pass_time(59.9)
    server.departure.drain()
    assert server.did == ["drain"]
    server.pass_time(0.1)
    server.pass_time(3600)
    assert server.did == ["drain", "stop"]
    assert told(manager) == [b"STOPPING=1\nEXTEND_TIMEOUT_USEC=80000000"]


def test_signal_ends_a_drain_and_leaves_the_runs_their_grace(reactor: Reactor, clock: FakeClock) -> None:
    server = Server("stop", reactor, clock)
    server.departure.drain()
    server.departure.on_stop_signal()
    server.pass_time(3600)
    assert server.did == ["drain", "stop"]


def test_signal_that_is_set_to_drain_does_so_the_first_time(reactor: Reactor, clock: FakeClock) -> None:
    server = Server("drain", reactor, clock)
    server.departure.on_stop_signal()
    assert server.did == ["drain"]
    for _ in range(2):
        server.departure.on_stop_signal()
    server.pass_time(3600)
    assert server.did == ["drain", "stop", "stop"]
