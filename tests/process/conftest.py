"""What the tests with real process trees need."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers.server import RunningServer

# What a shell that starts a server in the background, or nohup, leaves to it.
INHERITED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose agents the tests write, started in surroundings of which no agent must see anything."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "agents").mkdir()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in INHERITED}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    umask = os.umask(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKEN", "secret")
        patch.setenv("LC_ALL", "C.UTF-8")
        running = RunningServer(folder / "data", "--max-running", "8", agents=folder / "agents")
    os.umask(umask)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, handler in before.items():
        signal.signal(number, handler)
    with running:
        running.http.get("/admin/health")  # its connection stays open, and is nothing that a test leaves
        yield running
    assert not running.errors(), "the server complained"
