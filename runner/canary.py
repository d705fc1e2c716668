"""Runs one sandboxed agent, for real, and prints what came of it: whether this machine can have sandboxes.

`python -I -S canary.py FOLDER`; the folder is made, and is the caller's to remove. One JSON object on stdout:
    {"layers": [name...], "unset_ceilings": [name...]}    these layers were in effect, and the agent gave its result
    {"error": text}                                       which step failed, and why
and with either {"strict_lacks": {need: why}}, as runner.strict has it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # As in start.py.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import contextlib
import json
import select
import signal

from runner import agent, profile, protocol, strict, tree
from runner.inits import Init, Nursery
from runner.sandbox import cgroup, mounts
from runner.sandboxed import Sandboxes

if __name__ == "__main__":
    sys.path.pop(0)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CODE = "def run(input):\n    return input\n"
_INPUT = b'{"canary": true}'
_LIMITS = {"open_files": 64, "processes": 16, "memory_bytes": 256 << 20}
_PATIENCE_SECONDS = 10

_EXPECTED = {"result": {"canary": True}}


def try_sandbox(folder: str, groups: cgroup.Groups | None) -> dict[str, Any]:
    """Run an agent in a sandbox, as the launcher does; return what is printed. Args: groups: see Nursery."""
    agent_folder = os.path.join(folder, "canary")
    os.makedirs(agent_folder, 0o755)
    with open(os.path.join(agent_folder, "agent.py"), "w") as file:
        file.write(_CODE)
    skeleton = mounts.Skeleton(os.path.join(folder, "skeleton"), [sys.base_prefix], agent.__file__)
    agent.prepare()
    nursery = Nursery("", Sandboxes(skeleton, ()), groups, {})
    init = nursery.fork(profile.DEFAULT)
    pipes = {name: os.pipe() for name in protocol.AGENT_ENDS}
    for name, content in (("spec", json.dumps(_spec(agent_folder)).encode()), ("stdin", _INPUT)):
        os.write(pipes[name][1], content)
        os.close(pipes[name][1])
    ends = [
        *(pipes[name][0] for name in ("spec", "stdin")),
        *(pipes[name][1] for name in ("stdout", "stderr", "result")),
    ]
    # One that has died has said why.
    with contextlib.suppress(protocol.Disconnected):
        init.channel.send({"limits": init.limit(_LIMITS)}, ends)
    protocol.close_all(ends)
    told = _listen(init.channel)
    init.dismiss()
    _wait_for(init)
    layers = told.get("layers", []) + init.layers_outside()
    nursery.bury(init)
    said = os.read(pipes["result"][0], 4096)
    if "layers" in told and _parse(said) == _EXPECTED:
        return {"layers": layers, "unset_ceilings": told["unset_ceilings"]}
    return {"error": told.get("error") or _last_line(pipes["stderr"][0]) or "its agent gave no result"}


def _wait_for(init: Init) -> None:
    """Wait for its end; one that does not hear is killed."""
    if not select.select([init.pidfd], [], [], _PATIENCE_SECONDS)[0]:
        os.kill(init.pid, signal.SIGKILL)
    os.waitpid(init.pid, 0)


def _parse(said: bytes) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return None


def _last_line(stderr: int) -> str:
    os.set_blocking(stderr, False)
    try:
        lines = os.read(stderr, 4096).decode(errors="replace").splitlines()
    except BlockingIOError:
        return ""
    return lines[-1] if lines else ""


def _spec(folder: str) -> dict[str, Any]:
    return {
        "entrypoint": "agent:run",
        "command": None,
        "folder": folder,
        "shared": [],
        "disk_bytes": 1 << 20,
        "environment": {
            "CORRAL_EXECUTION_ID": "canary",
            "CORRAL_ATTEMPT": "1",
            "CORRAL_DEADLINE": "0",
            "CORRAL_RESULT_FD": str(protocol.RESULT_FD),
        },
    }


def _listen(channel: protocol.Channel) -> dict[str, Any]:
    """Return everything that the init tells until the run is over, in one."""
    told: dict[str, Any] = {}
    with contextlib.suppress(protocol.Disconnected):
        while select.select([channel], [], [], _PATIENCE_SECONDS)[0]:
            received = channel.receive()
            told |= received[0] if received else {}
            if told.get("tell") in (protocol.GONE, protocol.ENDED):
                return told
        told["error"] = f"no answer within {_PATIENCE_SECONDS} seconds"
    return told


def main(folder: str) -> None:
    """Print what came of a sandboxed run. Args: folder: see above."""
    os.umask(0o022)
    groups = cgroup.find(lambda: tree.family(os.getppid()))
    try:
        found = try_sandbox(folder, groups)
    except OSError as error:
        found = {"error": error.strerror or str(error)}
    has_cgroup_v2 = groups is not None and groups.version == 2
    print(json.dumps({**found, "strict_lacks": strict.lacks(has_cgroup_v2)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
