"""`corral selftest`, as an operator calls it: on this machine, and where nothing is contained."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from supervisor.selftest.probes import AFTERWARDS, ORDINARY, PROBES
from tests.helpers import without_sandboxes
from tests.helpers.command import CORRAL, ROOT, corral, environment, ready_line, started
from tests.helpers.wait import wait_until

NAMES = [probe.name for probe in (*PROBES, ORDINARY, AFTERWARDS)]
CONTAINED = {"contained", "contained, softly", "not enforced here"}

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")

# What an agent of the tier "trusted" can do; what is of root, or of an ordinary user, is left out.
NOT_CONTAINED_WHEN_TRUSTED = {
    *("read_files", "write_files", "other_processes", "read_secret", "loopback", "abstract_socket", "launcher_socket"),
    *("socket_families", "signal_everyone", "trace", "privileges", "namespaces", "forbidden_calls"),
    *("processes", "memory_of_children", "memory_outside", "disk"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the selftest makes its own folder; open to every user. It must leave nothing in it."""
    folder = Path(tempfile.mkdtemp(prefix="corral-test-", dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    wait_until(lambda: not processes_of(folder))
    assert list(folder.iterdir()) == []
    shutil.rmtree(folder)


def processes_of(folder: Path) -> list[int]:
    """Return the pids of a selftest's server: its command lines name the folder, and so do those of its forks."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and str(folder) in " ".join(process.info["cmdline"] or ())
    ]


def test_selftest_on_a_sound_machine_finds_everything_contained(folder: Path) -> None:
    answer = corral("selftest", "--json", TMPDIR=str(folder))
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout
    report = json.loads(answer.stdout)
    assert (report["tier"], report["contained"]) == ("sandboxed", True)
    assert [probe["probe"] for probe in report["probes"]] == NAMES
    assert {probe["verdict"] for probe in report["probes"]} <= CONTAINED
    assert all(set(probe) == {"probe", "tries", "expected", "verdict", "observed"} for probe in report["probes"])


def python_of_nobody() -> str:
    """Return an interpreter that an ordinary user can run, also again and again, with what Corral needs; else skip."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user, with setpriv")
    again = "import subprocess, sys, supervisor.cli; sys.exit(subprocess.call([sys.executable, '-c', '']))"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*NOBODY, python, "-c", again]
        if subprocess.run(command, env=of_nobody("/"), cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip("there is no Python that another user can run Corral with")


def of_nobody(folder: str) -> dict[str, str]:
    return environment(PYTHONPATH=f"{ROOT}:{sysconfig.get_path('purelib')}", TMPDIR=folder, HOME="/")


def test_selftest_as_an_ordinary_user_finds_everything_contained(folder: Path) -> None:
    python = python_of_nobody()
    answer = subprocess.run(
        [*NOBODY, python, "-P", "-m", "supervisor.cli", "selftest", "--json"],
        env=of_nobody(str(folder)),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    report = json.loads(answer.stdout)
    assert report["contained"] is True
    verdicts = {probe["probe"]: probe["verdict"] for probe in report["probes"]}
    assert verdicts.pop("memory_of_children") in CONTAINED
    assert set(verdicts.values()) == {"contained"}


def test_selftest_of_trusted_agents_fails_and_names_what_they_can_do(folder: Path) -> None:
    answer = corral("selftest", "--tier", "trusted", TMPDIR=str(folder))
    assert (answer.returncode, answer.stderr) == (1, ""), answer.stdout
    *lines, last = answer.stdout.splitlines()
    escaped = {line.split()[2] for line in lines if line.startswith("NOT CONTAINED")}
    assert escaped - {"raise_limits"} == NOT_CONTAINED_WHEN_TRUSTED
    assert last.startswith("BAD ")
    assert all(name in last for name in escaped)
    for reached in ("the canary, by reading", "the canary, by writing", "the server's secret", "the TCP listener"):
        assert f"reached: {reached}" in answer.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_selftest_that_is_told_to_stop_leaves_nothing(number: signal.Signals, folder: Path) -> None:
    with started("selftest", TMPDIR=str(folder)) as process:
        ready_line(process)
        assert processes_of(folder)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_server_of_a_selftest_that_is_killed_does_not_stay(folder: Path) -> None:
    with started("selftest", TMPDIR=str(folder)) as process:
        ready_line(process)
        process.kill()
        process.wait(10)
    wait_until(lambda: not processes_of(folder))
    for left in folder.iterdir():
        shutil.rmtree(left)


def test_selftest_whose_server_is_killed_in_the_middle_fails(folder: Path) -> None:
    with started("selftest", TMPDIR=str(folder)) as process:
        ready_line(process)
        (server,) = (child for child in psutil.Process(process.pid).children() if "serve" in child.cmdline()[3])
        server.kill()
        assert process.stdout is not None
        *_, last = process.stdout.read().splitlines()
        assert process.wait(30) == 1
    assert all(name in last for name in ("NOT CONTAINED", "bystander", "ordinary", "afterwards"))


def test_selftest_where_no_sandbox_can_be_made_says_that_it_cannot_tell(folder: Path) -> None:
    without_sandboxes.require()
    answer = subprocess.run(
        [*without_sandboxes.WRAPPER, *CORRAL, "selftest", "--json"],
        env=environment(TMPDIR=str(folder), CORRAL_ALLOW_DEGRADED='["sandbox"]'),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "cannot make namespaces" in answer.stderr
    assert "corral doctor" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("arguments", [("--tier", "none"), ("--config", "/nowhere/corral.toml"), ("--tire", "x")])
def test_selftest_that_is_called_wrongly_has_the_exit_code_of_one_that_cannot_tell(
    arguments: tuple[str, str], folder: Path
) -> None:
    answer = corral("selftest", *arguments, TMPDIR=str(folder))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "Traceback" not in answer.stderr
