"""What an agent's author may say in agent.toml; docs/agents.md explains every key."""

import json
import os
import uuid
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from supervisor.limits import DEFAULTS, LimitsTable, Timeout
from supervisor.retry import NO_RETRY, Retry

# What says how to start an agent: the launcher gets the paths in one message, which runner.protocol limits to twice as
# much, and exec(2) takes the rest.
_START_BYTES = 64 << 10

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=32_768)]


def _normal(path: str) -> str:
    """Return a path without detours; os.path.normpath keeps two slashes at the start."""
    return os.path.normpath("/" + path.lstrip("/"))


HostPath = Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$", max_length=4096), AfterValidator(_normal)]


class Sandbox(BaseModel):
    """How a run is isolated."""

    model_config = _STRICT

    tier: Literal["sandboxed", "strict", "trusted"] = "sandboxed"
    network: Literal["none", "host"] = "none"
    read_only: Annotated[tuple[HostPath, ...], Field(max_length=100, strict=False)] = ()
    """Further paths of the host that the agent can read, at the same places."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tier == "trusted" and "network" in self.model_fields_set:
            raise ValueError('network does not go with the tier "trusted", which always has the host\'s')
        if self.tier == "strict" and self.network != "none":
            raise ValueError('the tier "strict" has no network')
        return self


class Manifest(BaseModel):
    """agent.toml, validated; docs/agents.md explains every key."""

    model_config = _STRICT

    name: Name
    id: str
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    entrypoint: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = None
    command: Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000, strict=False)] | None = None
    result: Literal["frames", "stdout"] = "frames"
    python: Annotated[Text, StringConstraints(min_length=1)] | None = None
    priority: Annotated[int, Field(ge=0, le=100)] = 50
    concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = None
    timeout_seconds: Timeout = DEFAULTS.timeout_seconds
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 5
    limits: LimitsTable = LimitsTable()
    sandbox: Sandbox = Sandbox()
    env: dict[EnvironmentName, Text] = {}
    retry: Retry = NO_RETRY

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.entrypoint is None) == (self.command is None):
            raise ValueError("exactly one of entrypoint and command is needed")
        if self.python and not self.entrypoint:
            raise ValueError("python goes with entrypoint; a command names its interpreter itself")
        if self.result == "stdout" and not self.command:
            raise ValueError('result = "stdout" goes with command')
        if self.command and not self.command[0]:
            raise ValueError("command: the program's name is empty")
        reserved = [name for name in self.env if name.startswith("CORRAL_")]
        if reserved:
            raise ValueError(f"env: names that begin with CORRAL_ are the server's: {', '.join(reserved)}")
        if (
            len(json.dumps([self.entrypoint, self.python, self.command, self.env, self.sandbox.read_only]))
            > _START_BYTES
        ):
            raise ValueError("entrypoint, python, command, env and sandbox.read_only together are over 64 KiB as JSON")
        return self

    @field_validator("id")
    @classmethod
    def _is_uuid(cls, value: str) -> str:
        return str(uuid.UUID(value))
