"""The agents in examples/agents, each with an input it is made for and one it is not."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor.agents import AgentRegistry
from supervisor.settings import Settings
from tests.helpers.processes import lives
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

EXAMPLES = Settings.model_fields["agents"].default

# Where agents look for their programs.
needs_node = pytest.mark.skipif(
    shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None, reason="no node where agents look"
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("examples") / "data", agents=EXAMPLES) as running:
        running.http.get("/admin/health")  # opens the connection that is kept
        yield running


@pytest.mark.parametrize(
    ("input", "answer", "confidence"),
    [
        ({"question": "What is the weather today?"}, "Today is sunny with 25C", 0.95),
        ({"question": "What is the weather today?", "context": {}}, "Today is sunny with 25C", 0.95),
        ({"question": "What is the weather today?", "context": None}, "Today is sunny with 25C", 0.95),
        ({"question": "And in Oslo?"}, "Today in Oslo is snowy with -3C", 0.95),
        ({"question": "And there?", "context": {"city": "tokyo"}}, "Today in Tokyo is cloudy with 19C", 0.95),
        ({"question": "And there?", "context": {"city": "Atlantis"}}, "I do not know the weather in Atlantis", 0.0),
    ],
)
def test_weather_answers_the_question(
    examples: RunningServer, input: dict[str, Any], answer: str, confidence: float
) -> None:
    execution = examples.run("weather", **input)
    assert execution["status"] == "COMPLETED"
    assert execution["priority"] == 70
    assert execution["final_result"] == {"answer": answer, "confidence": confidence}


def test_researcher_quotes_and_tells_its_progress(examples: RunningServer) -> None:
    execution = examples.run("researcher", topic="winter")
    assert execution["status"] == "COMPLETED"
    assert execution["progress"] == {"done": 3, "of": 3}
    result = execution["final_result"]
    assert result["topic"] == "winter"
    quotes = {finding["source"]: len(finding["quotes"]) for finding in result["findings"]}
    assert quotes == {"bees": 1, "lighthouses": 1, "tides": 0}


def test_researcher_leaves_its_findings_as_a_file(examples: RunningServer) -> None:
    execution = examples.run("researcher", topic="winter")
    lines = examples.file(execution["execution_id"], "findings.md").decode().splitlines()
    assert lines[0] == "# winter"
    assert execution["final_result"]["summary"] in lines
    assert [line.rpartition("(")[2] for line in lines if line.startswith("> ")] == ["bees)", "lighthouses)"]


@needs_node
def test_node_wordcount_counts(examples: RunningServer) -> None:
    execution = examples.run("node-wordcount", text="Ein Ei, kein ei, don't!")
    assert execution["final_result"] == {"words": 5, "distinct": 4}
    assert execution["progress"]["read_bytes"] > 20
    assert examples.logs(execution["execution_id"])["text"] == "counted 5 words\n"


@pytest.mark.parametrize(
    ("numbers", "total"), [([], 0), ([1, 2, 3], 6), ([-1, 0.5, 1e3], 999.5), ([10**12, 1], 10**12 + 1)]
)
def test_shell_sum_adds(examples: RunningServer, numbers: list[float], total: float) -> None:
    execution = examples.run("shell-sum", numbers=numbers)
    assert execution["final_result"] == {"sum": total, "count": len(numbers)}, execution["error_log"]


@pytest.mark.parametrize(
    ("agent", "input", "words"),
    [
        ("weather", {}, "'question' must be a text"),
        ("weather", {"question": "?", "context": "Oslo"}, "'context' must be an object"),
        ("researcher", {}, "'topic' must be a text"),
        ("researcher", {"topic": " "}, "'topic' must be a text"),
        pytest.param("node-wordcount", {}, "'text' must be a text", marks=needs_node),
        ("shell-sum", {}, '"numbers" must be a list of numbers'),
        ("shell-sum", {"numbers": ["one"]}, '"one" is not a number'),
    ],
)
def test_example_with_a_bad_input_fails_and_says_what_is_wrong(
    examples: RunningServer, agent: str, input: dict[str, Any], words: str
) -> None:
    execution = examples.run(agent, **input)
    assert execution["status"] == "FAILED"
    assert execution["final_result"] is None
    assert words in execution["error_log"]


def test_runaway_is_gone_with_its_whole_family_when_it_is_canceled(examples: RunningServer) -> None:
    execution = examples.submit("runaway")
    wait_until(lambda: len(members_of(examples, execution)) == 6)
    family = examples.runs()
    assert len(family) == 6
    assert examples.cancel(execution).status_code == 202
    ended = examples.wait_for_end(execution)
    assert not [pid for pid in family if lives(pid)]
    assert ended["status"] == "CANCELED"
    assert ended["kill"]["signaled"] == 6
    assert ended["kill"]["killed"] == 6
    assert ended["kill"]["survivors"] == 0


def members_of(server: RunningServer, execution: str) -> list[str]:
    """Return the lines in which a runaway's processes have said their pids, but for the one that leaves on purpose."""
    return [line for line in server.logs(execution)["text"].splitlines() if "soon leaves" not in line]


def test_every_example_is_tested_here() -> None:
    assert set(os.listdir(EXAMPLES)) == {"weather", "researcher", "node-wordcount", "shell-sum", "runaway"}


def test_every_example_runs_in_a_sandbox(examples: RunningServer) -> None:
    tiers = {entry.agent and entry.agent.manifest.sandbox.tier for entry in AgentRegistry(EXAMPLES).entries()}
    assert tiers == {"sandboxed"}
    isolation = examples.run("shell-sum", numbers=[1])["isolation"]
    assert isolation["tier"] == "sandboxed"
    assert "pid_namespace" in isolation["effective"]
