"""`corral`, apart from `corral serve`."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from supervisor import __version__, scaffold
from supervisor.errors import ConfigurationError
from tests.helpers.command import corral
from tests.helpers.server import RunningServer


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir()
    return folder


def write(agents: Path, name: str, manifest: str) -> None:
    (agents / name).mkdir()
    (agents / name / "agent.toml").write_text(manifest)


def test_help_names_every_command() -> None:
    answer = corral("--help")
    assert answer.returncode == 0
    for command in ("serve", "drain", "agents", "backup", "check", "doctor", "selftest", "version"):
        assert command in answer.stdout


@pytest.mark.parametrize("flag", ["--host", "--port", "--data", "--agents", "--max-running", "--config"])
def test_help_of_serve_names_every_flag(flag: str, serve_help: str) -> None:
    assert flag in serve_help


@pytest.fixture(scope="module")
def serve_help() -> str:
    return corral("serve", "--help").stdout


def test_version_is_printed_alone() -> None:
    answer = corral("version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("arguments", [["srve"], ["serve", "--prot", "1"], ["agents", "new"]])
def test_command_that_is_misspelt_is_refused_with_exit_code_2(arguments: list[str]) -> None:
    answer = corral(*arguments)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_agents_are_listed_one_a_line(agents: Path) -> None:
    write(agents, "beta", 'command = ["true"]\ndescription = "Does nothing"')
    write(agents, "alpha", 'entrypoint = "agent:run"')
    answer = corral("agents", "--agents", agents)
    assert answer.returncode == 0
    first, second = answer.stdout.splitlines()
    assert first.split()[0] == "alpha"
    assert second.split()[0] == "beta"
    assert second.endswith("Does nothing")
    assert UUID(second.split()[1])


def test_broken_agent_is_listed_with_its_error_beside_the_others_and_gives_exit_code_1(agents: Path) -> None:
    write(agents, "fine", 'command = ["true"]')
    write(agents, "wrong", 'command = ["true"]\ntimeout = 3')
    answer = corral("agents", "--agents", agents)
    assert answer.returncode == 1
    fine, wrong = answer.stdout.splitlines()
    assert fine.startswith("fine ")
    assert wrong.startswith("wrong ")
    assert "broken: timeout: " in wrong


def test_agents_as_json_have_what_a_script_needs(agents: Path) -> None:
    write(agents, "fine", 'command = ["true"]\npriority = 70\ndescription = "Ü"')
    write(agents, "wrong", "not toml")
    answer = corral("agents", "--json", "--agents", agents)
    assert answer.returncode == 1
    fine, wrong = json.loads(answer.stdout)
    assert UUID(fine.pop("id"))
    assert fine == {
        "name": "fine",
        "priority": 70,
        "description": "Ü",
        "folder": str(agents / "fine"),
        "error": None,
    }
    assert (wrong["name"], wrong["id"]) == ("wrong", None)
    assert wrong["error"]


def test_agents_of_an_empty_folder_as_json_are_an_empty_list(agents: Path) -> None:
    answer = corral("agents", "--json", "--agents", agents)
    assert (answer.returncode, json.loads(answer.stdout)) == (0, [])


def test_agents_of_an_empty_folder_are_told_how_to_begin(agents: Path) -> None:
    answer = corral("agents", "--agents", agents)
    assert answer.returncode == 0
    assert "corral agents new" in answer.stdout


def test_new_agent_runs_on_a_running_server_and_so_does_its_changed_code(agents: Path, tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", agents=agents) as server:
        answer = corral("agents", "new", "word-smith", "--agents", agents)
        assert answer.returncode == 0, answer.stderr
        execution = server.run("word-smith", text="two words")
        assert execution["final_result"] == {"characters": 9, "words": 2}
        assert execution["progress"] == {"step": "counting"}
        (agents / "word-smith" / "agent.py").write_text("def run(input):\n    return {'changed': True}\n")
        assert server.run("word-smith")["final_result"] == {"changed": True}
        (agents / "word-smith" / "agent.toml").write_text('entrypoint = "agent:run"\npriority = 3')
        assert server.run("word-smith")["priority"] == 3


def test_new_agent_is_listed_as_one_that_works(agents: Path) -> None:
    assert corral("agents", "--agents", agents, "new", "a.b_c-9").returncode == 0
    assert corral("agents", "--agents", agents).returncode == 0


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-dash", "a/b", "../out", "a b", "ü", "x" * 65, "a\n", 'a"b'])
def test_new_agent_with_a_bad_name_is_refused_and_nothing_is_made(agents: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot make agent "):
        scaffold.create(agents, name)
    assert list(agents.parent.iterdir()) == [agents]
    assert list(agents.iterdir()) == []


def test_new_agent_with_a_bad_name_is_one_line_and_exit_code_1(agents: Path) -> None:
    answer = corral("agents", "new", "../out", "--agents", agents)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("corral: cannot make agent ")
    assert answer.stderr.count("\n") == 1


def test_new_agent_where_there_is_one_is_refused_and_that_one_is_unharmed(agents: Path) -> None:
    write(agents, "mine", "precious")
    answer = corral("agents", "new", "mine", "--agents", agents)
    assert answer.returncode == 1
    assert "there already" in answer.stderr
    assert (agents / "mine" / "agent.toml").read_text() == "precious"
    assert [path.name for path in (agents / "mine").iterdir()] == ["agent.toml"]


def test_new_agent_in_a_folder_that_cannot_be_made_is_refused(agents: Path) -> None:
    (agents / "file").touch()
    answer = corral("agents", "new", "mine", "--agents", agents / "file")
    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
