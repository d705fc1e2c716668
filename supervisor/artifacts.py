"""The files that runs have left: how they are kept, and reading them.

All files of an attempt are in one file, `contents`, one after the other; `index.json` beside it has their names, in
that order. So nothing on this machine's disk has a name that an agent chose.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from supervisor.errors import FileUnknown
from supervisor.logs import attempt_folder

CONTENTS, INDEX = "contents", "index.json"


class LeftOut(StrEnum):
    """Why something that a run has left was not kept."""

    SYMBOLIC_LINK = "symbolic_link"
    HARD_LINK = "hard_link"
    SPECIAL = "special"
    SPARSE = "sparse"
    NAME = "name"
    UNREADABLE = "unreadable"
    TOO_DEEP = "too_deep"
    TOO_MANY = "too_many"
    TOO_LARGE = "too_large"
    NOT_LOOKED_AT = "not_looked_at"
    NOT_WRITTEN = "not_written"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file. name: its path in the work directory, with "/" between folders. sha256: of its bytes, in hex."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Index:
    """What was kept of one attempt, in the order of its contents; how much of what was not, by reason."""

    files: tuple[Artifact, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as it is stored."""
        return json.dumps({"files": [asdict(file) for file in self.files], "left_out": self.left_out})


class Artifacts:
    """Reading what the runs of all executions have left."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def index(self, execution_id: str, attempt: int) -> Index:
        """Return what was kept of an attempt; nothing if it has left nothing or has not ended."""
        try:
            found = json.loads((attempt_folder(self._root, execution_id, attempt) / INDEX).read_bytes())
        except FileNotFoundError:
            return Index()
        return Index(tuple(Artifact(**file) for file in found["files"]), found["left_out"])

    def open(self, execution_id: str, attempt: int, name: str) -> tuple[Artifact, BinaryIO]:
        """Return a file, and the open contents at the place where its bytes begin. Raises FileUnknown."""
        offset = 0
        for file in self.index(execution_id, attempt).files:
            if file.name == name:
                try:
                    contents = (attempt_folder(self._root, execution_id, attempt) / CONTENTS).open("rb")
                except FileNotFoundError:
                    break  # removed since its index was read
                contents.seek(offset)
                return file, contents
            offset += file.size_bytes
        raise FileUnknown(f"cannot find file {name[:100]!r} of execution {execution_id}: none of this name was kept")
