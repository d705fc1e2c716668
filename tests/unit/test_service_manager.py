"""What a service manager is told, over the socket that it names."""

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import service_manager


def check_told(
    address: str,
    name: str,
    patch: pytest.MonkeyPatch,
    tell: Callable[[], None] = service_manager.tell_ready,
    message: bytes = b"READY=1",
) -> None:
    """See that one message comes. Args: address: as the kernel takes it. name: as the environment has it."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as manager:
        manager.bind(address)
        patch.setenv("NOTIFY_SOCKET", name)
        tell()
        assert manager.recv(100) == message
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_readiness_is_told_to_a_socket_with_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_told(str(tmp_path / "notify"), str(tmp_path / "notify"), monkeypatch)


def test_readiness_is_told_to_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"corral-test-{os.getpid()}"
    check_told(f"\0{name}", f"@{name}", monkeypatch)


def test_end_is_told_with_the_time_that_it_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = b"STOPPING=1\nEXTEND_TIMEOUT_USEC=2500000"
    path = str(tmp_path / "notify")
    check_told(path, path, monkeypatch, lambda: service_manager.tell_stopping(2.5), message)


@pytest.mark.parametrize("name", ["", "missing"])
def test_server_without_a_manager_that_listens_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name and str(tmp_path / name))
    service_manager.tell_ready()
    assert ("cannot tell the service manager" in "".join(capfd.readouterr())) == bool(name)
