"""The listening socket."""

import socket
from pathlib import Path

import pytest

from supervisor import listening
from supervisor.errors import ConfigurationError
from supervisor.unix_address import unix_address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_listen_on_a_loopback_address_takes_connections_at_the_url_it_tells(host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with listening.listen(host, 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address[:2], timeout=20):
            listener.accept()[0].close()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        assert listening.url(listener) == f"http://{shown}:{address[1]}"
        assert not listener.get_inheritable()


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.0.1", "8.8.8.8", "example.org", "localhost.example.org", "127.1", "2130706433"],
)
def test_listen_on_what_is_no_loopback_address_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"only loopback addresses are allowed"):
        listening.listen(host, 0)


def test_listen_on_a_port_in_use_is_refused_and_leaves_no_socket() -> None:
    with listening.listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"^cannot listen on 127.0.0.1 port {port}: Address already in use$"
        ):
            listening.listen("127.0.0.1", port)


def test_listen_on_a_port_that_was_just_used_works() -> None:
    with listening.listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address, timeout=20):
            listener.accept()[0].close()
    listening.listen("127.0.0.1", address[1]).close()


@pytest.mark.parametrize("length", [1, 200])
def test_unix_address_is_one_to_bind_and_connect_to_however_long_the_path(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        unix_address(folder / "socket") as address,
    ):
        listener.bind(address)
        listener.listen()
        client.connect(address)
        listener.accept()[0].close()
        assert (folder / "socket").is_socket()


def test_unix_address_in_a_folder_that_is_not_there_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), unix_address(tmp_path / "nowhere" / "socket"):
        pass
