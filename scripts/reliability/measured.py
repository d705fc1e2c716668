"""The server of a load run: that of `corral serve`, but it notes how long each step of its loop takes.

A step is what the supervisor's thread does from being woken until it waits again: all that time it hears nobody.
"""

import array
import select
import sys
import time
from pathlib import Path
from typing import Any, cast

from supervisor import operator_log, server, settings
from supervisor.clock import Clock
from supervisor.machine.reactor import Reactor

# How long each step has taken, in seconds.
_steps = array.array("d")


class _Stopwatch:
    """An epoll that notes the time between its waits."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._woken: float | None = None

    def poll(self, *arguments: Any) -> list[tuple[int, int]]:
        if self._woken is not None:
            _steps.append(time.perf_counter() - self._woken)
        try:
            return self._epoll.poll(*arguments)
        finally:
            self._woken = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class _MeasuredReactor(Reactor):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._epoll = cast(select.epoll, _Stopwatch(self._epoll))


def main(steps: str) -> None:
    """Serve until SIGTERM. Args: steps: path of the file that then takes how long each step took, as doubles."""
    operator_log.configure()
    vars(server)["Reactor"] = _MeasuredReactor
    server.Server(settings.load({}), lambda url: print(url, flush=True)).run()
    Path(steps).write_bytes(_steps.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
