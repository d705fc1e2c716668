"""What a client sees when the server itself fails: nothing of why, but whether to try again."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from falcon.testing import Result, TestClient

from api.app import create_app
from supervisor import database
from supervisor.agents import AgentRegistry, Policy
from supervisor.artifacts import Artifacts
from supervisor.isolation import Bulletin, Canary
from supervisor.logs import Logs, attempt_folder
from supervisor.nudge import Nudger, NudgeReceiver
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.helpers.problems import check
from tests.helpers.server import AGENTS


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """The application alone, with a database and a folder of logs for a test to break."""
    clock = FakeClock()
    with (
        closing(Store(tmp_path / "corral.db", clock)) as store,
        closing(NudgeReceiver(tmp_path)),
        closing(Nudger(tmp_path)) as nudger,
    ):
        bulletin = Bulletin(tmp_path / "isolation.json")
        bulletin.publish(Canary(("seccomp",)))
        app = create_app(
            store,
            AgentRegistry(AGENTS, Policy()),
            Logs(tmp_path / "logs"),
            Artifacts(tmp_path / "files"),
            nudger,
            clock,
            clock.now(),
            bulletin,
            tmp_path,
        )
        yield TestClient(app, headers={"Host": "localhost", "Content-Type": "application/json"})


@pytest.fixture
def execution_id(client: TestClient) -> str:
    return str(submit(client).json["execution_id"])


def submit(client: TestClient) -> Result:
    return client.simulate_post("/executions/run", body='{"agent_id": "ok"}')


def test_bug_is_500_without_a_word_about_it(client: TestClient, execution_id: str, tmp_path: Path) -> None:
    """What should be a file of the log is a folder."""
    (attempt_folder(tmp_path / "logs", execution_id, 0) / "stdout.0" / "secret").mkdir(parents=True)
    answer = client.simulate_get(f"/executions/{execution_id}/logs")
    assert check(answer, 500)["detail"] == "Internal Server Error"
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("call", ["submit", "get", "cancel"])
def test_database_that_fails_is_503_and_worth_another_try(
    client: TestClient, execution_id: str, tmp_path: Path, call: str
) -> None:
    with closing(database.connect(tmp_path / "corral.db")) as sql:
        sql.execute("ALTER TABLE executions RENAME TO elsewhere")
    assert client.simulate_get("/admin/health").json["alerts"] == [
        {"kind": "database", "reason": "cannot read from the database: no such table: executions"}
    ]
    answer = {
        "submit": lambda: submit(client),
        "get": lambda: client.simulate_get(f"/executions/{execution_id}"),
        "cancel": lambda: client.simulate_post(f"/executions/{execution_id}/cancel"),
    }[call]()
    check(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
