"""The tier "strict": what its runs have more than sandboxed ones, and when there are none."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner import strict
from runner.sandbox import landlock
from supervisor.machine.canary import send_canary
from tests.helpers import problems, without_landlock
from tests.helpers.agents import write_agent
from tests.helpers.named_pipes import Gate
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.siege import manifest_of_attacks
from tests.helpers.wait import wait_until

ENTRY = 'entrypoint = "agent:run"\n'
STRICT = f'{ENTRY}sandbox.tier = "strict"\n'

# What this machine does not have is accepted; what it has must be there all the same.
ACCEPT_ALL = [f"strict.{need}" for need in strict.NEEDS]

LOOK = """
import os, signal, socket, sys

HELD = [object()]

def run(input, context):
    if input.get("wait"):
        context.progress("here")
        signal.pause()
    return {
        "addresses": [id(print), id(HELD)],
        "flags": [sys.flags.isolated, sys.flags.no_site],
        "modules": sorted(sys.modules),
        "orders": list({str(number) for number in range(50)}),
        "outside": {name: attempt(action) for name, action in ACTIONS.items()},
    }

def attempt(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0

ACTIONS = {
    "write to /proc": lambda: os.close(os.open("/proc/self/comm", os.O_WRONLY)),
    "signal init": lambda: os.kill(1, 0),
    "write to /work": lambda: os.close(os.open("/work/file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
    "read /usr": lambda: os.listdir("/usr"),
}
"""


@contextmanager
def serving(folder: Path, *flags: str, **options: Any) -> Iterator[RunningServer]:
    """Serve a strict agent and its sandboxed twin, and the hostile agent at either tier."""
    agents = folder / "agents"
    for name, manifest in {"strict": STRICT, "twin": ENTRY}.items():
        write_agent(agents, name, manifest, {"agent.py": LOOK})
    files = {"agent.py": (AGENTS / "hostile" / "agent.py").read_text()}
    text = manifest_of_attacks()
    write_agent(agents, "hostile", text, files)
    write_agent(agents, "hostile-strict", f"{text}\n[sandbox]\ntier = 'strict'\n", files)
    with RunningServer(folder / "data", *flags, agents=agents, **options) as server:
        yield server


@pytest.fixture(scope="module")
def lacks() -> dict[str, str]:
    """What strict runs lack on this machine."""
    return dict(send_canary().strict_lacks)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that does without whatever this machine lacks."""
    with serving(tmp_path_factory.mktemp("strict-tier"), allow_degraded=ACCEPT_ALL) as running:
        for name in ("strict", "twin"):  # the idle sandboxes of both tiers are nothing that a test leaves
            running.run(name)
        yield running


def look(server: RunningServer, name: str) -> dict[str, Any]:
    execution = server.run(name)
    assert execution["status"] == "COMPLETED", execution["error_log"]
    return dict(execution["final_result"])


# -- what it has more -------------------------------------------------------------------------------------------------


def test_strict_run_has_the_layers_of_a_sandboxed_one_and_its_own(server: RunningServer, lacks: dict[str, str]) -> None:
    isolation, of_twin = (server.run(name)["isolation"] for name in ("strict", "twin"))
    assert isolation["tier"] == "strict"
    version = landlock.abi()
    wanted = {"landlock": version >= 1, "landlock_tcp": version >= 4, "landlock_scopes": version >= 6}
    wanted |= {"own_uid": os.geteuid() == 0, "cgroup_v2": "cgroup_v2" not in lacks}
    assert set(isolation["effective"]) == {*of_twin["effective"], *(name for name, there in wanted.items() if there)}
    without_group = {"cgroup"} - set(of_twin["effective"])
    assert set(isolation["missing"]) == {name for name, there in wanted.items() if not there} | without_group


def test_each_strict_run_has_a_user_on_the_host_that_no_other_process_has(server: RunningServer) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each sandbox a user of its own")
    executions = [server.submit("strict", wait=True) for _ in range(2)]
    for execution_id in executions:
        server.wait_for_progress(execution_id)
    users = [os.stat(f"/proc/{pid}").st_uid for pid in server.runs()]
    for execution_id in executions:
        server.cancel(execution_id)
        server.wait_for_end(execution_id)
    assert len(set(users)) == len(users) == 2
    assert not {0, os.geteuid()} & set(users)


def test_strict_run_starts_an_interpreter_of_its_own(server: RunningServer) -> None:
    first, second = (look(server, "strict") for _ in range(2))
    assert first["flags"] == [1, 1]
    # The launcher has the second, and a fork of it too.
    assert not [name for name in first["modules"] if name.startswith("runner") or name == "gc"]
    assert "gc" in look(server, "twin")["modules"]
    # Addresses and the secret of hashes are drawn at the start of a program.
    assert not set(first["addresses"]) & set(second["addresses"])
    assert first["orders"] != second["orders"]


def test_sandboxed_runs_are_forks_of_one_program(server: RunningServer) -> None:
    """Else the test above would prove nothing."""
    first, second = (look(server, "twin") for _ in range(2))
    assert set(first["addresses"]) & set(second["addresses"])
    assert first["orders"] == second["orders"]


def test_landlock_refuses_what_the_other_layers_allow(server: RunningServer) -> None:
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    allowed = {"write to /proc": 0, "signal init": 0, "write to /work": 0, "read /usr": 0}
    # Of a fork that has changed its user, /proc/self is not its own, and root's init is another user: these two the
    # kernel refuses also without Landlock.
    twin = look(server, "twin")["outside"]
    assert {**twin, "write to /proc": 0, "signal init": 0} == allowed
    refused = {"write to /proc": 13} | ({"signal init": 1} if landlock.abi() >= 6 else {})
    assert look(server, "strict")["outside"] == {**allowed, **refused}


@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("ordinary_life", []),
        ("shell_redirection", []),
        ("orphans", [300]),
        ("zombies", [100]),
        ("visible_processes", []),
        ("read", ["/etc/shadow", "/home", "/var", "/sys", "/proc/1/environ", "/etc/passwd"]),
        ("write", ["/x", "/usr/x", "/etc/passwd", "/agent/agent.py", "/dev/x", "/work/x", "/tmp/x", "/dev/shm/x"]),
        ("mounts", []),
        ("descriptors", []),
        ("sockets", []),
        ("namespaces", []),
        ("inotify", []),
        ("raise_limits", []),
        ("fill", ["/work"]),
        ("huge_file", []),
        ("eat_descriptors", []),
    ],
)
def test_attack_on_a_strict_sandbox_comes_to_what_it_comes_to_in_any(
    server: RunningServer, attack: str, arguments: list[Any]
) -> None:
    found = {}
    for name in ("hostile", "hostile-strict"):
        execution = server.run(name, attack=attack, **{"with": arguments})
        assert execution["status"] == "COMPLETED", execution["error_log"]
        found[name] = re.sub(r"E(ROFS|ACCES)\b", "EROFS or EACCES", str(execution["final_result"]["outcome"]))
    assert found["hostile-strict"] == found["hostile"]


@pytest.mark.parametrize("name", ["fork_bomb", "ignore_everything", "hop", "stop_itself"])
def test_cancel_ends_a_strict_tree_that_does_not_want_to_end(server: RunningServer, name: str) -> None:
    execution_id = server.submit("hostile-strict", attack=name)
    server.wait_for_progress(execution_id)
    server.cancel(execution_id)
    assert server.wait_for_end(execution_id)["status"] in ("CANCELED", "FAILED")
    wait_until(lambda: not server.runs())
    assert look(server, "strict")


PROGRAM = """
set -e
mkdir /work/a /work/b && echo text > /work/a/file && mv /work/a/file /work/b/ && ln -s b/file /work/link
echo more >> /work/link && : > /tmp/empty && mkfifo /tmp/pipe && cp /bin/true /work/run && /work/run
echo gone > /dev/null && head -c 4 /dev/urandom > /tmp/random
printf '{"text": "%s"}' "$(cat /work/link | tr '\\n' ' ')"
"""


def test_program_in_a_strict_sandbox_uses_its_places_as_it_likes(server: RunningServer) -> None:
    manifest = 'command = ["sh", "main.sh"]\nresult = "stdout"\nsandbox.tier = "strict"'
    folder = write_agent(server.agents, "program", manifest, {"main.sh": PROGRAM})
    execution = server.run("program")
    shutil.rmtree(folder)
    assert execution["final_result"] == {"text": "text more "}, execution["error_log"]
    assert execution["isolation"]["tier"] == "strict"


def test_node_runs_in_a_strict_sandbox(server: RunningServer) -> None:
    if not shutil.which("node", path="/usr/local/bin:/usr/bin:/bin"):
        pytest.skip("there is no node on this machine")
    code = "console.log(JSON.stringify({user: require('os').userInfo().username}))"
    manifest = 'command = ["node", "main.js"]\nresult = "stdout"\nsandbox.tier = "strict"'
    folder = write_agent(server.agents, "program", manifest, {"main.js": code})
    execution = server.run("program")
    shutil.rmtree(folder)
    assert execution["final_result"] == {"user": "agent"}, execution["error_log"]


def test_own_interpreter_runs_in_a_strict_sandbox(server: RunningServer) -> None:
    code = "import sys\ndef run(input): return {'program': sys.executable}"
    folder = write_agent(server.agents, "program", f'{STRICT}python = "/usr/bin/python3"\n', {"agent.py": code})
    execution = server.run("program")
    shutil.rmtree(folder)
    assert execution["final_result"] == {"program": "/usr/bin/python3"}, execution["error_log"]


def test_one_process_is_enough_for_a_strict_agent(server: RunningServer) -> None:
    folder = write_agent(server.agents, "program", f"{STRICT}limits.processes = 1\n", {"agent.py": LOOK})
    execution = server.run("program")
    shutil.rmtree(folder)
    assert execution["status"] == "COMPLETED", execution["error_log"]


# -- when there are none ----------------------------------------------------------------------------------------------


def accepting_all_but(need: str) -> list[str]:
    return [f"strict.{other}" for other in strict.NEEDS if other != need]


def check_refused(server: RunningServer, need: str) -> None:
    """Check that a strict agent is refused for one need, and a sandboxed one is not."""
    answer = server.http.post("/executions/run", json={"agent_id": "strict", "input": {}})
    assert f"the tier strict needs {need}: " in problems.check(answer, 503)["detail"]
    assert not [other for other in strict.NEEDS if other != need and other in answer.json()["detail"]]
    assert int(answer.headers["Retry-After"]) >= 1
    assert look(server, "twin")


@pytest.mark.parametrize("need", strict.NEEDS)
def test_strict_agent_is_refused_for_each_need_that_nobody_accepts(
    need: str, lacks: dict[str, str], tmp_path: Path
) -> None:
    if need not in lacks:
        pytest.skip(f"this machine has {need}")
    with serving(tmp_path, allow_degraded=accepting_all_but(need)) as server:
        check_refused(server, need)
        assert need in server.http.get("/admin/health").json()["isolation"]["strict_lacks"]


def test_strict_agent_without_landlock_is_refused(tmp_path: Path) -> None:
    wrapper = without_landlock.WRAPPER
    with serving(tmp_path, wrapper=wrapper, allow_degraded=accepting_all_but("landlock")) as server:
        check_refused(server, "landlock")


def test_strict_agent_without_landlock_runs_if_that_is_accepted_and_its_record_tells(tmp_path: Path) -> None:
    with serving(tmp_path, wrapper=without_landlock.WRAPPER, allow_degraded=ACCEPT_ALL) as server:
        execution = server.run("strict")
        assert set(execution["final_result"]["outside"].values()) == {0}, "not Landlock refuses it, but something else"
        assert {"landlock", "landlock_tcp", "landlock_scopes"} <= set(execution["isolation"]["missing"])
        assert "strict.landlock" in server.http.get("/admin/health").json()["isolation"]["degraded"]


def test_run_that_became_strict_while_it_waited_fails_with_what_is_missing(
    lacks: dict[str, str], tmp_path: Path, gate: Gate
) -> None:
    if not lacks:
        pytest.skip("this machine lacks nothing")
    with serving(tmp_path, "--max-running", "1") as server:
        shutil.copytree(AGENTS / "gated", server.agents / "gated")
        first = server.submit("gated", gate=gate.path)
        server.wait_for(first, "RUNNING")
        second = server.submit("twin")
        write_agent(server.agents, "twin", STRICT, {"agent.py": LOOK})
        gate.open()
        execution = server.wait_for_end(second)
    assert (execution["status"], execution["termination"]["code"]) == ("FAILED", "SANDBOX_UNAVAILABLE")
    assert all(f"{need}: {why}" in execution["error_log"] for need, why in lacks.items())
    assert execution["isolation"]["tier"] == "strict"
    assert not {*strict.NEEDS, "pid_namespace"} & set(execution["isolation"]["effective"])


def test_strict_agent_cannot_have_a_network(tmp_path: Path) -> None:
    with serving(tmp_path, host_network_agents=["*"]) as server:
        write_agent(server.agents, "online", f'{STRICT}sandbox.network = "host"\n', {"agent.py": LOOK})
        answer = server.http.post("/executions/run", json={"agent_id": "online", "input": {}})
        assert 'the tier "strict" has no network' in problems.check(answer, 422, "agent_id")["detail"]
