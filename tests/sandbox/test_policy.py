"""What a manifest may ask for of the host, and that it gets that and no more."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import problems
from tests.helpers.agents import TRUSTED, result_of_new, write_agent
from tests.helpers.server import RunningServer
from tests.helpers.wait import patience

PYTHON = 'entrypoint = "agent:run"'
OK = {"agent.py": "def run(input): return {}"}

# What is there of each path: the text of a file, the names in a folder, or the name of an error.
LOOK = """
import os

def run(input):
    return {path: look(path) for path in input["paths"]}

def look(path):
    try:
        return sorted(os.listdir(path)) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        return type(error).__name__
"""

_numbers = itertools.count(1)


def reason_of_refusal(server: RunningServer, manifest: str, name: str | None = None) -> str:
    """Return why an agent with such a manifest is refused; it must be, and nothing must be recorded."""
    name = name or f"refused-{next(_numbers)}"
    folder = write_agent(server.agents, name, manifest, OK)
    before = server.http.get("/executions").json()
    answer = server.http.post("/executions/run", json={"agent_id": name, "input": {}})
    assert server.http.get("/executions").json() == before
    shutil.rmtree(folder)
    return str(problems.check(answer, 422, "agent_id")["detail"])


# -- tiers ------------------------------------------------------------------------------------------------------------


def test_trusted_agent_without_leave_is_refused_with_the_reason(strict: RunningServer) -> None:
    assert "trusted_agents" in reason_of_refusal(strict, f"{TRUSTED}\n{PYTHON}")


@pytest.mark.parametrize("tier", ["Trusted", "none", "", "Strict"])
def test_tier_that_does_not_exist_is_refused(strict: RunningServer, tier: str) -> None:
    assert "sandbox.tier" in reason_of_refusal(strict, f'sandbox.tier = "{tier}"\n{PYTHON}')


def test_trusted_agent_with_leave_runs_outside_of_sandboxes(strict: RunningServer) -> None:
    folder = write_agent(strict.agents, "friend", f"{TRUSTED}\n{PYTHON}", OK)
    execution = strict.run("friend")
    shutil.rmtree(folder)
    assert (execution["status"], execution["isolation"]["tier"]) == ("COMPLETED", "trusted")
    assert "pid_namespace" not in execution["isolation"]["effective"]


def test_leave_is_for_the_name_alone(strict: RunningServer) -> None:
    friend = f'name = "friends"\n{TRUSTED}\n{PYTHON}'
    assert "trusted_agents" in reason_of_refusal(strict, friend, "friend")


def test_agent_that_says_nothing_is_sandboxed(strict: RunningServer) -> None:
    folder = write_agent(strict.agents, "silent", PYTHON, OK)
    isolation = strict.run("silent")["isolation"]
    shutil.rmtree(folder)
    assert isolation["tier"] == "sandboxed"


# -- paths of the host ------------------------------------------------------------------------------------------------


def read_only(*paths: object) -> str:
    return f"{PYTHON}\nsandbox.read_only = {[str(path) for path in paths]}"


@pytest.fixture(scope="session")
def paths(strict: RunningServer, host_folder: Path) -> Path:
    """The folder that agents may see, with things in it and around it."""
    allowed = host_folder / "allowed"
    (allowed / "folder").mkdir()
    (allowed / "folder" / "file").write_text("in a folder")
    (allowed / "file").write_text("a file")
    (allowed / "escape").symlink_to(host_folder / "secret")
    (allowed / "inward").symlink_to(allowed / "folder")
    (allowed / "up").symlink_to("..")
    (host_folder / "secret").mkdir()
    (host_folder / "secret" / "file").write_text("a secret")
    (host_folder / "allowed-not").mkdir()
    (host_folder / "way-in").symlink_to(allowed / "folder")
    return allowed


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ("", ["escape", "file", "folder", "inward", "up"]),
        ("folder", ["file"]),
        ("folder/file", "in a folder"),
        ("file", "a file"),
        ("inward", ["file"]),
        ("folder/../file/", "a file"),
        ("../way-in", ["file"]),
    ],
)
def test_path_that_is_allowed_is_seen_at_its_place_and_nothing_beside_it(
    strict: RunningServer, paths: Path, host_folder: Path, wanted: str, seen: object
) -> None:
    place = os.path.normpath(paths / wanted)
    secret = str(host_folder / "secret")
    looked_at = [place, secret, f"{paths}/escape/file", f"{paths}/up/secret/file"]
    found = result_of_new(strict, read_only(f"{paths}/{wanted}"), {"agent.py": LOOK}, paths=looked_at)
    assert found == {place: seen, **dict.fromkeys(looked_at[1:], "FileNotFoundError")}


def test_path_that_is_allowed_cannot_be_written(strict: RunningServer, paths: Path) -> None:
    code = "def run(input):\n try: open(input['path'], 'w')\n except OSError as error: return {'error': error.errno}"
    for place in (paths / "new", paths / "file"):
        assert result_of_new(strict, read_only(paths), {"agent.py": code}, path=str(place)) == {"error": 30}
    assert not (paths / "new").exists()


def test_path_is_not_seen_by_agents_that_do_not_ask(strict: RunningServer, paths: Path) -> None:
    result_of_new(strict, read_only(paths), {"agent.py": LOOK}, paths=[])
    # Of a path that others have asked for, its empty place may be there.
    found = result_of_new(strict, PYTHON, {"agent.py": LOOK}, paths=[f"{paths}/file", f"{paths}/folder/file"])
    assert set(found.values()) <= {"", "FileNotFoundError"}


@pytest.mark.parametrize(
    "wanted", ["..", "../secret", "escape", "escape/file", "up", "up/secret", "folder/../../secret", "../allowed-not"]
)
def test_path_that_leads_out_of_what_is_allowed_is_refused(strict: RunningServer, paths: Path, wanted: str) -> None:
    assert "read_only_paths" in reason_of_refusal(strict, read_only(f"{paths}/{wanted}"))


@pytest.mark.parametrize("path", ["/etc", "/etc/shadow", "/root", "/usr/../etc/shadow", "/var/tmp", "//etc"])
def test_path_of_the_host_that_is_not_allowed_is_refused(strict: RunningServer, path: str) -> None:
    assert "read_only_paths" in reason_of_refusal(strict, read_only(path))


@pytest.mark.parametrize("path", ["folder", "./folder", "../allowed", "~/x", "", "file\\u0000"])
def test_path_that_is_not_absolute_is_refused(strict: RunningServer, path: str) -> None:
    assert "sandbox.read_only" in reason_of_refusal(strict, f'{PYTHON}\nsandbox.read_only = ["{path}"]')


@pytest.mark.parametrize(
    "path", ["/", "//", "/usr/..", "//tmp", "/tmp", "/tmp/x", "/work", "/dev/shm", "/proc/self", "/agent", "/corral/x"]
)
def test_path_that_the_sandbox_has_of_its_own_is_refused(strict: RunningServer, path: str) -> None:
    assert "a place of its own" in reason_of_refusal(strict, read_only(path))


def test_path_that_was_allowed_is_refused_once_it_leads_elsewhere(strict: RunningServer, paths: Path) -> None:
    link = paths / "turning"
    link.symlink_to(paths / "folder")
    folder = write_agent(strict.agents, "turning", read_only(link), {"agent.py": LOOK})
    assert strict.run("turning", paths=[str(link)])["final_result"] == {str(link): ["file"]}
    link.unlink()
    link.symlink_to("/etc")
    answer = strict.http.post("/executions/run", json={"agent_id": "turning", "input": {"paths": [str(link)]}})
    link.unlink()
    shutil.rmtree(folder)
    assert str(link) in problems.check(answer, 422, "agent_id")["detail"]


def test_one_path_of_many_that_is_not_allowed_is_enough(strict: RunningServer, paths: Path) -> None:
    assert "/etc/shadow" in reason_of_refusal(strict, read_only(paths, "/usr/share", "/etc/shadow"))


def test_allowed_path_that_is_not_there_ends_the_run_with_the_reason(strict: RunningServer, paths: Path) -> None:
    folder = write_agent(strict.agents, "early", read_only(paths / "later"), {"agent.py": LOOK})
    execution = strict.run("early", paths=[])
    assert execution["status"] == "FAILED"
    assert "later" in execution["error_log"]
    (paths / "later").mkdir()
    assert strict.run("early", paths=[str(paths / "later")])["final_result"] == {str(paths / "later"): []}
    (paths / "later").rmdir()
    shutil.rmtree(folder)


# -- interpreters and commands ----------------------------------------------------------------------------------------

WHERE = "import sys\ndef run(input): return {'prefix': sys.prefix, 'only': __import__('only_here').NAME}"


def make_environment(folder: Path) -> Path:
    """Make a virtual environment without pip but with a module; return the interpreter in it."""
    base = os.path.join(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True, timeout=patience(30))
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("NAME = 'installed'")
    return folder / "bin" / "python"


def test_own_interpreter_in_the_folder_works_with_what_is_installed_for_it(strict: RunningServer) -> None:
    manifest = f'{PYTHON}\npython = ".venv/bin/python"'
    folder = write_agent(strict.agents, "own", manifest, {"agent.py": WHERE})
    make_environment(folder / ".venv")
    execution = strict.run("own")
    shutil.rmtree(folder)
    assert execution["final_result"] == {"prefix": "/agent/.venv", "only": "installed"}, execution["error_log"]


def test_own_interpreter_below_an_allowed_path_works(strict: RunningServer, paths: Path, host_folder: Path) -> None:
    interpreter = make_environment(paths / "folder" / "environment")
    manifest = f'{PYTHON}\npython = "{interpreter}"'
    folder = write_agent(strict.agents, "shared", manifest, {"agent.py": WHERE})
    execution = strict.run("shared")
    shutil.rmtree(folder)
    shutil.rmtree(paths / "folder" / "environment")
    assert execution["final_result"] == {"prefix": str(interpreter.parent.parent), "only": "installed"}, execution


def test_own_interpreter_of_elsewhere_is_refused_with_the_reason(strict: RunningServer, host_folder: Path) -> None:
    (host_folder / "elsewhere" / "bin").mkdir(parents=True)
    (host_folder / "elsewhere" / "bin" / "python").symlink_to(sys.executable)
    reason = reason_of_refusal(strict, f'{PYTHON}\npython = "{host_folder}/elsewhere/bin/python"')
    assert str(host_folder / "elsewhere") in reason
    assert "read_only_paths" in reason


def test_own_interpreter_that_is_a_link_out_of_the_folder_is_refused(strict: RunningServer, host_folder: Path) -> None:
    (host_folder / "outside" / "bin").mkdir(parents=True)
    (host_folder / "outside" / "bin" / "python").write_text("")
    folder = write_agent(strict.agents, "link", f'{PYTHON}\npython = "bin/python"', OK)
    (folder / "bin").symlink_to(host_folder / "outside" / "bin")
    answer = strict.http.post("/executions/run", json={"agent_id": "link", "input": {}})
    shutil.rmtree(folder)
    assert str(host_folder / "outside") in problems.check(answer, 422, "agent_id")["detail"]


NODE = "console.log(JSON.stringify({host: require('os').hostname()}))"
PROGRAMS = {
    "sh": ('["sh", "main"]', 'printf \'{"host": "%s"}\' "$(uname -n)"'),
    "node": ('["node", "main"]', NODE),
    "in the folder": ('["./main"]', '#!/bin/sh\nprintf \'{"host": "%s"}\' "$(uname -n)"'),
}


@pytest.mark.parametrize(("command", "code"), PROGRAMS.values(), ids=PROGRAMS)
def test_command_runs_in_a_sandbox(strict: RunningServer, command: str, code: str) -> None:
    if "node" in command and not shutil.which("node", path="/usr/local/bin:/usr/bin:/bin"):
        pytest.skip("there is no node on this machine")
    folder = write_agent(strict.agents, "program", f'command = {command}\nresult = "stdout"', {"main": code})
    (folder / "main").chmod(0o755)
    execution = strict.run("program")
    shutil.rmtree(folder)
    assert execution["final_result"] == {"host": "sandbox"}, execution["error_log"]
    assert execution["isolation"]["tier"] == "sandboxed"


# -- the agent's own folder --------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only where the server is root are agents another user")
def test_folder_that_agents_may_not_enter_is_named_with_what_to_do(strict: RunningServer) -> None:
    folder = write_agent(strict.agents, "closed folder", f'name = "closed"\n{PYTHON}', OK)
    folder.chmod(0o700)
    execution = strict.run("closed")
    assert execution["status"] == "FAILED"
    message = execution["termination"]["message"]
    assert f"cannot enter {folder}: Permission denied" in message
    assert f"chmod -R o+rX '{folder}'" in message
    subprocess.run(["chmod", "-R", "o+rX", folder], check=True)
    assert strict.run("closed")["status"] == "COMPLETED"
