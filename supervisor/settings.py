"""The server's settings: flags over environment over file over defaults."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from supervisor.agents import Policy, problems
from supervisor.errors import ConfigurationError
from supervisor.limits import CEILINGS, DEFAULTS, MAXIMA, Limits, excesses, plain

DEFAULT_FILE = Path("corral.toml")
_EXAMPLE_AGENTS = Path(__file__).parent.parent / "examples" / "agents"


# Those of the tier "strict" are named after its needs; see runner/strict.py.
Degradation = Literal["sandbox", "strict.own_uid", "strict.landlock", "strict.cgroup_v2"]


class Settings(BaseSettings):
    """Every tunable. In the environment a name is written CORRAL_NAME; unknown names in the file are errors."""

    model_config = SettingsConfigDict(env_prefix="CORRAL_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 8001
    """0 picks a free port; the ready line tells which."""
    data: Path = Path("corral-data")
    """Database, logs, sockets and work directories; one running server per folder."""
    agents: Path = _EXAMPLE_AGENTS
    """One folder per agent, each with an agent.toml."""
    max_running: Annotated[int, Ge(1), Le(10_000)] = 4 * (os.cpu_count() or 1)
    """Runs that may be live at once, over all agents."""
    http_threads: Annotated[int, Ge(1), Le(256)] = 16
    max_body_bytes: Annotated[int, Ge(1), Le(64 << 20)] = 1 << 20
    """Largest request body."""
    max_files: Annotated[int, Ge(0), Le(10_000)] = 100
    """Files of one run that are kept of those in its work directory."""
    max_files_bytes: Annotated[int, Ge(0), Le(1 << 40)] = 16 << 20
    """What they may have together."""
    keep_executions: Annotated[int, Ge(1), Le(1_000_000_000)] = 1_000_000
    """Executions that have ended and are kept; of more, those that ended first are removed."""
    keep_days: Annotated[float, Gt(0), Le(36_500)] = 30.0
    """How long after its end an execution is kept."""
    keep_bytes: Annotated[int, Ge(1 << 20), Le(1 << 50)] = 10 << 30
    """What database, logs and kept files may take together before those that ended first are removed."""
    trusted_agents: frozenset[str] = frozenset()
    """Names of the agents that may run at tier "trusted", without a sandbox; "*" for all."""
    host_network_agents: frozenset[str] = frozenset()
    """Names of the sandboxed agents that may have the host's network; "*" for all."""
    read_only_paths: tuple[Path, ...] = ()
    """What of the host sandboxed agents may see if their manifests ask for it, with all that is below."""
    allow_degraded: frozenset[Degradation] = frozenset()
    """What may be missing on this machine. "sandbox": then only agents of the tier "trusted" can run. "strict.…": then
    agents of the tier "strict" run without."""
    shutdown_grace_seconds: Annotated[float, Ge(0), Le(3600)] = 2.0
    """What a run is given after SIGTERM when the server stops, if its own grace period is longer."""
    on_stop: Literal["stop", "drain"] = "stop"
    """What the first SIGTERM means: the runs are stopped, or may end before, as after `corral drain`."""
    drain_timeout_seconds: Annotated[float, Ge(0), Le(604_800)] = 300.0
    """How long runs may go on when the server drains; then they are stopped."""
    orphan_timeout_seconds: Annotated[float, Ge(0), Le(86_400)] = 60.0
    """How long runs go on without a supervisor, for the next one to take them over; 0 for not at all."""
    max_limits: Limits = MAXIMA
    """The most that a manifest may ask for."""
    default_limits: Limits = DEFAULTS
    """What a run may use if the agent's manifest does not say."""

    @field_validator("max_limits", mode="before")
    @classmethod
    def _with_built_in_maxima(cls, value: object) -> object:
        return {**MAXIMA.model_dump(), **value} if isinstance(value, dict) else value

    @field_validator("max_limits")
    @classmethod
    def _not_above_ceilings(cls, limits: Limits) -> Limits:
        _refuse_excesses(limits, CEILINGS, "the highest maximum there can be")
        return limits

    @field_validator("default_limits")
    @classmethod
    def _not_above_maxima(cls, limits: Limits, info: ValidationInfo) -> Limits:
        """Refuse a default that was said and is above the maximum; lower one that is built in."""
        maxima: Limits = info.data.get("max_limits", CEILINGS)
        _refuse_excesses(limits, maxima, "the maximum (max_limits)")
        return limits.lowered(maxima.model_dump())

    @field_validator("data", "agents")
    @classmethod
    def _is_text(cls, path: Path) -> Path:
        """Refuse what cannot be told to the API process, which takes its settings as JSON."""
        str(path).encode()
        return path

    @property
    def database(self) -> Path:
        return self.data / "corral.db"

    @property
    def lock(self) -> Path:
        return self.data / "lock"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def bulletin(self) -> Path:
        return self.data / "isolation.json"

    @property
    def files(self) -> Path:
        return self.data / "files"

    @property
    def strict_without(self) -> tuple[str, ...]:
        """The needs of the tier "strict" that it may do without."""
        return tuple(sorted(name.removeprefix("strict.") for name in self.allow_degraded if name.startswith("strict.")))

    @property
    def policy(self) -> Policy:
        return Policy(
            self.trusted_agents,
            self.read_only_paths,
            self.host_network_agents,
            default_limits=self.default_limits,
            max_limits=self.max_limits,
        )


def _refuse_excesses(limits: Limits, most: Limits, what: str) -> None:
    """Raise ValueError: a limit that was said is too high."""
    found = [
        f"{excess.name}: {plain(excess.value)} is above {plain(excess.most)}, {what}"
        for excess in excesses(limits.model_dump(exclude_unset=True), most)
    ]
    if found:
        raise ValueError("; ".join(found))


def load(flags: dict[str, Any], file: Path | None = None) -> Settings:
    """Return the settings in force.

    Args:
        flags: what was said on the command line; None values are as if not said.
        file: TOML; by default corral.toml in the working directory, if there is one.
    Raises:
        ConfigurationError: naming every setting that is wrong.
    """
    if file is not None and not file.is_file():
        raise ConfigurationError(f"cannot read settings: there is no file {str(file)!r}")
    source = file or DEFAULT_FILE

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=source)

    try:
        sourced = Sourced(**{name: value for name, value in flags.items() if value is not None})
        return sourced.model_copy(update={"data": sourced.data.absolute(), "agents": sourced.agents.absolute()})
    except ValidationError as error:
        raise ConfigurationError(f"cannot read settings: {'; '.join(problems(error))}") from error
    except ValueError as error:
        raise ConfigurationError(f"cannot read settings: {error}") from error
