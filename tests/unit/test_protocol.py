"""Messages between two processes, when one of them ends."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from runner import protocol

LAST_WORDS = {"tell": protocol.FAILED, "error": "it broke"}


@pytest.fixture
def ends() -> Iterator[tuple[protocol.Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, closing(protocol.Channel(ours)) as channel:
        yield channel, theirs


@pytest.mark.parametrize("unread", [0, 1, 3])
def test_last_words_are_heard_whatever_their_speaker_has_not_read(
    ends: tuple[protocol.Channel, socket.socket], unread: int
) -> None:
    channel, theirs = ends
    for _ in range(unread):
        channel.send(protocol.GET_READY)
    protocol.send(theirs, LAST_WORDS)
    theirs.close()
    assert channel.receive() == (LAST_WORDS, [])
    with pytest.raises(protocol.Disconnected):
        channel.receive()


@pytest.mark.parametrize("unread", [0, 1])
def test_end_without_words_is_the_end(ends: tuple[protocol.Channel, socket.socket], unread: int) -> None:
    channel, theirs = ends
    for _ in range(unread):
        channel.send(protocol.GET_READY)
    theirs.close()
    with pytest.raises(protocol.Disconnected):
        channel.receive()
