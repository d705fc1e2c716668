"""Asking the supervisor over its socket: both ends, the one in the loop and the one of who asks."""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.clock import Clock
from supervisor.control import SOCKET, Conversation, conversation
from supervisor.errors import SupervisorSilent
from supervisor.machine.reactor import Reactor
from supervisor.reception import Reception
from tests.helpers.unix_sockets import connected


@pytest.fixture
def reception(tmp_path: Path, reactor: Reactor, clock: Clock) -> Iterator[Reception]:
    with closing(Reception(tmp_path, {"state": lambda: {"well": True}}, reactor, clock)) as reception:
        yield reception


def answered(reactor: Reactor, client: socket.socket, word: bytes) -> bytes:
    """Say a word, let the supervisor do all it has to do, and return what has come back; empty: it hung up."""
    client.setblocking(False)
    client.send(word)
    for _ in range(3):
        reactor.wait(0)
    try:
        return client.recv(4096)
    except ConnectionResetError:
        return b""


def test_word_is_answered_as_often_as_it_is_said(reception: Reception, reactor: Reactor, tmp_path: Path) -> None:
    with connected(tmp_path / SOCKET) as client:
        for _ in range(3):
            assert answered(reactor, client, b"state") == b'{"well": true}'


@pytest.mark.parametrize("word", [b"stat", b"state\n", b"\xff", b"x" * 100_000])
def test_visitor_with_an_unknown_word_is_shown_out_and_others_are_served(
    reception: Reception, reactor: Reactor, tmp_path: Path, word: bytes
) -> None:
    with connected(tmp_path / SOCKET) as client, connected(tmp_path / SOCKET) as other:
        assert answered(reactor, client, word) == b""
        assert answered(reactor, other, b"state") == b'{"well": true}'


def test_visitors_who_say_nothing_or_leave_hold_nobody_up(
    reception: Reception, reactor: Reactor, tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(200):
        connected(tmp_path / SOCKET).close()
        reactor.wait(0)
    reactor.wait(0)
    assert len(os.listdir("/proc/self/fd")) == before
    with connected(tmp_path / SOCKET), connected(tmp_path / SOCKET) as other:
        assert answered(reactor, other, b"state") == b'{"well": true}'


def test_visitors_beyond_a_number_are_shown_out(reception: Reception, reactor: Reactor, tmp_path: Path) -> None:
    clients = [connected(tmp_path / SOCKET)]
    while answered(reactor, clients[-1], b"state"):
        clients.append(connected(tmp_path / SOCKET))
    assert len(clients) == 65
    clients.pop().close()
    clients.pop().close()
    reactor.wait(0)
    with connected(tmp_path / SOCKET) as client:
        assert answered(reactor, client, b"state")
    for client in clients:
        client.close()


def test_socket_is_private_replaces_a_dead_ones_and_goes(tmp_path: Path, reactor: Reactor, clock: Clock) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with closing(Reception(tmp_path, {}, reactor, clock)):
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


def test_nobody_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(SupervisorSilent, match=r"^cannot ask the server: there is none that uses "):
        ask(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(tmp_path / SOCKET))
    with pytest.raises(SupervisorSilent, match=r"^cannot ask the server: there is none that uses "):
        ask(tmp_path)


def test_supervisor_that_does_not_come_to_the_door_is_told_in_time(reception: Reception, tmp_path: Path) -> None:
    with pytest.raises(SupervisorSilent, match=r"^cannot ask the server: timed out$"):
        ask(tmp_path)


def test_door_that_many_wait_at_is_told_at_once(reception: Reception, tmp_path: Path) -> None:
    waiting: list[socket.socket] = []
    try:
        while True:
            waiting.append(connected(tmp_path / SOCKET))
    except BlockingIOError:
        with pytest.raises(SupervisorSilent, match=r"^cannot ask the server: "):
            ask(tmp_path)
    for client in waiting:
        client.close()


def ask(data: Path) -> object:
    with conversation(data, 0.05) as supervisor:
        return supervisor.ask("state")


def test_end_of_the_server_is_told_to_who_waits_for_it(reception: Reception, reactor: Reactor, tmp_path: Path) -> None:
    with connected(tmp_path / SOCKET) as client:
        assert answered(reactor, client, b"state")
        waiting = threading.Thread(target=Conversation(client).wait_for_end)
        waiting.start()
        reception.close()
        waiting.join(20)
        assert not waiting.is_alive()


def test_death_of_the_server_is_no_end(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(SupervisorSilent, match=r"it was killed$"):
        Conversation(ours).wait_for_end()
