"""Connections to the sockets of a server's data folder, without its own client."""

import socket
from pathlib import Path


def connected(path: Path) -> socket.socket:
    """Return a connection, as soon as there is one or not at all. Raises OSError."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client
