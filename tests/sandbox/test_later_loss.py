"""A machine that stops letting its server make sandboxes, and lets it again."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import httpx
import pytest

from tests.helpers import own_user_namespace, problems, without_sandboxes
from tests.helpers.processes import wait_for_exit
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

REASON = "cannot make namespaces"


class Host:
    """A server in a user namespace, and the ceiling of namespaces there."""

    def __init__(self, server: RunningServer, ceilings: TextIO) -> None:
        self.server = server
        self._ceilings = ceilings

    def set_ceiling(self, amount: int) -> None:
        print(amount, file=self._ceilings)

    def isolation(self) -> dict[str, Any]:
        return dict(self.server.http.get("/admin/health").json()["isolation"])

    def lose_sandboxes(self) -> dict[str, Any]:
        """Lower the ceiling and run agents until one cannot have its sandbox; return its execution."""
        self.set_ceiling(0)
        # With a sandbox that was made before, until there is none left: after such an end none is used again.
        while (execution := self.server.run("leaves_traces", how="killed"))["termination"]["code"] == "SIGNALED":
            pass
        return execution


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    without_sandboxes.require()
    fifo = tmp_path / "ceilings"
    os.mkfifo(fifo)
    wrapper = (sys.executable, own_user_namespace.__file__, str(fifo))
    # Open for both: to open it waits for nobody.
    writer = os.open(fifo, os.O_RDWR)
    with open(writer, "w", buffering=1) as ceilings, RunningServer(tmp_path / "data", wrapper=wrapper) as server:
        yield Host(server, ceilings)
        # Who sets them is in the server's control group, and ends with this.
        ceilings.close()


def test_lost_sandboxes_refuse_submits_with_the_reason_until_they_are_back(host: Host) -> None:
    assert host.server.run("ok")["status"] == "COMPLETED"
    before = host.isolation()
    assert before["tier"] == "sandboxed"
    execution = host.lose_sandboxes()
    assert (execution["status"], execution["termination"]["code"]) == ("FAILED", "SANDBOX_UNAVAILABLE")
    lost = wait_until(lambda: host.isolation() if host.isolation()["degraded"] else None)
    assert (lost["tier"], lost["effective"], lost["degraded"]) == ("trusted", [], ["sandbox"])
    assert lost["reasons"][0].startswith(REASON)
    answer = host.server.http.post("/executions/run", json={"agent_id": "ok", "input": {}})
    assert REASON in problems.check(answer, 503)["detail"]
    assert host.server.run("trusted")["status"] == "COMPLETED"
    host.set_ceiling(1000)
    wait_until(lambda: host.isolation() == before)
    assert host.server.run("ok")["status"] == "COMPLETED"


def test_lost_sandboxes_are_known_to_an_api_that_is_started_later(host: Host) -> None:
    host.lose_sandboxes()
    wait_until(lambda: host.isolation()["degraded"])
    before = host.server.api_pid
    os.kill(before, signal.SIGKILL)
    wait_for_exit(before)
    # The connection that was kept open is gone with it.
    answer = httpx.get(f"{host.server.url}/admin/health", timeout=20)
    assert answer.json()["isolation"]["degraded"] == ["sandbox"]
    assert host.server.api_pid != before
    host.server.http.close()
