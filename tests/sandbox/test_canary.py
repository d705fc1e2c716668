"""The sandboxed run at the start of the server, which decides whether there can be others."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from runner import canary, tree
from runner.sandbox import cgroup
from supervisor.clock import Clock
from supervisor.isolation import Canary
from supervisor.machine.canary import Canaries, send_canary
from supervisor.machine.reactor import Reactor
from tests.helpers import without_sandboxes
from tests.helpers.command import ROOT, started
from tests.helpers.control_groups import groups_of
from tests.helpers.processes import descendants, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import patience, wait_until

LAYERS = {f"{name}_namespace" for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")} | {
    *("no_capabilities", "no_new_privs", "seccomp", "read_only_root", "ceilings")
}

# Which of these there are is up to the machine.
GROUPS = {"cgroup", "cgroup_v2"}


def test_canary_finds_every_layer_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = send_canary()
    assert (set(found.layers) - GROUPS, found.error, found.unset_ceilings) == (LAYERS, None, ())
    assert found.healthy
    assert os.listdir(tmp_path) == []


STRANGER = {"user": 4711, "group": 4712, "extra_groups": []}
STRANGERS_PYTHON = "/usr/bin/python3"


def require_stranger() -> None:
    """Skip the test where nothing can be run as that user: that takes root, and a checkout that everybody can read."""
    command = [STRANGERS_PYTHON, "-I", "-S", "-c", f"open({canary.__file__!r})"]
    try:
        able = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, cwd="/", **STRANGER).returncode == 0
    except OSError:
        able = False
    if not able:
        pytest.skip("cannot run the canary as another user")


def test_canary_of_an_ordinary_user_finds_every_layer(host_folder: Path) -> None:
    require_stranger()
    folder = host_folder / "stranger"
    folder.mkdir()
    os.chown(folder, STRANGER["user"], STRANGER["group"])
    command = [STRANGERS_PYTHON, "-I", "-S", canary.__file__, str(folder / "canary")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(30), check=True, cwd="/", **STRANGER
    )
    assert set(json.loads(done.stdout).get("layers", ())) == LAYERS, done.stdout


def test_canary_has_a_control_group_where_there_are_any_and_removes_it(tmp_path: Path) -> None:
    version, _ = cgroup.explain(lambda: tree.family(os.getpid()))
    with subprocess.Popen(
        [sys.executable, "-I", "-S", canary.__file__, str(tmp_path / "canary")], stdout=subprocess.PIPE
    ) as process:
        told, _ = process.communicate(timeout=30)
    assert ("cgroup" in json.loads(told)["layers"]) is bool(version)
    assert not groups_of(process.pid)


def test_canary_that_nobody_waits_for_tells_when_it_has_landed() -> None:
    clock = Clock()
    landed: list[Canary] = []
    with closing(Reactor(clock)) as reactor:
        canaries = Canaries((), reactor, clock)
        canaries.send(landed.append)
        assert canaries.pid
        while not landed:
            reactor.wait()
        assert canaries.pid is None
    assert landed[0].healthy


def test_canary_that_is_stopped_tells_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clock = Clock()
    landed: list[Canary] = []
    with closing(Reactor(clock)) as reactor:
        canaries = Canaries((), reactor, clock)
        canaries.send(landed.append)
        canaries.stop()
        canaries.stop()
        reactor.wait(0)
    assert (landed, canaries.pid, os.listdir(tmp_path)) == ([], None, [])


def test_health_tells_what_runs_really_get(server: RunningServer) -> None:
    isolation = server.http.get("/admin/health").json()["isolation"]
    effective = set(isolation.pop("effective"))
    assert effective - GROUPS == LAYERS
    of_run = server.run("ok")["isolation"]
    assert effective <= set(of_run["effective"])
    assert effective & {*GROUPS, "ceilings"} == set(of_run["effective"]) & {*GROUPS, "ceilings"}
    limits = "enforced" if "cgroup" in effective else "soft"
    strict_lacks = dict(send_canary().strict_lacks)
    assert isolation == {
        **{"tier": "sandboxed", "limits": limits, "degraded": [], "reasons": []},
        "strict_lacks": strict_lacks,
    }


SCRIPT = """
import json, sys
from runner import canary, tree
canary._CODE = sys.argv[2]
print(json.dumps(canary.try_sandbox(sys.argv[1], None)))
"""

USELESS = {
    "another result": ("def run(input): return 1", "no result"),
    "no result": ("import os\ndef run(input): os._exit(0)", "no result"),
    "half a line": ("import os\ndef run(input):\n os.write(3, b'{')\n os._exit(0)", "no result"),
    "an error": ("def run(input): raise ValueError('it broke')", "no result"),
}


@pytest.mark.parametrize(("code", "error"), USELESS.values(), ids=USELESS)
def test_canary_without_its_result_is_an_error_with_a_reason(code: str, error: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "canary"), code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=True,
    )
    found = json.loads(done.stdout)
    assert list(found) == ["error"]
    assert error in found["error"]


def test_canary_where_no_sandbox_can_be_made_names_the_step(tmp_path: Path) -> None:
    without_sandboxes.require()
    command = [*without_sandboxes.WRAPPER, sys.executable, "-I", "-S", canary.__file__, str(tmp_path / "canary")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(30), check=True)
    assert json.loads(done.stdout)["error"] == "cannot make namespaces: No space left on device"


def test_server_killed_while_its_canary_is_under_way_leaves_nothing_that_the_next_start_does_not_remove(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with started("serve", "--port", "0", "--data", data, "--agents", AGENTS) as process:
        left = wait_until(lambda: list(data.glob("corral-canary-*")))
        canary_pids = descendants(process.pid)
        process.kill()
        for pid in canary_pids:
            wait_for_exit(pid)
    with RunningServer(data) as server:
        assert not any(path.exists() for path in left)
        assert server.run("ok")["status"] == "COMPLETED"
    assert list(data.glob("corral-canary-*")) == []
