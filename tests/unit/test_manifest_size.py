"""Manifests: what one may hold."""

import json
from pathlib import Path

import pytest

from runner.protocol import MAX_MESSAGE_BYTES
from supervisor.agents import Agent, read_agent
from supervisor.errors import AgentBroken
from supervisor.machine.spec import launch_request

# Six bytes of JSON each.
WIDE = "é" * 9_000


def test_manifest_of_the_largest_size_fits_into_a_message_to_the_launcher(tmp_path: Path) -> None:
    paths = [f"/{WIDE[:1000]}{number}" for number in range(10)]
    agent = manifest(tmp_path, f'entrypoint = "a:b"\nsandbox.read_only = {paths}')
    assert len(json.dumps({"do": "launch", "run": "i" * 40, **launch_request(agent)})) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "text",
    [
        f'entrypoint = "a:b"\n[env]\nA = "{WIDE}"\nB = "{WIDE}"',
        f'command = ["true", "{WIDE}", "{WIDE}"]',
        f'entrypoint = "a:b"\npython = "{WIDE}{WIDE}"',
        f'entrypoint = "a:{"b" * 70_000}"',
    ],
)
def test_manifest_too_large_to_be_launched_is_broken(tmp_path: Path, text: str) -> None:
    with pytest.raises(AgentBroken, match="over 64 KiB"):
        manifest(tmp_path, text)


def manifest(folder: Path, text: str) -> Agent:
    (folder / "agent.toml").write_text(text, "utf-8")
    return read_agent(folder)
