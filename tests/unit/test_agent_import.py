"""The agent's module is what Python itself would import, though it is mostly imported in a shorter way."""

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from runner import agent

# In the module that is imported, so that it tells which one that is.
CODE = """
import sys
def run(input):
    module = sys.modules[__name__]
    spec = module.__spec__
    return {
        "which": WHICH,
        "seen": [repr(module), module.__name__, module.__package__, module.__file__, type(module.__loader__).__name__],
        "spec": [spec.name, spec.origin, spec.has_location, spec.parent, spec.loader is module.__loader__],
        "source": spec.loader.get_source(__name__),
    }
"""

PLAINLY = """
import importlib, json, sys
sys.path.insert(0, sys.argv[2])
print(json.dumps({"result": importlib.import_module(sys.argv[1]).run({})}))
"""


def source(which: str) -> str:
    return f"WHICH = {which!r}\n{CODE}"


def compiled(folder: Path, into: Path) -> None:
    """Leave the bytecode of other source, which Python is told not to compare."""
    other = folder / "other"
    other.write_text(source("bytecode"))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(other), str(into), "agent.py", doraise=True, invalidation_mode=mode)


def imported(folder: Path, name: str) -> object:
    """Return what the agent's module tells when it is run as an agent of its own interpreter is."""
    reader, writer = os.pipe()
    environment = {"CORRAL_EXECUTION_ID": "", "CORRAL_ATTEMPT": "1", "CORRAL_DEADLINE": "0", "CORRAL_WORKDIR": ""}
    command = [sys.executable, "-I", agent.__file__, f"{name}:run", str(folder)]
    with os.fdopen(reader) as frames:
        with os.fdopen(writer, "wb"):
            subprocess.run(
                command,
                input=b"{}",
                env=environment | {"CORRAL_RESULT_FD": str(writer)},
                pass_fds=[writer],
                stderr=subprocess.DEVNULL,
            )
        return json.loads(frames.read())


def test_plain_file_is_the_module_that_python_would_make(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(source("file"))
    (tmp_path / "agent.toml").touch()
    assert imported(tmp_path, "agent") == plainly(tmp_path, "agent")


def test_package_goes_before_a_file(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(source("file"))
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text(source("package"))
    assert imported(tmp_path, "agent") == plainly(tmp_path, "agent")


def test_bytecode_is_used_where_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(source("file"))
    (tmp_path / "__pycache__").mkdir()
    compiled(tmp_path, tmp_path / "__pycache__" / f"agent.{sys.implementation.cache_tag}.pyc")
    assert imported(tmp_path, "agent") == plainly(tmp_path, "agent")
    (tmp_path / "agent.py").unlink()
    (tmp_path / "__pycache__").rename(tmp_path / "elsewhere")
    compiled(tmp_path, tmp_path / "agent.pyc")
    assert imported(tmp_path, "agent") == plainly(tmp_path, "agent")


@pytest.mark.parametrize("name", ["atexit", "__hello__", "json"])  # built in, frozen, imported before
def test_module_of_pythons_own_goes_before_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(source("file"))
    told = imported(tmp_path, name)
    assert isinstance(told, dict)
    assert "has no attribute 'run'" in told["error"]["message"]


def plainly(folder: Path, name: str) -> object:
    """Return the same from a module that was imported without us."""
    command = [sys.executable, "-I", "-B", "-c", PLAINLY, name, str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
