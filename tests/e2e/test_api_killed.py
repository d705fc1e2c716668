"""The API process is killed under load: no accepted submit is lost, none that is sent again under a key is doubled."""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from supervisor.clock import Clock
from supervisor.limits import DEFAULTS
from supervisor.models import Submission, new_execution_id
from supervisor.store import Store
from tests.helpers.database import query
from tests.helpers.processes import wait_for_exit
from tests.helpers.server import RunningServer
from tests.helpers.wait import patience, wait_until

CLIENTS = 8
SUBMITS = 100
KILLS = 4


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that the test may harm."""
    with RunningServer(tmp_path / "data") as running:
        yield running


class Load:
    """Clients that submit, and go on when the server hangs up on them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self.by_key: dict[str, set[str]] = {}
        self.without_key: list[str] = []
        self.hung_up = 0

    @property
    def accepted(self) -> int:
        with self._lock:
            return sum(map(len, self.by_key.values())) + len(self.without_key)

    def client(self, number: int) -> None:
        """Submit; every other client under keys, each until it is accepted and then once more."""
        submit = self._submit_with_key if number % 2 else self._submit_without_key
        with httpx.Client(base_url=self._url, timeout=patience(30)) as http:
            for _ in range(SUBMITS):
                submit(http)

    def _submit_with_key(self, http: httpx.Client) -> None:
        key = str(uuid.uuid4())
        for _ in range(2):
            while not (execution_id := self._submit(http, key)):
                pass
            with self._lock:
                self.by_key.setdefault(key, set()).add(execution_id)

    def _submit_without_key(self, http: httpx.Client) -> None:
        execution_id = self._submit(http, None)
        if execution_id:
            with self._lock:
                self.without_key.append(execution_id)

    def _submit(self, http: httpx.Client, key: str | None) -> str | None:
        """Return the id of the execution, None if the connection broke before the answer."""
        try:
            answer = http.post(
                "/executions/run",
                json={"agent_id": "ok", "input": {"key": key}},
                headers={"Idempotency-Key": key} if key else {},
            )
        except httpx.TransportError:
            with self._lock:
                self.hung_up += 1
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])


def test_api_killed_under_load_loses_no_submit_and_doubles_none_with_a_key(own: RunningServer) -> None:
    load = Load(own.url)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.client, number) for number in range(CLIENTS)]
        for _ in range(KILLS):
            so_far = load.accepted
            wait_until(lambda so_far=so_far: load.accepted > so_far + CLIENTS, 60)
            api = own.api_pid
            os.kill(api, signal.SIGKILL)
            wait_for_exit(api)
        for client in clients:
            client.result(patience(120))
    assert load.hung_up, "nobody was under way when the API was killed"
    assert all(len(ids) == 1 for ids in load.by_key.values())
    with_key = {execution_id for ids in load.by_key.values() for execution_id in ids}
    assert len(with_key) == CLIENTS // 2 * SUBMITS
    assert len(set(load.without_key)) == len(load.without_key)
    recorded = query(own.data, "SELECT id, json_extract(payload, '$.key') FROM executions")
    assert {execution_id for execution_id, key in recorded if key} == with_key
    assert {*load.without_key} <= {execution_id for execution_id, key in recorded if not key}
    wait_until(lambda: not query(own.data, "SELECT id FROM executions WHERE status != 'COMPLETED'"), 60)


def test_submit_of_an_api_that_died_before_it_told_anybody_is_run(own: RunningServer) -> None:
    """What the API does for a submit, but for the nudge."""
    with closing(Store.attach(own.data / "corral.db", Clock())) as store:
        store.enqueue(Submission(execution_id := new_execution_id(), "ok", "ok", 50, "{}", DEFAULTS))
    os.kill(own.api_pid, signal.SIGKILL)
    own.http.close()
    own.http = httpx.Client(base_url=own.url, timeout=30)
    assert own.wait_for_end(execution_id)["attempt"] == 1
