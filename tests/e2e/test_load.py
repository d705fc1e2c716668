"""Every part of a load run, with small numbers: nothing fails, nothing leaks, and every figure is told."""

import json
import subprocess
import sys

import pytest

from tests.helpers.command import ROOT, environment
from tests.helpers.wait import patience

_SMALL = ("--clients", "20", "--executions", "100", "--sleepers", "40", "--idle-seconds", "0.5", "--rows", "1000")


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.reliability.load", *_SMALL],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "name",
    [
        "submits_submit_ms_p99",
        "submits_loop_step_ms_p99",
        "submits_supervisor_rss_mb",
        "sleepers_supervisor_idle_cpu_percent",
        "sleepers_launcher_idle_cpu_percent",
        "sleepers_loop_step_ms_max",
        "rows_submit_ms_p99",
        "rows_get_ms_p50",
        "claims_claim_ms_p99",
    ],
)
def test_figure_is_told(name: str, figures: dict[str, float]) -> None:
    assert figures[name] >= 0


@pytest.mark.parametrize("part", ["submits", "sleepers"])
@pytest.mark.parametrize("process", ["supervisor", "launcher"])
def test_descriptors_are_as_many_after_the_load_as_before(part: str, process: str, figures: dict[str, float]) -> None:
    after, before = (figures[f"{part}_{process}_descriptors_{when}"] for when in ("after", "before"))
    assert after <= before
