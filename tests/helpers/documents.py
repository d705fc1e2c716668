"""The documents as their readers see them: tables, commands with their outputs, and agents to copy."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("architecture", "isolation", "agents", "api", "operations", "reliability")),
)

# A block in sh is to be pasted; a block in text or json right below it is what it then shows.
_COMMAND = re.compile(r"^```sh\n(.*?)^```\n(?:\n```(?:text|json)\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)

# A block that begins with a comment that is a path is a file of an agent.
_FILE = re.compile(r"^```\w+\n(?:#|//) (\w+/\w+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """Something to paste into a shell. output: what it shows; None if the document does not say."""

    text: str
    output: str | None


def read(name: str) -> str:
    """Return the text of a document. Args: name: path relative to the checkout."""
    return (ROOT / name).read_text("utf-8")


def commands(name: str) -> list[Command]:
    """Return the commands of a document, in order."""
    found = [Command(text, output or None) for text, output in _COMMAND.findall(read(name))]
    return [command for command in found if not _FILE.match(f"```sh\n{command.text}```")]


def agent_files(name: str) -> dict[str, str]:
    """Return the files of the agents that a document shows, by path."""
    return dict(_FILE.findall(read(name)))


def rows(name: str, first_header: str) -> list[list[str]]:
    """Return the cells of all tables of a document that have this text as the header of their first column."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n)+", read(name), re.MULTILINE):
        header, _, *lines = table.splitlines()
        if _cells(header)[0] == first_header:
            found += [_cells(line) for line in lines]
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
