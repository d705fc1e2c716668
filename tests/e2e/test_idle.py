"""A server with nothing to do, or only with waiting to do, lets the machine sleep."""

import os
import select
from pathlib import Path

import psutil
import pytest

from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

_SECONDS = 4.0

# The API looks once a second for connections that nobody uses; nothing else has a reason to wake up.
_WAKEUPS_PER_SECOND = 10
_CPU_SHARE = 0.02


@pytest.mark.parametrize("agents", [[], ["sleeper"]], ids=["no run", "a sleeping run"])
def test_idle_server_uses_next_to_no_cpu_and_hardly_wakes_up(tmp_path: Path, agents: list[str]) -> None:
    with RunningServer(tmp_path / "data") as server:
        server.run("ok")
        for execution in map(server.submit, agents):
            wait_until(lambda execution=execution: server.get(execution)["progress"])
        server.http.close()
        # A sandbox that was used is kept for a second.
        assert not ends_within(server, 1.5)
        processes = wait_until(lambda: everything_at_rest_of(server))
        before = [spent(process) for process in processes]
        assert not ends_within(server, _SECONDS)
        after = [spent(process) for process in processes]
        assert everything_of(server) == processes
        used = sum(end[0] - begin[0] for begin, end in zip(before, after, strict=True))
        woken = sum(end[1] - begin[1] for begin, end in zip(before, after, strict=True))
        assert used < _CPU_SHARE * _SECONDS
        assert woken < _WAKEUPS_PER_SECOND * _SECONDS


def everything_at_rest_of(server: RunningServer) -> list[psutil.Process]:
    """Return all its processes, if each init has the one child that it has while nothing happens; else none."""
    processes = everything_of(server)
    inits = psutil.Process(server.launcher_pid).children()
    return processes if inits and len(processes) == 3 + 2 * len(inits) else []


def everything_of(server: RunningServer) -> list[psutil.Process]:
    supervisor = psutil.Process(server.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def spent(process: psutil.Process) -> tuple[float, int]:
    """Return the CPU seconds of a process so far, and how often its threads have gone to sleep."""
    naps = 0
    for thread in process.threads():
        status = Path(f"/proc/{process.pid}/task/{thread.id}/status").read_text()
        naps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return sum(process.cpu_times()[:2]), naps


def ends_within(server: RunningServer, seconds: float) -> bool:
    """Wait for the end of a server that is not expected to end."""
    pidfd = os.pidfd_open(server.process.pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)
