"""What the service manager that has started us, if there is one, wants to know."""

import os
import socket
import time

import structlog

_log = structlog.get_logger()


def tell_ready() -> None:
    """Say that requests are answered."""
    _tell("READY=1")


def tell_reloading() -> None:
    """Say that the server starts itself anew, in the same process, and will tell when it is ready."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def tell_stopping(seconds: float) -> None:
    """Say that the server is about to end, and how long that may take; what the manager grants anyway still counts."""
    _tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")


def _tell(message: str) -> None:
    """Source: sd_notify(3): one datagram to the socket that the environment names."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(message.encode(), _without_at_sign(address))
        except OSError as error:
            _log.warning("cannot tell the service manager", message=message, error=str(error))


def _without_at_sign(address: str) -> str:
    """Return an address as the kernel takes it: an abstract one begins with a zero byte, written as "@"."""
    return "\0" + address[1:] if address.startswith("@") else address
