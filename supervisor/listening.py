"""The listening socket: opened by the supervisor, so that requests wait in its backlog while the API is restarted."""

import contextlib
import ipaddress
import socket

from supervisor.errors import ConfigurationError

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: a loopback address or "localhost". port: 0 for a free one.
    Raises:
        ConfigurationError: the address cannot be used, or is not a loopback address: whoever reaches the API may run
            agents, and there are no API keys.
    """
    if not is_loopback(host):
        raise ConfigurationError(
            f"cannot listen on {host!r}: only loopback addresses are allowed, because the API asks for no key"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            stack.pop_all()
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def inherit(descriptor: int, host: str, port: int) -> socket.socket:
    """Return the listening socket that the program before has left open; another one if the settings are others now.

    Args:
        descriptor: owned by what is returned, or closed. host, port: see listen(); for port 0 any port will do.
    Raises:
        ConfigurationError: see listen().
    """
    listener = socket.socket(fileno=descriptor)
    address, number = listener.getsockname()[:2]
    wanted = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    if address in wanted and port in (0, number):
        return listener
    listener.close()
    return listen(host, port)


def url(listener: socket.socket) -> str:
    """Return the base URL of what is served on a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether this is an address of the loopback interface, or its name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
