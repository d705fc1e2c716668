"""The API process: Waitress on the listening socket that the supervisor opened; ends when the supervisor does."""

import logging
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
from waitress.task import ThreadedTaskDispatcher

from api.app import create_app
from api.connection import Channel
from runner.sandbox import prctl
from supervisor import operator_log
from supervisor.agents import AgentRegistry
from supervisor.artifacts import Artifacts
from supervisor.clock import Clock
from supervisor.isolation import Bulletin
from supervisor.logs import Logs
from supervisor.nudge import Nudger
from supervisor.settings import Settings
from supervisor.store import Store

# Between two looks for connections that nobody uses any more.
_HOUSEKEEPING_SECONDS = 1.0

# For the requests that wait for a thread, and then for those that have one. The supervisor waits longer than for both.
_QUEUE_SECONDS = 1.0
_THREADS_SECONDS = 1

# For the request of a client that was just connected.
_FRESH_SECONDS = 0.3

# For the last answers to leave, after their threads have written them.
_FLUSH_SECONDS = 0.5


class WaitressServer(Protocol):
    """What Waitress makes for one socket, as far as it is used here; types-waitress lacks some of it."""

    accepting: bool
    active_channels: Mapping[int, HTTPChannel]
    channel_class: type[HTTPChannel]
    task_dispatcher: ThreadedTaskDispatcher
    _map: Mapping[int, socket.socket]

    def pull_trigger(self) -> None:
        """Make it look up from its waiting."""


def main(settings_json: str, listener: str, ready: str, started_at: str) -> None:
    """Serve until SIGTERM.

    Args:
        settings_json: the settings. listener: number of the listening socket's descriptor.
        ready: number of a descriptor that takes a byte when requests are answered.
        started_at: the server's start, in microseconds since the epoch.
    """
    prctl.die_with_parent(os.getppid())
    # It tells, in a form of its own, of each request that waits for a thread for a moment.
    logging.getLogger("waitress.queue").disabled = True
    operator_log.configure()
    settings = Settings.model_validate_json(settings_json)
    clock = Clock()
    app = create_app(
        store=Store.attach(settings.database, clock),
        agents=AgentRegistry(settings.agents, settings.policy),
        logs=Logs(settings.logs),
        artifacts=Artifacts(settings.files),
        nudger=Nudger(settings.data),
        clock=clock,
        started_at=int(started_at),
        bulletin=Bulletin(settings.bulletin),
        data=settings.data,
    )
    server = cast(
        WaitressServer,
        create_server(
            app,
            sockets=[socket.socket(fileno=int(listener))],
            threads=settings.http_threads,
            max_request_body_size=settings.max_body_bytes + 1,
            connection_limit=1000,
            ident=None,
        ),
    )
    server.channel_class = Channel
    _serve(server, int(ready))


def _serve(server: WaitressServer, ready: int) -> None:
    """Serve until SIGTERM. It is looked at between two events, so no request is lost that is just being read."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        server.pull_trigger()

    signal.signal(signal.SIGTERM, stop)
    os.write(ready, b"r")
    os.close(ready)
    while not stopping:
        wasyncore.loop(timeout=_HOUSEKEEPING_SECONDS, map=server._map, use_poll=True, count=1)
    server.accepting = False
    _read_first_requests(server)
    _wait_for_threads(server.task_dispatcher)
    _flush(server)


def _read_first_requests(server: WaitressServer) -> None:
    """Read what clients send whose connections were accepted just now: nobody else would answer them."""
    deadline = time.monotonic() + _FRESH_SECONDS
    while time.monotonic() < deadline and any(map(_is_fresh, server.active_channels.values())):
        wasyncore.loop(timeout=0.05, map=server._map, use_poll=True, count=1)


def _is_fresh(channel: HTTPChannel) -> bool:
    return bool(channel.last_activity == channel.creation_time)


def _wait_for_threads(dispatcher: ThreadedTaskDispatcher) -> None:
    """Let every request that was read be answered; shutdown() alone would drop those that no thread has taken yet."""
    deadline = time.monotonic() + _QUEUE_SECONDS
    while dispatcher.queue and time.monotonic() < deadline:
        time.sleep(0.005)  # noqa: TID251 - the queue tells nobody when it is empty
    dispatcher.shutdown(timeout=_THREADS_SECONDS)


def _flush(server: WaitressServer) -> None:
    """Send what is answered but not yet on its way."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    while time.monotonic() < deadline and any(channel.total_outbufs_len for channel in server.active_channels.values()):
        wasyncore.loop(timeout=0.05, map=server._map, use_poll=True, count=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
