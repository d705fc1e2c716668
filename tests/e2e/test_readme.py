"""The documents at their word: their agents are installed, their commands are run, what these show is compared."""

import contextlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import documents
from tests.helpers.documents import DOCUMENTS, ROOT, Command
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

URL = "http://127.0.0.1:8001"
AGENT_FILES = {path: text for name in DOCUMENTS for path, text in documents.agent_files(name).items()}
AGENTS = sorted({path.partition("/")[0] for path in AGENT_FILES})

# Where agents look for programs.
AGENT_PATH = "/usr/local/bin:/usr/bin:/bin"

# Something for each of the documented agents.
INPUT = {"name": "Ada", "text": "one two", "numbers": [1, 2]}

# What is different each time, and what stands for it.
VARYING = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "INSTANT"),
    (r"Date: .*", "Date: DATE"),
    (r"pid \d+", "pid PID"),
    (r',\s*"cgroup"(?=\s*\])', ""),  # not every machine has control groups for us
    (r'("(?:\w+_seconds|peak_memory_bytes|duration_ms|uptime_sec|sqlite_version)"): ("[^"]*"|[\d.]+)', r"\1: MEASURED"),
    (r'("(?:database|wal)_bytes"): \d+', r"\1: MEASURED"),
)


class Shell:
    """A reader's shell: it keeps variables from one command to the next."""

    def __init__(self, folder: Path, url: str) -> None:
        self._state = folder / "variables"
        self._state.touch()
        self._url = url

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit code of a command and what it showed."""
        lines = (
            "set -euo pipefail",
            f". {self._state}",
            command.replace(URL, self._url),
            f"declare -p >{self._state}.new",
        )
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20
        )
        if done.returncode == 0:
            self._keep("api", "id")
        return done.returncode, done.stdout

    def _keep(self, *names: str) -> None:
        kept = re.findall(
            rf"^declare -- (?:{'|'.join(names)})=.*$", Path(f"{self._state}.new").read_text(), re.MULTILINE
        )
        self._state.write_text("\n".join(kept))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the examples and the documents' agents."""
    folder = tmp_path_factory.mktemp("documents")
    agents = shutil.copytree(ROOT / "examples" / "agents", folder / "agents")
    for path, text in AGENT_FILES.items():
        (agents / path).parent.mkdir(exist_ok=True)
        (agents / path).write_text(text)
    with RunningServer(folder / "data", agents=agents) as server:
        server.http.get("/admin/health")  # opens the connection, which each test is to leave as it was
        yield server


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("name", ["README.md", "docs/agents.md", "docs/api.md"])
def test_commands_of_document_show_what_it_says(running: RunningServer, name: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path, running.url)
    commands = documents.commands(name)
    assert any(command.output for command in commands)
    for command in commands:
        if command.output is None:
            code, shown = shell.run(command.text)
            assert code == 0, shown
        else:
            assert outcome(shell, command) == (0, constant(command.output))


@pytest.mark.parametrize("name", AGENTS)
def test_documented_agent_completes(running: RunningServer, name: str) -> None:
    program = program_of(AGENT_FILES[f"{name}/agent.toml"])
    if program and not shutil.which(program, path=AGENT_PATH):
        pytest.skip(f"there is no {program}")
    execution = running.run(name, **INPUT)
    assert execution["status"] == "COMPLETED", execution["error_log"]


def test_ready_line_is_that_of_the_readme(running: RunningServer) -> None:
    assert running.ready_line.replace(running.url, URL) in documents.read("README.md")


def program_of(manifest: str) -> str | None:
    """Return the program that an agent needs from the machine."""
    keys = tomllib.loads(manifest)
    return keys.get("command", [keys.get("python")])[0]


def is_read(command: str) -> bool:
    """Tell whether a command only looks: such a one can be repeated until the server has got that far."""
    return " -d " not in command and "-X POST" not in command


def outcome(shell: Shell, command: Command) -> tuple[int, str]:
    """Return exit code and constant part of what a command shows; a look is repeated until it is as expected."""
    last = (-1, "")

    def expected() -> bool:
        nonlocal last
        code, shown = shell.run(command.text)
        last = (code, constant(shown))
        return last == (0, constant(command.output or ""))

    with contextlib.suppress(AssertionError):
        wait_until(expected, 10 if is_read(command.text) else 0)
    return last


def constant(shown: str) -> str:
    """Return an output without what is different each time; lines that processes print side by side are sorted."""
    for pattern, name in VARYING:
        shown = re.sub(pattern, name, shown)
    if "pid PID" in shown:
        shown = re.sub(r'"(size|next_offset)": \d+', r'"\1": SIZE', shown)
    shown = re.sub(r'"text": "(.*)"', lambda found: " ".join(sorted(found.group(1).split("\\n"))), shown)
    return shown.replace("\r", "").strip()
