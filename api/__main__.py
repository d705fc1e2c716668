"""The API process: Waitress on the listening socket that the supervisor opened; ends when the supervisor does."""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Protocol, cast

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from api.app import create_app
from api.connection import Channel
from runner.sandbox import prctl
from supervisor import operator_log
from supervisor.agents import AgentRegistry
from supervisor.clock import Clock
from supervisor.logs import Logs
from supervisor.nudge import Nudger
from supervisor.settings import Settings
from supervisor.store import Store

# For the last answers to leave, after their threads have written them.
_FLUSH_SECONDS = 1.0


class WaitressServer(Protocol):
    """What Waitress makes for one socket, as far as it is used here; types-waitress lacks some of it."""

    accepting: bool
    active_channels: Mapping[int, HTTPChannel]
    channel_class: type[HTTPChannel]
    _map: Mapping[int, socket.socket]

    def run(self) -> None:
        """Serve until SystemExit is raised."""


def main(settings_json: str, listener: str, ready: str, started_at: str) -> None:
    """Serve until SIGTERM.

    Args:
        settings_json: the settings. listener: number of the listening socket's descriptor.
        ready: number of a descriptor that takes a byte when requests are answered.
        started_at: the server's start, in microseconds since the epoch.
    """
    prctl.die_with_parent(os.getppid())
    operator_log.configure()
    settings = Settings.model_validate_json(settings_json)
    clock = Clock()
    app = create_app(
        store=Store(settings.database, clock),
        agents=AgentRegistry(settings.agents),
        logs=Logs(settings.logs),
        nudger=Nudger(settings.data),
        clock=clock,
        started_at=int(started_at),
    )
    server = cast(
        WaitressServer,
        create_server(
            app,
            sockets=[socket.socket(fileno=int(listener))],
            threads=settings.http_threads,
            max_request_body_size=settings.max_body_bytes + 1,
            asyncore_use_poll=True,
            connection_limit=1000,
            ident=None,
        ),
    )
    server.channel_class = Channel
    signal.signal(signal.SIGTERM, _leave)
    os.write(int(ready), b"r")
    os.close(int(ready))
    server.run()
    _flush(server)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _flush(server: WaitressServer) -> None:
    """Send what is answered but not yet on its way."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    server.accepting = False
    while time.monotonic() < deadline and any(channel.total_outbufs_len for channel in server.active_channels.values()):
        wasyncore.loop(timeout=0.05, map=server._map, use_poll=True, count=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
