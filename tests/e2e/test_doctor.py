"""`corral doctor`, and the server on a machine that cannot have sandboxes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import problems, without_sandboxes
from tests.helpers.command import CORRAL, ROOT, corral, environment
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import patience

REASON = "cannot make namespaces"


def corral_without_sandboxes(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    without_sandboxes.require()
    return subprocess.run(
        [*without_sandboxes.WRAPPER, *CORRAL, *map(str, arguments)],
        env=environment(COLUMNS="200", **extra),
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )


def test_doctor_on_a_sound_machine_says_so() -> None:
    answer = corral("doctor")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "seccomp" in answer.stdout.splitlines()[-1]
    assert "BAD" not in answer.stdout.splitlines()[-1]


def test_doctor_tells_what_the_tier_strict_lacks() -> None:
    lacks = json.loads(corral("doctor", "--json").stdout)["canary"]["strict_lacks"]
    lines = [line for line in corral("doctor").stdout.splitlines() if "tier strict" in line]
    assert lines == [f"--    The tier strict lacks {need}: {why}" for need, why in lacks.items()]


def test_doctor_as_json_on_a_sound_machine_lists_layers_and_checks() -> None:
    answer = corral("doctor", "--json")
    report = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert report["canary"]["error"] is None
    assert {"pid_namespace", "seccomp", "read_only_root"} <= set(report["canary"]["layers"])
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert found["kernel"] == os.uname().release
    assert found["architecture"] == os.uname().machine


def test_doctor_where_no_sandbox_can_be_made_fails_and_says_what_to_change() -> None:
    answer = corral_without_sandboxes("doctor")
    assert answer.returncode == 1
    assert f"BAD   A sandboxed run failed: {REASON}" in answer.stdout
    assert "sysctl -w user.max_user_namespaces" in answer.stdout
    as_json = corral_without_sandboxes("doctor", "--json")
    report = json.loads(as_json.stdout)
    assert as_json.returncode == 1
    assert report["canary"]["error"].startswith(REASON)
    assert report["canary"]["layers"] == []
    (bad,) = (check for check in report["checks"] if check["name"] == "user.max_user_namespaces")
    assert (bad["found"], bad["advice"] is None) == ("0", False)


def checks_of(*command: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Run the doctor in another world; return its exit code, what came of the canary, and the checks by name."""
    done = subprocess.run(
        [*command, *CORRAL, "doctor", "--json"],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    return done.returncode, report["canary"], {check["name"]: check for check in report["checks"]}


def test_doctor_of_a_root_without_the_ids_of_sandboxes_names_the_cause() -> None:
    without_sandboxes.require()
    code, canary, checks = checks_of("unshare", "-Ur")
    assert (code, canary["error"].endswith("/uid_map: Operation not permitted")) == (1, True)
    assert checks["user namespace"]["found"].endswith("there are only 0-0")
    assert "PrivateUsers=no" in checks["user namespace"]["advice"]


# As systemd does it with RestrictNamespaces=: who comes after has the filter.
FILTERED = """
import os, sys
from runner.sandbox import prctl, seccomp
prctl.forbid_new_privileges()
seccomp.load(seccomp.build(network=True))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_doctor_behind_a_filter_of_system_calls_names_the_cause() -> None:
    code, canary, checks = checks_of(sys.executable, "-c", FILTERED)
    assert (code, canary["error"]) == (1, "cannot make namespaces: Operation not permitted")
    assert "RestrictNamespaces=no" in checks["seccomp"]["advice"]


# Another whole /proc must be visible, else the first one with a mount on it cannot be mounted anew: mount(2), EPERM.
READ_ONLY_CEILINGS = (
    'mount -t proc proc "$0" && mount --bind /proc/sys/user /proc/sys/user &&'
    ' mount -o remount,bind,ro /proc/sys/user && exec "$@"'
)
MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-c")


def test_doctor_where_ceilings_cannot_be_set_names_them_and_the_cause(tmp_path: Path) -> None:
    if subprocess.run([*MOUNTS, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("cannot mount here")
    code, canary, checks = checks_of(*MOUNTS, READ_ONLY_CEILINGS, str(tmp_path))
    assert (code, canary["error"]) == (0, None)
    assert "ceilings" not in canary["layers"]
    assert "max_user_namespaces" in canary["unset_ceilings"]
    assert checks["/proc/sys/user"]["found"] == "read-only"
    assert "ProtectKernelTunables=no" in checks["/proc/sys/user"]["advice"]


# Before version 253, for a service. Source: https://github.com/systemd/systemd/pull/25506
MASK_AND_MOUNT = (
    "mount --bind /dev/null /proc/uptime &&"
    " exec unshare --user --map-root-user --mount --pid --fork mount -t proc proc /proc"
)


def test_doctor_in_a_masked_proc_names_the_cause(tmp_path: Path) -> None:
    if subprocess.run([*MOUNTS, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("cannot mount here")
    if not subprocess.run([*MOUNTS, MASK_AND_MOUNT], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("systemd has left a whole /proc here where only the kernel sees it")
    code, canary, checks = checks_of(*MOUNTS, 'mount --bind /dev/null /proc/uptime && exec "$0" "$@"')
    assert (code, canary["error"].startswith("cannot mount proc on ")) == (1, True)
    assert checks["/proc"]["found"] == "masked at /proc/uptime"
    assert "ProtectKernelLogs=no" in checks["/proc"]["advice"]


def test_server_where_no_sandbox_can_be_made_refuses_to_start_and_names_reason_and_doctor(tmp_path: Path) -> None:
    answer = corral_without_sandboxes("serve", "--port", "0", "--data", tmp_path / "data", "--agents", AGENTS)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert REASON in answer.stderr
    assert "corral doctor" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "data" / "corral.db").exists()


@pytest.mark.parametrize("value", ['["seccomp"]', '["sandbox", "cgroup"]', '["*"]', "true"])
def test_what_may_be_missing_is_named_exactly(value: str, tmp_path: Path) -> None:
    answer = corral("serve", "--port", "0", "--data", tmp_path / "data", CORRAL_ALLOW_DEGRADED=value)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "allow_degraded" in answer.stderr


def test_leave_to_do_without_sandboxes_is_not_used_where_they_are_possible(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", allow_degraded=["sandbox"]) as server:
        assert server.http.get("/admin/health").json()["isolation"]["tier"] == "sandboxed"
        assert server.run("ok")["isolation"]["tier"] == "sandboxed"


@pytest.fixture(scope="module")
def degraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    without_sandboxes.require()
    data = tmp_path_factory.mktemp("degraded") / "data"
    with RunningServer(data, wrapper=without_sandboxes.WRAPPER, allow_degraded=["sandbox"]) as running:
        running.run("trusted")
        yield running


def test_degraded_server_tells_it_in_its_health(degraded: RunningServer) -> None:
    isolation = degraded.http.get("/admin/health").json()["isolation"]
    (reason,) = isolation.pop("reasons")
    del isolation["strict_lacks"]
    assert reason.startswith(REASON)
    assert isolation == {"tier": "trusted", "effective": [], "limits": "soft", "degraded": ["sandbox"]}


def test_degraded_server_takes_no_sandboxed_execution(degraded: RunningServer) -> None:
    before = degraded.http.get("/executions").json()
    answer = degraded.http.post("/executions/run", json={"agent_id": "ok", "input": {}})
    assert REASON in problems.check(answer, 503)["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    assert degraded.http.get("/executions").json() == before


def test_degraded_server_runs_trusted_agents(degraded: RunningServer) -> None:
    execution = degraded.run("trusted")
    assert execution["status"] == "COMPLETED"
    assert execution["isolation"]["tier"] == "trusted"
