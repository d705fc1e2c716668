"""A real server in a process of its own, driven over real HTTP."""

import contextlib
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from tests.helpers.control_groups import ServerGroup
from tests.helpers.processes import children_at_rest, descendants, is_spare, lives, wait_for_exit
from tests.helpers.wait import patience, wait_until

AGENTS = Path(__file__).parent.parent / "agents"
_FINAL = {"COMPLETED", "FAILED", "CANCELED"}

# In every server's environment; no agent must ever see it.
SECRET = f"secret-{uuid.uuid4().hex}"


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return ours with these settings and no others, but with leave for the test agents that want no sandbox."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    settings = {"trusted_agents": ["*"], **settings}
    return (
        ours | {"PASSWORD": SECRET} | {f"CORRAL_{name.upper()}": json.dumps(value) for name, value in settings.items()}
    )


class RunningServer:
    """`corral serve` on a free port; a context that stops it."""

    def __init__(
        self, data: Path, *flags: str, agents: Path = AGENTS, wrapper: Sequence[str] = (), **settings: Any
    ) -> None:
        """Start it.

        Args:
            wrapper: a command that becomes the one that it is given as further arguments.
            settings: what goes by the environment; a value is written there as JSON.
        """
        self.data = data
        self.agents = agents
        self._group = ServerGroup(data)
        command = [*wrapper, sys.executable, "-m", "supervisor.cli", "serve", "--port", "0", "--data", str(data)]
        with (data.parent / f"{data.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                self._group.joined_by([*command, "--agents", str(agents), *flags]),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(settings),
            )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], patience(30))
        self.ready_line = self.process.stdout.readline() if readable else ""
        found = re.search(r"http://\S+", self.ready_line)
        if not found:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not get ready:\n{self.errors()}")
        self.url = found.group()
        self.http = httpx.Client(
            base_url=self.url, timeout=patience(30), limits=httpx.Limits(max_keepalive_connections=1)
        )

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def errors(self) -> str:
        """Return what the server has written to stderr."""
        return (self.data.parent / f"{self.data.name}.log").read_text(errors="replace")

    def submit(self, agent: str, **input: Any) -> str:
        """Submit an execution; return its id."""
        answer = self.http.post("/executions/run", json={"agent_id": agent, "input": input})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])

    def get(self, execution_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/executions/{execution_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_for(self, execution_id: str, *statuses: str, seconds: float = 20.0) -> dict[str, Any]:
        """Return the execution as soon as its status is one of these."""

        def reached() -> dict[str, Any] | None:
            execution = self.get(execution_id)
            return execution if execution["status"] in statuses else None

        return wait_until(reached, seconds)

    def wait_for_progress(self, execution_id: str) -> Any:
        """Return the agent's progress as soon as it has told any, which is when it is under way."""
        return wait_until(lambda: self.get(execution_id)["progress"])

    def wait_for_end(self, execution_id: str, seconds: float = 20.0) -> dict[str, Any]:
        return self.wait_for(execution_id, *_FINAL, seconds=seconds)

    def wait_for_retry(self, execution_id: str) -> dict[str, Any]:
        """Return the execution as soon as it waits for another attempt."""

        def waits() -> dict[str, Any] | None:
            execution = self.get(execution_id)
            return execution if execution["not_before"] else None

        return wait_until(waits)

    def run(self, agent: str, **input: Any) -> dict[str, Any]:
        """Submit an execution and return it as it is at its end."""
        return self.wait_for_end(self.submit(agent, **input))

    def cancel(self, execution_id: str) -> httpx.Response:
        return self.http.post(f"/executions/{execution_id}/cancel")

    def logs(self, execution_id: str, stream: str = "stdout", **query: int) -> dict[str, Any]:
        answer = self.http.get(f"/executions/{execution_id}/logs", params={"stream": stream, **query})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def files(self, execution_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/executions/{execution_id}/files")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def file(self, execution_id: str, name: str) -> bytes:
        """Return the content of a file that was kept."""
        answer = self.http.get(f"/executions/{execution_id}/files/{quote(name)}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def events(self, execution_id: str, kind: str) -> list[Any]:
        """Return the data of all events of a kind, in order."""
        query = (
            "SELECT events.data FROM events JOIN executions ON seq = execution_seq"
            " WHERE executions.id = ? AND kind = ? ORDER BY events.id"
        )
        with closing(sqlite3.connect(self.data / "corral.db")) as database:
            return [json.loads(data) for (data,) in database.execute(query, (execution_id, kind))]

    def statuses(self, execution_id: str) -> list[str]:
        """Return every status that an execution has had, in order."""
        return [event["status"] for event in self.events(execution_id, "status")]

    @property
    def launcher_pid(self) -> int:
        """The pid of the launcher, which is no child of a supervisor that has taken it over."""
        return wait_until(lambda: next(self._launchers(), None))

    @property
    def api_pid(self) -> int:
        return self._service("api")

    def runs(self) -> set[int]:
        """Return the pids of all processes of all runs."""
        return {pid for pid in descendants(self.launcher_pid) if not is_spare(pid)}

    def kill(self) -> None:
        """Kill the supervisor, and let the launcher and its runs be. Whoever takes them over ends them, or stop()."""
        self.http.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self) -> int:
        """Stop it with SIGTERM, or end what it has left if it was killed, and return its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        wait_for_exit(self.process.pid)
        code = self.process.wait()
        if code == -signal.SIGKILL:
            for pid in self._launchers():
                os.kill(pid, signal.SIGKILL)
                wait_for_exit(pid)
        assert self.process.stdout is not None
        self.process.stdout.close()
        if code == 0:
            self._group.remove()
        return code

    def _launchers(self) -> Iterator[int]:
        """Yield the pids of the launchers that work for this data folder."""
        yield from self._working(children_at_rest(self.process.pid))
        working = self._working(psutil.pids())
        # Forks of a launcher have its command line.
        yield from (pid for pid, parent in working.items() if parent not in working)

    def _working(self, pids: Iterable[int]) -> dict[int, int]:
        """Return {pid: its parent's} of those that have the work directory on their command line."""
        work = str(self.data.absolute() / "work")
        found = {}
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if work in process.cmdline() and lives(pid):
                    found[pid] = process.ppid()
        return found

    def _service(self, word: str) -> int:
        def found() -> int | None:
            for pid in children_at_rest(self.process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    command = psutil.Process(pid).cmdline()
                    if any(part == word or part.endswith(f"/{word}") for part in command):
                        return pid
            return None

        return wait_until(found)
