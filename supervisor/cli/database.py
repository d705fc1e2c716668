"""`corral backup` and `corral check`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from supervisor import backup as backups
from supervisor.check import RULES, check_server
from supervisor.errors import CorralError
from supervisor.inspection import Inspection, inspect
from supervisor.settings import load

_BROKEN = 1
_IMPOSSIBLE = 2

Data = Annotated[Path | None, typer.Option("--data", help="Folder of the database.")]
Config = Annotated[Path | None, typer.Option(envvar="CORRAL_CONFIG", help="Settings file; default: corral.toml.")]


def backup(
    file: Annotated[Path, typer.Argument(help="Where the copy goes.")],
    data: Data = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    config: Config = None,
) -> None:
    """Copy the database, also of a running server; logs and kept files are not in it."""
    database = load({"data": data}, config).database
    write = backups.write_over if force else backups.write_new
    write(database, file)
    print(f"Copied {database} to {file}, {file.stat().st_size} bytes, and found it whole.")


def check(
    file: Annotated[
        Path | None, typer.Argument(help="A backup; default: the database of the data folder.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Look at all rows of the database, also of a running server: is it whole, and are the rules kept?

    The exit code is 0 if so, 1 if not, 2 if it could not be looked at.
    """
    try:
        settings = load({"data": data}, config)
        database = file or settings.database
        found = inspect(file) if file else check_server(settings)
    except CorralError as error:
        print(f"corral: {error}", file=sys.stderr)
        raise typer.Exit(_IMPOSSIBLE) from None
    if as_json:
        print(json.dumps({"database": str(database), "whole": not found.violations, **asdict(found)}, indent=2))
    else:
        _print(database, found)
    if found.violations:
        raise typer.Exit(_BROKEN)


def _print(database: Path, found: Inspection) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in found.executions.items())
    print(f"      {database}: schema {found.schema_version}, {found.used_bytes} bytes and {found.free_bytes} free")
    print(f"      executions: {counts}")
    for rule, words in RULES.items():
        broken = [violation for violation in found.violations if violation.rule == rule]
        if broken:
            print(f"BAD   {rule}: {words}")
        for violation in broken:
            print("     ", *filter(None, [violation.execution_id]), violation.detail)
    if not found.violations:
        print("ok    It is whole, and every row keeps every rule.")
