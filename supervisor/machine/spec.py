"""What the launcher is told of a run: the manifest turned into a command, an environment and limits."""

import os
import sys
from typing import Any

from runner import agent as agent_script
from runner import profile, protocol
from runner.sandbox.rlimits import LIMITS
from supervisor.agents import Agent, shared_paths
from supervisor.limits import CORES
from supervisor.models import Claim

# Where it really is: a sandbox has the interpreter that a virtual environment was made from, not the environment.
_OUR_PYTHON = os.path.realpath(sys.executable)

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def launch_request(agent: Agent) -> dict[str, Any]:
    """Return what the launcher itself has to know of a run, as runner.protocol describes it."""
    return {
        "tier": agent.manifest.sandbox.tier,
        "network": profile.HOST if _is_trusted(agent) else agent.manifest.sandbox.network,
        "agent": agent.id,
        "shared": _shared(agent),
        "limits": {name: amount for name, amount in _limits(agent).items() if name in LIMITS or name == "cpus"},
    }


def run_spec(claim: Claim, agent: Agent, deadline: float) -> dict[str, Any]:
    """Return the spec of one run, as runner.protocol describes it.

    Args:
        deadline: when the run will be stopped, in seconds since the epoch.
    """
    manifest = agent.manifest
    command = list(manifest.command) if manifest.command else _interpreter_command(agent)
    return {
        "entrypoint": None if command else manifest.entrypoint,
        "command": command,
        "folder": str(agent.folder),
        "shared": _shared(agent),
        "disk_bytes": agent.limits.disk_bytes,
        "environment": _environment(claim, agent, deadline),
    }


def _shared(agent: Agent) -> list[str]:
    return [] if _is_trusted(agent) else shared_paths(agent)


def _is_trusted(agent: Agent) -> bool:
    return agent.manifest.sandbox.tier == profile.TRUSTED


def _limits(agent: Agent) -> dict[str, float]:
    limits: dict[str, float] = agent.limits.model_dump()
    if _is_trusted(agent):
        del limits["processes"]  # there it would count what else the server's user runs
    else:
        limits["processes"] += 1  # the init
    if limits["cpus"] >= CORES:
        del limits["cpus"]  # there is nothing to share out
    return limits


def _interpreter_command(agent: Agent) -> list[str] | None:
    """Return the command that starts an interpreter for an entry point, None if a fork of the launcher runs it.

    By file: then none of our folders is on its path.
    """
    manifest = agent.manifest
    trusted = _is_trusted(agent)
    folder = str(agent.folder) if trusted else protocol.AGENT_PLACE
    script = agent_script.__file__ if trusted else protocol.AGENT_SCRIPT_PLACE
    assert manifest.entrypoint
    if manifest.python:
        interpreter = os.path.join(folder, manifest.python) if "/" in manifest.python else manifest.python
        return [interpreter, "-I", script, manifest.entrypoint, folder]
    if manifest.sandbox.tier == profile.STRICT:
        return [_OUR_PYTHON, "-I", "-S", script, manifest.entrypoint, folder]
    return None


def _environment(claim: Claim, agent: Agent, deadline: float) -> dict[str, str]:
    """Return the environment of the agent, but for what names its work directory. Nothing of the server's is in it."""
    return {
        "PATH": _SEARCH_PATH,
        "LANG": "C.UTF-8",
        **agent.manifest.env,
        "CORRAL_AGENT": agent.name,
        "CORRAL_EXECUTION_ID": claim.execution_id,
        "CORRAL_ATTEMPT": str(claim.attempt),
        "CORRAL_DEADLINE": f"{deadline:.3f}",
        "CORRAL_RESULT_FD": str(protocol.RESULT_FD),
    }
