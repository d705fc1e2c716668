"""What is kept of a run for the next supervisor."""

import json
from pathlib import Path

import pytest

from supervisor.agents import Agent, read_agent
from supervisor.machine import outcome
from supervisor.machine.memo import Memo
from supervisor.models import Claim

SECRET = "a-secret-of-the-agent"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    (tmp_path / "agent.toml").write_text(
        f'command = ["true", "{SECRET}"]\nconcurrency = 3\ngrace_seconds = 1.5\nenv.KEY = "{SECRET}"\nlimits.cpus = 0.5'
    )
    return read_agent(tmp_path)


def test_memo_is_the_same_after_it_was_kept(agent: Agent) -> None:
    claim = Claim("id", 2, agent.id, f'{{"key": "{SECRET}"}}', {})
    memo = Memo.of(claim, agent, 12.5)
    for kept in (memo, memo.stopped(outcome.over_memory(10, 11), done=True)):
        assert Memo.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    assert (memo.key, memo.limits, memo.grace_seconds, memo.concurrency) == (("id", 2), agent.limits, 1.5, 3)


def test_memo_has_neither_payload_nor_environment_nor_command(agent: Agent) -> None:
    claim = Claim("id", 2, agent.id, f'{{"key": "{SECRET}"}}', {})
    assert SECRET not in json.dumps(Memo.of(claim, agent, 12.5).to_json())
