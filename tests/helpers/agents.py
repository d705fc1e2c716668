"""Agents that a test writes itself."""

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import RunningServer

# Manifests: the three ways to be started. What these agents look at and leave behind is outside of a sandbox.
TRUSTED = 'sandbox.tier = "trusted"'
PYTHON = f'{TRUSTED}\nentrypoint = "agent:run"'
OWN_PYTHON = f'{PYTHON}\npython = "{sys.executable}"'
COMMAND = f'{TRUSTED}\ncommand = ["{sys.executable}", "main.py"]'

python_modes = pytest.mark.parametrize("manifest", [PYTHON, OWN_PYTHON], ids=["forked", "own interpreter"])

# Every agent's PATH, whatever the server was started with.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_numbers = itertools.count(1)


def write_agent(root: Path, name: str, manifest: str, files: dict[str, str] | None = None) -> Path:
    """Write the folder of an agent, its manifest last, and return it. files: {path in the folder: text}."""
    folder = root / name
    for path, text in {**(files or {}), "agent.toml": manifest}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def run_new(server: RunningServer, manifest: str, files: dict[str, str], **input: Any) -> dict[str, Any]:
    """Write an agent with a name of its own below the server's agents, run it, and return its execution's end."""
    name = f"new-{next(_numbers)}"
    write_agent(server.agents, name, manifest, files)
    return server.run(name, **input)


def result_of_new(server: RunningServer, manifest: str, files: dict[str, str], **input: Any) -> Any:
    """Like run_new, but return the result. Raises AssertionError: there is none."""
    execution = run_new(server, manifest, files, **input)
    assert execution["status"] == "COMPLETED", execution["error_log"]
    return execution["final_result"]
