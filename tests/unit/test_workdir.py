"""The work directories of runs."""

import os
from pathlib import Path

from runner import workdir


def test_leftovers_are_the_directories_of_runs_and_nothing_else_that_lies_there(tmp_path: Path) -> None:
    of_a_run = workdir.new_path(str(tmp_path))
    workdir.create(of_a_run)
    for name in ("thesis", "corral-run-", "my-corral-run-0123456789abcdef"):
        (tmp_path / name).mkdir()
    assert workdir.leftovers(str(tmp_path)) == [of_a_run]


def test_new_paths_differ(tmp_path: Path) -> None:
    assert len({os.path.basename(workdir.new_path(str(tmp_path))) for _ in range(100)}) == 100
