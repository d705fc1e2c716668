"""`corral selftest`."""

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from supervisor.selftest.examination import Finding, SelftestImpossible, Verdict, examine

_IMPOSSIBLE = 2


def selftest(
    tier: Annotated[str, typer.Option(help="Tier of the agents that try it.")] = "sandboxed",
    config: Annotated[
        Path | None, typer.Option(envvar="CORRAL_CONFIG", help="Settings file; default: corral.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try on this machine what hostile agents try, and tell what is contained.

    The exit code is 0 if all is, 1 if something is not, 2 if it could not be tried.
    """
    try:
        with closing(examine(tier, config)) as findings:
            found = list(findings) if as_json else _print_each(findings)
    except SelftestImpossible as error:
        print(
            f"corral: cannot make the selftest: {error}. What this machine lacks is told by: corral doctor",
            file=sys.stderr,
        )
        raise typer.Exit(_IMPOSSIBLE) from None
    escaped = [finding.probe for finding in found if finding.verdict is Verdict.NOT_CONTAINED]
    if as_json:
        print(
            json.dumps(
                {"tier": tier, "contained": not escaped, "probes": [asdict(finding) for finding in found]}, indent=2
            )
        )
    else:
        _print_sum(found, escaped)
    if escaped:
        raise typer.Exit(1)


def _print_each(findings: Iterable[Finding]) -> list[Finding]:
    """Print findings as they come; return them."""
    found = []
    for finding in findings:
        found.append(finding)
        print(f"{_label(finding.verdict):17}  {finding.probe:18}  {finding.tries}; expected: {finding.expected}")
        if finding.observed:
            print(f"{'':39}{finding.observed}")
        sys.stdout.flush()
    return found


def _print_sum(found: list[Finding], escaped: list[str]) -> None:
    parts = []
    for verdict in Verdict:
        names = [finding.probe for finding in found if finding.verdict is verdict]
        if names and verdict is not Verdict.CONTAINED:
            parts.append(f"; {_label(verdict)}: {', '.join(names)}")
    contained = sum(finding.verdict is Verdict.CONTAINED for finding in found)
    print(f"{'BAD' if escaped else 'ok':3}  {contained} of {len(found)} are contained{''.join(parts)}")


def _label(verdict: Verdict) -> str:
    return verdict.upper() if verdict is Verdict.NOT_CONTAINED else verdict
