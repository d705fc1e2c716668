"""Agents as they come, change and go under a running server, and the order in which they are run."""

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.agents import PYTHON, write_agent
from tests.helpers.server import RunningServer

SLOTS = 3

ANSWERS = "def run(input): return {'answer': 1}"
STAYS = "import time\ndef run(input): time.sleep(3600)"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with few slots, whose agents the tests write."""
    folder = tmp_path_factory.mktemp("narrow")
    (folder / "agents").mkdir()
    with RunningServer(folder / "data", "--max-running", str(SLOTS), agents=folder / "agents") as running:
        write_agent(running.agents, "stays", f"{PYTHON}\ngrace_seconds = 0.1\npriority = 100", {"agent.py": STAYS})
        running.http.get("/admin/health")  # its connection stays open, and is nothing that a test leaves
        yield running
    assert not running.errors(), "the server complained"


@pytest.fixture
def agents(narrow: RunningServer) -> Iterator[Path]:
    """The folder of the server's agents; what a test adds is removed after it."""
    yield narrow.agents
    for folder in narrow.agents.iterdir():
        if folder.name != "stays":
            shutil.rmtree(folder)


@pytest.fixture
def occupied(narrow: RunningServer) -> Iterator[list[str]]:
    """The ids of executions that hold every slot; they are canceled after the test."""
    ids = [narrow.submit("stays") for _ in range(SLOTS)]
    for execution_id in ids:
        narrow.wait_for(execution_id, "RUNNING")
    yield ids
    for execution_id in ids:
        narrow.cancel(execution_id)
        narrow.wait_for_end(execution_id)


def submit_raw(server: RunningServer, agent: str) -> httpx.Response:
    return server.http.post("/executions/run", json={"agent_id": agent})


# -- folders ----------------------------------------------------------------------------------------------------------


def test_agent_that_comes_changes_and_goes_is_seen_without_a_restart(narrow: RunningServer, agents: Path) -> None:
    assert submit_raw(narrow, "new").status_code == 422
    folder = write_agent(agents, "new", PYTHON, {"agent.py": ANSWERS})
    assert narrow.run("new")["final_result"] == {"answer": 1}
    (folder / "agent.py").write_text(ANSWERS.replace("1", "2"))
    assert narrow.run("new")["final_result"] == {"answer": 2}
    (folder / "agent.toml").write_text(f"{PYTHON}\npriority = 77")
    assert narrow.run("new")["priority"] == 77
    shutil.rmtree(folder)
    assert submit_raw(narrow, "new").status_code == 422
    write_agent(agents, "new", PYTHON, {"agent.py": ANSWERS})
    assert narrow.run("new")["final_result"] == {"answer": 1}


def test_agent_is_known_by_name_and_by_id_also_when_it_gets_new_ones(narrow: RunningServer, agents: Path) -> None:
    folder = write_agent(agents, "folder", PYTHON, {"agent.py": ANSWERS})
    agent_id = narrow.run("folder")["agent_id"]
    assert narrow.run(agent_id)["agent_name"] == "folder"
    own_id = "0190f3d8-0000-7000-8000-000000000001"
    (folder / "agent.toml").write_text(f'{PYTHON}\nname = "other"\nid = "{own_id.upper()}"')
    assert submit_raw(narrow, "folder").status_code == submit_raw(narrow, agent_id).status_code == 422
    assert narrow.run("other")["agent_id"] == narrow.run(own_id)["agent_id"] == own_id


BROKEN = {
    "no TOML": ("entrypoint = ", "Invalid value"),
    "no UTF-8": ("name = '\xff'", "can't decode"),
    "nothing": ("", "exactly one of entrypoint and command is needed"),
    "both": (f'{PYTHON}\ncommand = ["true"]', "exactly one of entrypoint and command is needed"),
    "unknown key": (f"{PYTHON}\ntimeout = 5", "timeout: Extra inputs are not permitted"),
    "unknown limit": (f"{PYTHON}\nlimits.memory = 5", "limits.memory: Extra inputs are not permitted"),
    "wrong type": (f'{PYTHON}\npriority = "high"', "priority: Input should be a valid integer"),
    "out of range": (f"{PYTHON}\npriority = 101", "priority: Input should be less than or equal to 100"),
    "no function": ('entrypoint = "agent"', "entrypoint: String should match pattern"),
    "empty command": ("command = []", "command: Tuple should have at least 1 item"),
    "stdout of Python": (f'{PYTHON}\nresult = "stdout"', 'result = "stdout" goes with command'),
    "no UUID": (f'{PYTHON}\nid = "1"', "id: "),
    "reserved name": (f'{PYTHON}\n[env]\nCORRAL_X = "1"', "names that begin with CORRAL_ are the server's"),
    "too large": (f'{PYTHON}\n[env]\nX = "{"é" * 30_000}"', "together are over 64 KiB"),
}


@pytest.mark.parametrize(("manifest", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_manifest_is_refused_with_the_reason_until_it_is_repaired(
    narrow: RunningServer, agents: Path, manifest: str, reason: str
) -> None:
    folder = write_agent(agents, "mended", PYTHON, {"agent.py": ANSWERS})
    agent_id = narrow.run("mended")["agent_id"]
    (folder / "agent.toml").write_bytes(manifest.encode("latin-1" if reason == "can't decode" else "utf-8"))
    for name in ("mended", agent_id):
        answer = submit_raw(narrow, name)
        assert answer.status_code == 422
        assert reason in answer.json()["detail"]
    (folder / "agent.toml").write_text(PYTHON)
    assert narrow.run("mended")["status"] == "COMPLETED"


def test_manifest_as_large_as_allowed_can_be_started(narrow: RunningServer, agents: Path) -> None:
    letters = "\N{GRINNING FACE}" * 5000
    write_agent(agents, "large", f'{PYTHON}\n[env]\nX = "{letters}"', {"agent.py": ANSWERS})
    assert narrow.run("large")["status"] == "COMPLETED"


WHILE_IT_WAITS = {
    "removed": (shutil.rmtree, "cannot find agent"),
    "broken": (lambda folder: (folder / "agent.toml").write_text("x"), "cannot use agent 'waits'"),
}


@pytest.mark.parametrize(("change", "reason"), WHILE_IT_WAITS.values(), ids=WHILE_IT_WAITS)
def test_agent_that_is_unusable_when_its_turn_comes_is_a_failed_launch(
    narrow: RunningServer, agents: Path, occupied: list[str], change: Any, reason: str
) -> None:
    folder = write_agent(agents, "waits", PYTHON, {"agent.py": ANSWERS})
    execution_id = narrow.submit("waits")
    change(folder)
    narrow.cancel(occupied[0])
    execution = narrow.wait_for_end(execution_id)
    assert (execution["status"], execution["termination"]["code"]) == ("FAILED", "LAUNCH_FAILED")
    assert reason in execution["error_log"]


def test_agent_that_changes_while_it_waits_is_run_as_it_is_then(
    narrow: RunningServer, agents: Path, occupied: list[str]
) -> None:
    folder = write_agent(agents, "waits", PYTHON, {"agent.py": ANSWERS})
    execution_id = narrow.submit("waits")
    (folder / "agent.toml").write_text('command = ["echo", "{}"]\nresult = "stdout"')
    narrow.cancel(occupied[0])
    assert narrow.wait_for_end(execution_id)["final_result"] == {}


# -- order ------------------------------------------------------------------------------------------------------------


def test_waiting_executions_start_by_priority_and_then_by_age(
    narrow: RunningServer, agents: Path, occupied: list[str]
) -> None:
    for priority in (0, 10, 90):
        write_agent(agents, f"p{priority}", f"{PYTHON}\npriority = {priority}", {"agent.py": ANSWERS})
    order = ["p10", "p0", "p90", "p10", "p90", "p0"]
    submitted = [(name, narrow.submit(name)) for name in order]
    assert {narrow.get(execution_id)["status"] for _, execution_id in submitted} == {"PENDING"}
    narrow.cancel(occupied[0])
    started = [(narrow.wait_for_end(execution_id)["started_at"], execution_id) for _, execution_id in submitted]
    expected = sorted(submitted, key=lambda item: -int(item[0][1:]))
    assert [execution_id for _, execution_id in sorted(started)] == [execution_id for _, execution_id in expected]


def test_concurrency_of_an_agent_is_never_exceeded_and_others_go_on(narrow: RunningServer, agents: Path) -> None:
    pair = f"{PYTHON}\npriority = 100\nconcurrency = 2\ngrace_seconds = 0.1"
    write_agent(agents, "pair", pair, {"agent.py": STAYS})
    write_agent(agents, "other", f"{PYTHON}\npriority = 0", {"agent.py": ANSWERS})
    ids = [narrow.submit("pair") for _ in range(4)]
    for execution_id in ids[:2]:
        narrow.wait_for(execution_id, "RUNNING")
    assert narrow.run("other")["status"] == "COMPLETED"
    assert [narrow.get(execution_id)["status"] for execution_id in ids] == ["RUNNING"] * 2 + ["PENDING"] * 2
    for execution_id, following in zip(ids, ids[2:], strict=False):
        narrow.cancel(execution_id)
        narrow.wait_for(following, "RUNNING")
    for execution_id in ids[2:]:
        narrow.cancel(execution_id)
        narrow.wait_for_end(execution_id)


def test_concurrency_holds_for_many_short_runs(narrow: RunningServer, agents: Path) -> None:
    code = "import time\ndef run(input): time.sleep(0.02); return {}"
    write_agent(agents, "pair", f"{PYTHON}\nconcurrency = 2", {"agent.py": code})
    executions = [narrow.wait_for_end(execution_id) for execution_id in [narrow.submit("pair") for _ in range(20)]]
    changes = [(instant(execution["started_at"]), 1) for execution in executions]
    changes += [(instant(execution["completed_at"]), -1) for execution in executions]
    running = [sum(change for _, change in sorted(changes)[: count + 1]) for count in range(len(changes))]
    assert max(running) == 2


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
