"""A new agent that runs."""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor import scaffold
from supervisor.agents import AgentRegistry
from supervisor.errors import ConfigurationError


def test_scaffold_makes_an_agent_that_the_registry_finds_and_whose_code_gives_a_result(tmp_path: Path) -> None:
    folder = scaffold.create(tmp_path / "agents", "my-agent")
    agent = AgentRegistry(tmp_path / "agents").find("my-agent")
    assert agent.folder == folder == tmp_path / "agents" / "my-agent"
    assert agent.manifest.entrypoint == "agent:run"
    spec = importlib.util.spec_from_file_location("scaffolded", folder / "agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told: list[object] = []
    context = SimpleNamespace(progress=told.append)
    assert module.run({"text": "two words"}, context) == {"characters": 9, "words": 2}
    assert told == [{"step": "counting"}]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a b", "a\n", "é", "a" * 65, '"'])
def test_scaffold_name_that_can_be_no_agents_is_refused_and_nothing_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot make agent "):
        scaffold.create(tmp_path / "agents", name)
    assert not (tmp_path / "agents").exists()


def test_scaffold_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigurationError, match=r"is there already$"):
        scaffold.create(tmp_path, "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_scaffold_where_no_folder_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"^cannot make agent 'a': "):
        scaffold.create(tmp_path / "file", "a")


def test_scaffold_can_be_read_by_agents_that_are_another_user(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = scaffold.create(tmp_path, "a")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"a": 0o755, "agent.py": 0o644, "agent.toml": 0o644}
