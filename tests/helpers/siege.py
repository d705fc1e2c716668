"""A server under attack: by agents that attack their sandbox, see tests/agents/hostile."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import ordinary_user
from tests.helpers.agents import write_agent
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import patience, wait_until

AS_WE_ARE, AS_ORDINARY_USER = "as we are", "as an ordinary user"

# Who the server is: whoever runs the tests, and if that is root, somebody else too.
USERS = [AS_WE_ARE] if os.geteuid() else [AS_WE_ARE, AS_ORDINARY_USER]

# With groups, as root has them after a login.
_AS_ROOT = ("setpriv", "--groups=0,4,27")

# The time that the attacks have in their manifest, and on this machine.
_TIMES = {
    "timeout_seconds = 20": f"timeout_seconds = {patience(20)}",
    "cpu_seconds = 10": f"cpu_seconds = {math.ceil(patience(10))}",
}

# The attacks with other limits: name of the agent, and what is another in its manifest.
_VARIANTS = {
    "brief": {
        _TIMES["timeout_seconds = 20"]: f"timeout_seconds = {patience(0.5)}",
        "grace_seconds = 0.2": "grace_seconds = 0.1",
    },
    "crowded": {"processes = 32": "processes = 1000", "memory_bytes = 268435456": "memory_bytes = 4294967296"},
}

_BRIEF = f"timeout_seconds = {patience(0.5)}\ngrace_seconds = 0.1\nlimits.processes = 32"

_ENDLESS_EXIT = "trap 'while :; do :; done' EXIT TERM\nexit 0"

# What attacks as soon as it is imported. Like the others it does so in a sandbox only.
_GUARD = """import os
if os.uname().nodename != "sandbox" or os.getpid() > 100:
    raise RuntimeError("cannot attack: this is no sandbox")
"""
_IMPORTED = {
    "import_spins": "while True: pass",
    "import_forks": "for _ in range(4): os.fork() or os.setsid()\nwhile True: pass",
    "import_exits_at_once": "os._exit(0)",
}


@contextmanager
def besieged(folder: Path, user: str) -> Iterator[RunningServer]:
    """Run a server in a new folder that everybody may look into. Args: user: one of USERS."""
    prepare(folder, user)
    with serve(folder, user) as running:
        yield running


def prepare(folder: Path, user: str) -> None:
    """Make the folder, with agents and data of its own."""
    shutil.copytree(AGENTS, folder / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    _write_attacks(folder / "agents")
    (folder / "data").mkdir(mode=0o700)
    if user == AS_ORDINARY_USER:
        for path in (folder / "data", folder / "agents", *(folder / "agents").rglob("*")):
            os.chown(path, ordinary_user.UID, ordinary_user.UID)


def serve(folder: Path, user: str, **settings: Any) -> RunningServer:
    """Start a server in a folder that is prepared. Args: settings: see RunningServer."""
    wrapper = _wrapper(user)
    running = RunningServer(
        folder / "data", "--max-running", "8", agents=folder / "agents", wrapper=wrapper, **settings
    )
    running.run("ok")
    return running


def _wrapper(user: str) -> tuple[str, ...]:
    if user == AS_ORDINARY_USER:
        return ordinary_user.wrapper()
    return () if os.geteuid() else _AS_ROOT


def manifest_of_attacks() -> str:
    """Return the manifest of tests/agents/hostile with the time that its attacks need on this machine."""
    return _changed((AGENTS / "hostile" / "agent.toml").read_text(), _TIMES)


def _write_attacks(agents: Path) -> None:
    hostile = agents / "hostile"
    manifest = manifest_of_attacks()
    (hostile / "agent.toml").write_text(manifest)
    files = {path.name: path.read_text() for path in hostile.glob("*.py")}
    for name, changes in _VARIANTS.items():
        write_agent(agents, name, _changed(manifest, changes), files)
    for name, code in _IMPORTED.items():
        write_agent(agents, name, f'entrypoint = "agent:run"\n{_BRIEF}', {"agent.py": _GUARD + code})
    write_agent(agents, "command_without_end", f'command = ["sh", "exit.sh"]\n{_BRIEF}', {"exit.sh": _ENDLESS_EXIT})


def _changed(manifest: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in manifest
        manifest = manifest.replace(old, new)
    return manifest


def submit(server: RunningServer, name: str, *arguments: Any, agent: str = "hostile") -> str:
    """Start an attack; return its execution's id."""
    return server.submit(agent, attack=name, **{"with": list(arguments)})


def attack(server: RunningServer, name: str, *arguments: Any, agent: str = "hostile") -> Any:
    """Run an attack to its end and return what the agent says came of it."""
    execution = server.wait_for_end(submit(server, name, *arguments, agent=agent))
    assert execution["status"] == "COMPLETED", execution
    return execution["final_result"]["outcome"]


def begin(server: RunningServer, name: str, *arguments: Any, agent: str = "hostile") -> str:
    """Start an attack that never ends; return its execution's id when it is under way."""
    execution_id = submit(server, name, *arguments, agent=agent)
    server.wait_for_progress(execution_id)
    return execution_id


def end(server: RunningServer, execution_id: str) -> dict[str, Any]:
    """Cancel an attack; return its execution when it has ended."""
    server.cancel(execution_id)
    return server.wait_for_end(execution_id)


def assert_nothing_is_left(server: RunningServer) -> None:
    """Check that no process of a run lives, and that the next run succeeds."""
    # An init that is just being made looks like a process of a run for a moment.
    wait_until(lambda: not server.runs())
    assert server.run("ok")["status"] == "COMPLETED"
