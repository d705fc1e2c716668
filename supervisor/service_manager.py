"""What the service manager that has started us, if there is one, wants to know."""

import os
import socket

import structlog

_log = structlog.get_logger()


def tell_ready() -> None:
    """Say that requests are answered. Source: sd_notify(3): one datagram to the socket that the environment names."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"READY=1", _without_at_sign(address))
        except OSError as error:
            _log.warning("cannot tell the service manager that the server is ready", error=str(error))


def _without_at_sign(address: str) -> str:
    """Return an address as the kernel takes it: an abstract one begins with a zero byte, written as "@"."""
    return "\0" + address[1:] if address.startswith("@") else address
