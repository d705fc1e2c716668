"""The unit files of packaging/systemd: what sandboxes need is there, what breaks them is not, and the paths fit."""

import re
from pathlib import Path

import pytest

from runner.sandbox import cgroup
from supervisor.cli.commands import app
from supervisor.settings import Settings
from tests.helpers import documents
from tests.helpers.documents import ROOT

FOLDER = ROOT / "packaging" / "systemd"

# What of docs/isolation.md sandboxes do not survive, and what the control groups or the ceilings do not.
BREAKING = {
    *("RestrictNamespaces", "SystemCallFilter", "PrivateUsers", "ProtectHostname"),
    *("ProtectKernelTunables", "ProtectKernelLogs"),
}


def directives(name: str) -> dict[str, str]:
    """Return {directive: value}; each is there once. Source: systemd.syntax(7)."""
    lines = [line for line in (FOLDER / name).read_text().splitlines() if re.match(r"\w+=", line)]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    return found


SERVICE = directives("corral.service")


@pytest.mark.parametrize("name", ["corral.service", "user.conf", "before-254.conf"])
def test_unit_has_nothing_that_breaks_sandboxes(name: str) -> None:
    assert not directives(name).keys() & BREAKING


def test_document_names_what_breaks_sandboxes() -> None:
    rows = {row[0].partition("=")[0].strip("`") for row in documents.rows("docs/isolation.md", "directive")}
    assert rows >= BREAKING


@pytest.mark.parametrize(
    ("directive", "value"),
    {
        # One sandbox out of memory must not end the server, nor the death of the server a run.
        "Delegate": "yes",
        "DelegateSubgroup": "corral-server",
        "OOMPolicy": "continue",
        "KillMode": "process",
        "TasksMax": "infinity",
        "NoNewPrivileges": "yes",
        # In place of ProtectKernelLogs.
        "CapabilityBoundingSet": "~CAP_SYSLOG",
        "InaccessiblePaths": "-/dev/kmsg",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "Restart": "on-failure",
        "StartLimitIntervalSec": "0",
    }.items(),
)
def test_service_has_what_it_needs(directive: str, value: str) -> None:
    assert SERVICE[directive] == value


def test_service_is_put_where_the_launcher_puts_the_server() -> None:
    """Else the next server could not be started while runs are left."""
    assert SERVICE["DelegateSubgroup"] == cgroup._SERVER_LEAF
    assert directives("before-254.conf") == {"KillMode": "mixed"}


def test_service_allows_the_sockets_that_server_and_agents_use() -> None:
    assert set(SERVICE["RestrictAddressFamilies"].split()) == {"AF_UNIX", "AF_INET", "AF_INET6"}


@pytest.mark.parametrize(("directive", "command"), [("ExecStart", "serve"), ("ExecReload", "restart")])
def test_service_starts_a_command_that_there_is(directive: str, command: str) -> None:
    assert SERVICE[directive].split() == ["/opt/corral/.venv/bin/corral", command]
    assert command in {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]


def test_service_keeps_its_data_where_it_may_write() -> None:
    """ProtectSystem=strict leaves it nothing but its state directory. Source: systemd.exec(5); %S is /var/lib."""
    settings = dict(word.split("=", 1) for word in SERVICE["Environment"].split())
    assert settings == {"CORRAL_DATA": f"%S/{SERVICE['StateDirectory']}"}
    assert all(name.removeprefix("CORRAL_").lower() in Settings.model_fields for name in settings)


def test_service_is_given_the_time_that_its_end_takes() -> None:
    default = Settings.model_fields["shutdown_grace_seconds"].default
    assert float(SERVICE["TimeoutStopSec"]) > 2 * default + 10


def test_paths_of_the_unit_are_those_of_the_document() -> None:
    text = Path(ROOT / "docs" / "operations.md").read_text()
    for path in ("/opt/corral", "/etc/corral/corral.toml", "/var/lib/corral", "corral.service.d"):
        assert path in text
