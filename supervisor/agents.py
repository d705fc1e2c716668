"""The agents: folders with a manifest. A broken one is listed with its error and never stops the server."""

import os
import stat
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from supervisor.errors import AgentBroken, AgentUnknown
from supervisor.limits import DEFAULTS, MAXIMA, Limits, excesses, limits_said, plain
from supervisor.manifest import Manifest

MANIFEST = "agent.toml"

# Namespace of the ids that are derived from names: the same name gives the same id on every machine.
_ID_NAMESPACE = uuid.UUID("5a2f7f0e-3c1d-5b8e-9a54-6c0f2f8b1d77")

# A manifest is for people to read; what is larger is none.
_MANIFEST_BYTES = 1 << 20

# The stamp of a manifest that is there and cannot be looked at.
_UNREADABLE = (-1, -1, -1)

# Every sandbox has these. See runner/sandbox/mounts.py.
_SEEN_BY_ALL = (Path("/usr"), Path(sys.base_prefix))

# What a sandbox has of its own at these places hides what the host has there.
_HIDDEN = tuple(map(Path, ("/agent", "/corral", "/dev", "/proc", "/tmp", "/work")))


@dataclass(frozen=True)
class Agent:
    """An agent that can be run. limits: what its runs may use; those of its manifest are only the ones it says."""

    folder: Path
    manifest: Manifest
    limits: Limits

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def name(self) -> str:
        return self.manifest.name

    def lowered(self, limits: Mapping[str, float]) -> Self:
        """Return the agent with limits that are nowhere above these, by name."""
        return replace(self, limits=self.limits.lowered(limits))


@dataclass(frozen=True)
class Policy:
    """What the operator lets manifests ask for.

    trusted_agents: names of the agents that may run without a sandbox; "*" for all. host_network_agents: likewise, of
    those that may have the host's network in their sandboxes. read_only_paths: what of the host may be seen in
    sandboxes, with all that is below. default_limits: for what a manifest does not say; not above max_limits: the most
    that it may say.
    """

    trusted_agents: frozenset[str] = frozenset()
    read_only_paths: tuple[Path, ...] = ()
    host_network_agents: frozenset[str] = frozenset()
    default_limits: Limits = DEFAULTS
    max_limits: Limits = MAXIMA

    def objection(self, agent: Agent) -> str | None:
        """Return why an agent must not be run as its manifest asks, None if it may."""
        too_high = [
            f"{excess.place}: {plain(excess.value)} is above {plain(excess.most)}, the server's maximum (max_limits)"
            for excess in excesses(limits_said(agent.manifest), self.max_limits)
        ]
        if too_high:
            return "; ".join(too_high)
        if agent.manifest.sandbox.tier == "trusted":
            if self.trusted_agents & {agent.name, "*"}:
                return None
            return 'sandbox.tier: "trusted" is only for agents that the server\'s setting trusted_agents names'
        if agent.manifest.sandbox.network == "host" and not self.host_network_agents & {agent.name, "*"}:
            return 'sandbox.network: "host" is only for agents that the server\'s setting host_network_agents names'
        return next(filter(None, map(self._objection_to_path, shared_paths(agent))), None)

    def _objection_to_path(self, path: str) -> str | None:
        if path == "/" or any(Path(path).is_relative_to(place) for place in _HIDDEN):
            return f"{path} cannot be seen in a sandbox, which has a place of its own there"
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(os.path.realpath(allowed)) for allowed in (*_SEEN_BY_ALL, *self.read_only_paths)):
            return None
        return f"{path} is not below a path of the server's setting read_only_paths"


_NOTHING_MORE = Policy()


@dataclass(frozen=True)
class Entry:
    """One folder: an agent, or the reason why it is none. stamp: what the manifest's file looked like when read."""

    folder: Path
    stamp: tuple[int, int, int]
    agent: Agent | None
    error: str | None


class AgentRegistry:
    """The agents below one folder, always as they are on disk now."""

    def __init__(self, root: Path, policy: Policy = _NOTHING_MORE) -> None:
        """Args: root: the folder of the agents' folders. policy: what their manifests may ask for."""
        self._root = root
        self._policy = policy
        self._by_key: dict[str, Entry] = {}

    def find(self, id_or_name: str) -> Agent:
        """Return an agent by its id or its name.

        Only texts that were read from a manifest or a folder's name are compared: no path is built from the argument.

        Raises:
            AgentUnknown: there is none. AgentBroken: its manifest cannot be used.
        """
        entry = self._by_key.get(id_or_name)
        if entry is None or not self._still_holds(entry):
            self._scan()
            entry = self._by_key.get(id_or_name)
        if entry is None:
            raise AgentUnknown(f"cannot find agent {id_or_name[:100]!r}: no agent has this id or name")
        if entry.agent is None:
            raise AgentBroken(f"cannot use agent {entry.folder.name!r}: {entry.error}")
        return entry.agent

    def entries(self) -> list[Entry]:
        """Return all folders with a manifest, by folder name."""
        return list(self._scan())

    def _still_holds(self, entry: Entry) -> bool:
        """Tell whether an agent is still what it was; also what links lead to, which no manifest shows."""
        return (
            entry.agent is not None
            and _stamp(entry.folder) == entry.stamp
            and self._policy.objection(entry.agent) is None
        )

    def _scan(self) -> list[Entry]:
        entries: list[Entry] = []
        by_key: dict[str, Entry] = {}
        for entry in map(self._check_allowed, _read_all(self._root, self._policy.default_limits)):
            keys = (entry.agent.name, entry.agent.id) if entry.agent else ()
            taken = next((by_key[key] for key in keys if key in by_key), None)
            if taken:
                error = f"its name or id is also that of {taken.folder.name!r}"
                entry = Entry(entry.folder, entry.stamp, None, error)
            else:
                by_key.update(dict.fromkeys(keys, entry))
            entries.append(entry)
        for entry in entries:
            if entry.agent is None:
                for key in _presumed_keys(entry.folder):
                    by_key.setdefault(key, entry)
        self._by_key = by_key
        return entries

    def _check_allowed(self, entry: Entry) -> Entry:
        error = entry.agent and self._policy.objection(entry.agent)
        return Entry(entry.folder, entry.stamp, None, error) if error else entry


def shared_paths(agent: Agent) -> list[str]:
    """Return what a sandboxed agent needs of the host besides its folder: what it asks for, and its interpreter's."""
    manifest = agent.manifest
    paths = list(manifest.sandbox.read_only)
    if manifest.python and "/" in manifest.python:
        interpreter = os.path.normpath(agent.folder / manifest.python)
        # A virtual environment is needed where it is named, and the interpreter it was made from where that really is.
        for folder, path in ((agent.folder, interpreter), (agent.folder.resolve(), os.path.realpath(interpreter))):
            if not Path(path).is_relative_to(folder):
                paths.append(os.path.dirname(os.path.dirname(path)))
    return list(dict.fromkeys(paths))


def read_agent(folder: Path, default_limits: Limits = DEFAULTS) -> Agent:
    """Return the agent of one folder.

    Args:
        default_limits: for what its manifest does not say.
    Raises:
        AgentBroken: in words for its author.
    """
    try:
        data = tomllib.loads(_manifest_text(folder / MANIFEST))
        name = data.setdefault("name", folder.name)
        data.setdefault("id", _id_of(str(name)))
        manifest = Manifest.model_validate(data)
        return Agent(folder, manifest, default_limits.model_copy(update=limits_said(manifest)))
    except ValidationError as error:
        raise AgentBroken("; ".join(problems(error))) from error
    except (OSError, ValueError, RecursionError) as error:
        raise AgentBroken(f"cannot read {MANIFEST}: {error}") from error


def _id_of(name: str) -> str:
    # The name of a folder may be no text; it is no agent's name then, and only needs a key.
    return str(uuid.uuid5(_ID_NAMESPACE, name.encode("utf-8", "replace").decode()))


def _presumed_keys(folder: Path) -> tuple[str, ...]:
    """Return the name and id of an agent whose manifest says neither, or cannot be read."""
    return folder.name, _id_of(folder.name)


def _manifest_text(path: Path) -> str:
    """Return what is in a manifest. Whatever an agent has put in its place, this neither waits nor reads on and on."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no file")
        data = file.read(_MANIFEST_BYTES + 1)
    if len(data) > _MANIFEST_BYTES:
        raise ValueError(f"it is larger than {_MANIFEST_BYTES} bytes")
    return data.decode()


def _read_all(root: Path, default_limits: Limits) -> Iterator[Entry]:
    try:
        folders = sorted(root.iterdir())
    except OSError:
        return
    for folder in folders:
        stamp = _stamp(folder)
        if stamp is None:
            continue
        try:
            yield Entry(folder, stamp, read_agent(folder, default_limits), None)
        except AgentBroken as error:
            yield Entry(folder, stamp, None, str(error))


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """Return what the manifest's file looks like, None if there is none."""
    try:
        status = os.stat(f"{folder}/{MANIFEST}")  # for every submit and launch: a Path would take four times as long
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _UNREADABLE
    return status.st_mtime_ns, status.st_size, status.st_ino


def problems(error: ValidationError) -> Iterator[str]:
    """Yield each thing that is wrong, with its place."""
    for item in error.errors():
        place = ".".join(map(str, item["loc"]))
        what = item["msg"].removeprefix("Value error, ")
        yield f"{place}: {what}" if place else what
