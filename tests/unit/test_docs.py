"""What the documents list is what the code has."""

import json
import re
from pathlib import Path

import pytest
from annotated_types import Ge, Gt

from api.schemas import execution_json
from runner import strict
from runner.sandbox import attest, namespaces
from supervisor import check, doctor
from supervisor.artifacts import LeftOut
from supervisor.limits import CORES, MACHINE_BYTES, Limits, LimitsTable, most_of, plain
from supervisor.machine import layers
from supervisor.manifest import Manifest, Sandbox
from supervisor.models import Execution, Isolation, Kill, Termination, Usage
from supervisor.retry import Retry
from supervisor.selftest.examination import Verdict
from supervisor.selftest.probes import AFTERWARDS, ORDINARY, PROBES
from supervisor.settings import Settings
from supervisor.states import TRANSITIONS, Cause, Status
from tests.helpers import documents
from tests.helpers.documents import DOCUMENTS, ROOT

NO_TRANSITION = "\N{EN DASH}"


def test_state_table_is_the_transitions() -> None:
    (events,) = re.findall(r"^\| status ↓ event → \|(.*)\|$", documents.read("docs/architecture.md"), re.MULTILINE)
    names = [name.strip() for name in events.split("|")]
    table = {
        (status, event): following
        for status, *row in documents.rows("docs/architecture.md", "status ↓ event →")
        for event, following in zip(names, row, strict=True)
        if following != NO_TRANSITION
    }
    assert table == TRANSITIONS


@pytest.mark.parametrize("model", [Manifest, Sandbox, Retry])
def test_agents_document_has_each_key_of_the_manifest_with_its_default(
    model: type[Manifest | Sandbox | Retry],
) -> None:
    written = {key: default for key, _, default, _ in documents.rows("docs/agents.md", "key")}
    for name, field in model.model_fields.items():
        default = field.default
        if field.is_required():
            assert f"`{name}`" in written
        elif isinstance(default, LimitsTable | Sandbox | Retry):
            assert written[f"`{name}`"] == ""
        else:
            text = plain(default) if isinstance(default, float) else json.dumps(default)
            assert written[f"`{name}`"] == ("none" if default is None else f"`{text}`")


def test_agents_document_has_no_other_key() -> None:
    keys = {row[0].strip("`") for row in documents.rows("docs/agents.md", "key")}
    assert keys == {*Manifest.model_fields, *Sandbox.model_fields, *Retry.model_fields}


def test_agents_document_has_each_limit_with_its_bounds_default_and_maxima() -> None:
    rows = {row[0].strip("`"): row[1:] for row in documents.rows("docs/agents.md", "limit")}
    assert set(rows) == set(Limits.model_fields)
    for name, (kind, least, default, maximum, ceiling, _) in rows.items():
        field, most = Limits.model_fields[name], most_of(name)
        (bound,) = (item for item in field.metadata if isinstance(item, Ge | Gt))
        assert kind == ("number" if field.annotation is float else "integer")
        assert least.startswith("more than") == isinstance(bound, Gt)
        assert number_in(least) == (bound.gt if isinstance(bound, Gt) else bound.ge)
        amounts = [(default, field.default), (maximum, most.built_in), (ceiling, most.ceiling)]
        assert [of_machine(name, amount) or number_in(cell) for cell, amount in amounts] == [
            cell if of_machine(name, amount) else amount for cell, amount in amounts
        ]


def of_machine(name: str, amount: float) -> str | None:
    """Return how a document says it of an amount that each machine has its own of."""
    if name == "cpus":
        return "the machine's cores" if amount == CORES else None
    return "the machine's memory" if amount == MACHINE_BYTES else None


def number_in(cell: str) -> float:
    """Return the first number of a cell, without the commas that help to read it."""
    found = re.search(r"\d[\d,.]*", cell)
    assert found
    return float(found.group().replace(",", ""))


def test_api_document_has_each_limit_of_a_request() -> None:
    asked, *_ = (row[2] for row in documents.rows("docs/api.md", "field") if row[0] == "`limits`")
    assert re.findall(r"`(\w+)`", asked) == list(LimitsTable.model_fields)


def test_readme_has_each_setting_with_its_variable_and_default() -> None:
    rows = {row[0].strip("`"): row[1:] for row in documents.rows("README.md", "in the file")}
    assert list(rows) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        _, variable, default, _ = rows[name]
        assert variable == f"`CORRAL_{name.upper()}`"
        value = list(field.default) if isinstance(field.default, frozenset | tuple) else field.default
        if isinstance(value, Limits):
            assert default == "[table](docs/agents.md#limits)"
        else:
            assert name in ("agents", "max_running") or default == f"`{value}`"


def test_isolation_document_has_each_layer() -> None:
    inside = {f"{name}_namespace" for name in namespaces.FLAGS} | {layer for layer, _ in attest._STATUS.values()}
    wanted = {layers.CPU_SHARE}.union(*layers.WANTED.values())
    written = {row[0].strip("`") for row in documents.rows("docs/isolation.md", "layer")}
    assert written == {*layers.OF_ALL, *inside, "read_only_root", *wanted}


def test_isolation_document_has_each_need_of_strict_runs_with_its_setting() -> None:
    rows = {row[0].strip("`"): row[2].strip("`") for row in documents.rows("docs/isolation.md", "need")}
    assert rows == {need: f"strict.{need}" for need in strict.NEEDS}


def test_isolation_document_has_each_check_of_the_doctor() -> None:
    checks = [row[0].strip("`") for row in documents.rows("docs/isolation.md", "check")]
    assert checks == [check().name for check in doctor._CHECKS]


def test_isolation_document_has_each_probe_of_the_selftest() -> None:
    rows = [[cell.replace("`", "") for cell in row] for row in documents.rows("docs/isolation.md", "probe")]
    assert rows == [[probe.name, probe.tries, probe.expected] for probe in (*PROBES, ORDINARY, AFTERWARDS)]


def test_isolation_document_has_each_verdict_of_the_selftest() -> None:
    verdicts = [row[0].strip("`") for row in documents.rows("docs/isolation.md", "verdict")]
    assert verdicts == list(Verdict)


def test_isolation_document_has_each_attack_that_is_tried() -> None:
    made = re.findall(r"^def (\w+)", texts("tests/agents/hostile/*.py"), re.MULTILINE)
    named = re.findall(r'"(\w+)"', texts("tests/sandbox/test_hostile*.py"))
    attacks = [name for row in documents.rows("docs/isolation.md", "attack") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(attacks) == sorted(set(made) & set(named))


def test_agents_document_has_each_code() -> None:
    assert [row[0].strip("`") for row in documents.rows("docs/agents.md", "code")] == list(Cause)


def test_agents_document_has_each_reason_for_leaving_a_file_out() -> None:
    assert [row[0].strip("`") for row in documents.rows("docs/agents.md", "reason")] == list(LeftOut)


def test_operations_document_has_each_rule_of_a_check() -> None:
    assert [[row[0].strip("`"), row[1]] for row in documents.rows("docs/operations.md", "rule")] == [
        [rule, words] for rule, words in check.RULES.items()
    ]


def test_api_document_has_each_status() -> None:
    assert [row[0].strip("`") for row in documents.rows("docs/api.md", "status")] == list(Status)


def test_api_document_has_each_field_of_an_execution() -> None:
    written = {row[0].strip("`") for row in documents.rows("docs/api.md", "field")}
    execution = Execution("id", "agent", "name", Status.PENDING, 50, "{}", None, None, 0, 0, *[None] * 10, "[]")
    shown = set(json.loads(execution_json(execution)))
    records = {name for record in (Termination, Usage, Kill, Isolation) for name in record.__slots__}
    assert not (shown | records) - written


def test_api_document_has_each_route() -> None:
    found = re.findall(r'add_route\("([^"]+)"', (ROOT / "api" / "app.py").read_text("utf-8"))
    routes = [route.replace(":path}", "}") for route in found]
    headings = re.findall(r"^## (?:GET|POST) (\S+)$", documents.read("docs/api.md"), re.MULTILINE)
    assert headings == routes


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_of_document_lead_somewhere(name: str) -> None:
    for path, _, anchor in (
        link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", documents.read(name))
    ):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.is_file(), path
        assert not anchor or anchor in anchors(target)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_of_our_code_in_document_exist(name: str) -> None:
    for path in re.findall(r"`((?:api|supervisor|runner|tests|scripts|examples)/[\w./-]*)`", documents.read(name)):
        assert (ROOT / path).exists(), path


def texts(pattern: str) -> str:
    """Return the texts of all files of ours whose paths match, as one."""
    return "\n".join(path.read_text("utf-8") for path in sorted(ROOT.glob(pattern)))


def anchors(document: Path) -> set[str]:
    """Return the anchors that a document's headings have on GitHub."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
