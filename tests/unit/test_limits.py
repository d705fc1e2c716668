"""Limits: defaults and maxima of the server, what a manifest says, what a request lowers, and what comes of it all."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import InvalidRequest
from api.schemas import RunRequest, lowered_limits
from supervisor.agents import Agent, AgentRegistry, Policy
from supervisor.errors import AgentBroken
from supervisor.limits import (
    CEILINGS,
    DEFAULTS,
    MACHINE_BYTES,
    MAXIMA,
    Limits,
    LimitsTable,
    excesses,
    limits_said,
    plain,
)
from supervisor.manifest import Manifest

NAMES = list(Limits.model_fields)


def least(name: str) -> float:
    """Return the least value of a limit; of the one that has none, a small one."""
    return next((item.ge for item in Limits.model_fields[name].metadata if hasattr(item, "ge")), 0.001)


def kind(name: str) -> type:
    return Limits.model_fields[name].annotation or object


def values(name: str) -> st.SearchStrategy[float]:
    bounds = least(name), getattr(CEILINGS, name)
    return st.floats(*bounds) if kind(name) is float else st.integers(*map(int, bounds))


EVERY = st.fixed_dictionaries({name: values(name) for name in NAMES})
SOME = st.fixed_dictionaries({}, optional={name: values(name) for name in NAMES})


def toml(limits: dict[str, float]) -> str:
    """Return a manifest that says these limits."""
    where = {name: f"limits.{name}" if name in LimitsTable.model_fields else name for name in limits}
    return 'command = ["true"]\n' + "\n".join(f"{where[name]} = {value!r}" for name, value in limits.items())


def body(limits: dict[str, float]) -> RunRequest:
    """Return a request that says these limits."""
    top = {name: value for name, value in limits.items() if name not in LimitsTable.model_fields}
    table = {name: value for name, value in limits.items() if name in LimitsTable.model_fields}
    return RunRequest.model_validate({"agent_id": "a", **top, "limits": table})


def an_agent(limits: Limits) -> Agent:
    manifest = Manifest.model_validate({"name": "a", "id": "0" * 32, "command": ["true"]})
    return Agent(Path("/a"), manifest, limits)


def registry(folder: Path, limits: dict[str, float], **policy: Limits) -> AgentRegistry:
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a" / "agent.toml").write_text(toml(limits))
    return AgentRegistry(folder, Policy(**policy))  # type: ignore[arg-type]


# -- the server --------------------------------------------------------------------------------------------------------


def test_defaults_maxima_and_ceilings_are_in_order_and_finite() -> None:
    for name in NAMES:
        assert least(name) <= getattr(DEFAULTS, name) <= getattr(CEILINGS, name) < 1 << 63
        assert least(name) <= getattr(MAXIMA, name) <= getattr(CEILINGS, name)
    assert MAXIMA.memory_bytes == MACHINE_BYTES > 64 << 20


@pytest.mark.parametrize(
    ("number", "text"), [(60.0, "60"), (86400.0, "86400"), (0.25, "0.25"), (1 << 60, "1152921504606846976")]
)
def test_numbers_are_told_as_people_write_them(number: float, text: str) -> None:
    assert plain(number) == text


# -- the manifest ------------------------------------------------------------------------------------------------------


def test_agent_has_what_its_manifest_says_and_else_the_defaults_of_the_server(tmp_path: Path) -> None:
    defaults = DEFAULTS.model_copy(update={"timeout_seconds": 7.5, "open_files": 99})
    agents = registry(tmp_path, {"open_files": 50, "processes": 3}, default_limits=defaults)
    expected = defaults.model_dump() | {"open_files": 50, "processes": 3}
    assert agents.find("a").limits.model_dump() == expected


@pytest.mark.parametrize("name", NAMES)
def test_manifest_above_the_maximum_is_broken_and_told_limit_value_and_maximum(tmp_path: Path, name: str) -> None:
    most = least(name) + 5
    maxima = MAXIMA.model_copy(update={name: most})
    assert registry(tmp_path, {name: most}, max_limits=maxima).find("a")
    agents = registry(tmp_path, {name: most + 1}, max_limits=maxima)
    place = name if name == "timeout_seconds" else f"limits.{name}"
    with pytest.raises(AgentBroken) as broken:
        agents.find("a")
    told = f"{place}: {plain(most + 1)} is above {plain(most)}, the server's maximum (max_limits)"
    assert str(broken.value) == f"cannot use agent 'a': {told}"
    assert [entry.error for entry in agents.entries()] == [told]


def test_manifest_above_several_maxima_is_told_all(tmp_path: Path) -> None:
    agents = registry(tmp_path, {"timeout_seconds": 31536001.0, "result_bytes": (8 << 20) + 1})
    with pytest.raises(
        AgentBroken, match=r"limits.result_bytes: 8388609 .*; timeout_seconds: 31536001 is above 86400, "
    ):
        agents.find("a")


# -- the request -------------------------------------------------------------------------------------------------------


def test_request_that_says_nothing_leaves_the_limits_of_the_agent() -> None:
    limits = DEFAULTS.model_copy(update={"timeout_seconds": 1.0, "memory_bytes": 1 << 34})
    assert lowered_limits(body({}), an_agent(limits)) == limits


@pytest.mark.parametrize("name", NAMES)
def test_request_lowers_one_limit_and_cannot_raise_it(name: str) -> None:
    limits = DEFAULTS.model_copy(update={name: least(name) + 5})
    lowered = lowered_limits(body({name: least(name)}), an_agent(limits))
    assert lowered.model_dump() == limits.model_dump() | {name: least(name)}
    assert lowered_limits(body({name: least(name) + 5}), an_agent(limits)) == limits
    with pytest.raises(InvalidRequest) as refused:
        lowered_limits(body({name: least(name) + 6}), an_agent(limits))
    place = name if name == "timeout_seconds" else f"limits.{name}"
    detail = f"must be at most {plain(least(name) + 5)}, the limit of this agent"
    assert refused.value.fields == [{"field": place, "detail": detail}]


# -- all together ------------------------------------------------------------------------------------------------------


@given(limits=EVERY, others=SOME)
def test_lowered_limits_are_the_lowest_of_both(limits: dict[str, Any], others: dict[str, Any]) -> None:
    lowered = Limits(**limits).lowered(others).model_dump()
    assert lowered == {name: min(limits[name], others.get(name, limits[name])) for name in NAMES}
    assert not list(excesses(lowered, Limits(**limits)))


@given(maxima=EVERY, defaults=EVERY, manifest=SOME, later=SOME, request_says=SOME)
def test_effective_limits_are_never_above_server_manifest_or_request(
    maxima: dict[str, Any],
    defaults: dict[str, Any],
    manifest: dict[str, Any],
    later: dict[str, Any],
    request_says: dict[str, Any],
) -> None:
    """From a submit to its launch, with another manifest in between; through the database, which keeps JSON."""
    most = Limits(**maxima)
    usual = Limits(**defaults).lowered(maxima)
    submitted = agent_of(manifest, most, usual)
    launched = agent_of(later, most, usual)
    lower = submitted.limits.model_dump() | {
        name: min(value, getattr(submitted.limits, name)) for name, value in request_says.items()
    }
    recorded = json.loads(lowered_limits(body(lower), submitted).model_dump_json())
    effective = launched.lowered(recorded).limits
    for name in NAMES:
        bounds = [maxima[name], manifest.get(name), later.get(name), request_says.get(name)]
        assert getattr(effective, name) <= min(bound for bound in bounds if bound is not None)
        assert isinstance(getattr(effective, name), kind(name))


def agent_of(manifest: dict[str, float], most: Limits, usual: Limits) -> Agent:
    """Return the agent whose manifest says these limits, as far as the server allows them."""
    allowed = {name: min(value, getattr(most, name)) for name, value in manifest.items()}
    with tempfile.TemporaryDirectory() as folder:
        return registry(Path(folder), allowed, default_limits=usual, max_limits=most).find("a")


def test_limits_said_are_those_that_were_written_down() -> None:
    assert limits_said(body({})) == {}
    assert limits_said(body({"timeout_seconds": 300, "open_files": 1024})) == {
        "timeout_seconds": 300,
        "open_files": 1024,
    }
