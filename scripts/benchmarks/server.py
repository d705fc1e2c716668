"""A server for measuring, and the leanest client for it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

AGENTS = Path(__file__).parent / "agents"
_FINAL = {"COMPLETED", "FAILED", "CANCELED"}


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {content}")
        return content

    def submit(self, agent: str) -> str:
        return str(self.call("POST", "/executions/run", {"agent_id": agent, "input": {}})["execution_id"])

    def get(self, execution_id: str) -> dict[str, Any]:
        return self.call("GET", f"/executions/{execution_id}")

    def wait(self, execution_id: str, until: set[str] = _FINAL, pause_seconds: float = 0.0005) -> dict[str, Any]:
        """Poll until the status is one of these."""
        while True:
            execution = self.get(execution_id)
            if execution["status"] in until:
                return execution
            time.sleep(pause_seconds)  # noqa: TID251 - over HTTP there is no event to wait for

    def close(self) -> None:
        self._connection.close()


class BenchServer:
    """`corral serve` with a fresh data folder; a context that ends it."""

    def __init__(self, *flags: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="corral-bench-")
        command = [sys.executable, "-m", "supervisor.cli", "serve", "--port", "0", "--data", self._folder.name]
        self.process = subprocess.Popen(
            [*command, "--agents", str(AGENTS), *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CORRAL_TRUSTED_AGENTS": '["*"]'},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[^:]+:(\d+)", line)
        if not found:
            raise RuntimeError("the server did not start")
        self.port = int(found.group(1))

    def client(self) -> Client:
        return Client(self.port)

    def processes(self) -> dict[str, psutil.Process]:
        """Return the server's own processes by name: supervisor, launcher, api."""
        supervisor = psutil.Process(self.process.pid)
        return {"supervisor": supervisor} | {_name(child): child for child in supervisor.children()}

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU time of each process so far, and of the launcher together with all that it started."""
        processes = self.processes()
        own = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
        return own | {"launcher_and_agents": _with_all_below(processes["launcher"])}

    def __enter__(self) -> "BenchServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self._folder.cleanup()


def _name(service: psutil.Process) -> str:
    return "api" if "api" in service.cmdline() else "launcher"


def _with_all_below(process: psutil.Process) -> float:
    """Return the CPU time of a process, of those it has waited for, and of those below it that live."""
    while True:
        everybody = [process, *process.children(recursive=True)]
        try:
            return float(sum(sum(one.cpu_times()[:4]) for one in everybody))
        except psutil.NoSuchProcess as error:
            # One below it has ended meanwhile: its time is its parent's now, who may have been asked before that.
            if error.pid == process.pid:
                raise
