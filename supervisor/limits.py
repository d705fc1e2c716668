"""What a run may use. The server has defaults and maxima, a manifest says what its agent needs, a request lowers that.

Every limit is one line of the models below; all else goes over their fields.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

# Source: sysconf(3).
MACHINE_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
CORES = float(os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Most:
    """built_in: the server's maximum where its settings say none. ceiling: the highest that they may say."""

    built_in: float
    ceiling: float


class LimitsTable(BaseModel):
    """The limits that manifests and requests have in a table: the least of each, its maximum, and its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cpu_seconds: Annotated[int, Field(ge=1), Most(864_000, 10_000_000)] = 600
    # Below a tenth, what has been killed would take seconds to end.
    cpus: Annotated[float, Field(ge=0.1, allow_inf_nan=False), Most(CORES, 10_000)] = CORES
    memory_bytes: Annotated[int, Field(ge=16 << 20), Most(MACHINE_BYTES, 1 << 50)] = 512 << 20
    file_size_bytes: Annotated[int, Field(ge=0), Most(1 << 40, 1 << 60)] = 1 << 30
    processes: Annotated[int, Field(ge=1), Most(4096, 100_000)] = 128
    disk_bytes: Annotated[int, Field(ge=4096), Most(MACHINE_BYTES, 1 << 40)] = 64 << 20
    open_files: Annotated[int, Field(ge=16), Most(65_536, 1_000_000)] = 1024
    result_bytes: Annotated[int, Field(ge=2), Most(8 << 20, 8 << 20)] = 1 << 20
    log_bytes: Annotated[int, Field(ge=4096), Most(1 << 30, 1 << 30)] = 1 << 20


Timeout = Annotated[float, Field(gt=0, allow_inf_nan=False), Most(86_400, 31_536_000)]


class Limits(LimitsTable):
    """All limits of a run."""

    timeout_seconds: Timeout = 300.0

    def lowered(self, others: Mapping[str, float]) -> Self:
        """Return these limits, but for those that another one of the same name is below."""
        lower = {name: others[name] for name, value in self if name in others and others[name] < value}
        return self.model_copy(update=lower) if lower else self


DEFAULTS = Limits()


def most_of(name: str) -> Most:
    """Return what the model says of a limit's maximum."""
    return next(item for item in Limits.model_fields[name].metadata if isinstance(item, Most))


def _of_each(attribute: str) -> Limits:
    """Return all limits at one of their values of Most."""
    most = {name: most_of(name) for name in Limits.model_fields}
    return Limits.model_validate({name: min(getattr(of, attribute), of.ceiling) for name, of in most.items()})


MAXIMA = _of_each("built_in")
CEILINGS = _of_each("ceiling")


@dataclass(frozen=True, slots=True)
class Excess:
    """A limit that is too high: its value, and the highest there may be."""

    name: str
    value: float
    most: float

    @property
    def place(self) -> str:
        """Where manifests and requests have it."""
        return f"limits.{self.name}" if self.name in LimitsTable.model_fields else self.name


def limits_said(model: BaseModel) -> dict[str, float]:
    """Return the limits that a manifest or a request says itself, in its timeout_seconds and its table limits."""
    said = model.model_dump(include={"timeout_seconds", "limits"}, exclude_unset=True)
    return {**said.pop("limits", {}), **said}


def excesses(said: Mapping[str, float], highest: Limits) -> Iterator[Excess]:
    """Yield each of some limits that is above the highest there may be."""
    for name, value in said.items():
        most = getattr(highest, name)
        if value > most:
            yield Excess(name, value, most)


def plain(number: float) -> str:
    """Return a number as people write it: 60 and not 60.0, 86400 and not 8.64e+04."""
    return str(int(number)) if number == int(number) else str(number)
