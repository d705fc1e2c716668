"""What a server that a service manager runs must do; scripts/vm/guest has pytest run it against port 8001, in order.

Those with "unit" in their names are about corral.service of the system's manager.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from runner.sandbox import cgroup
from tests.helpers.processes import wait_for_exit
from tests.helpers.wait import patience, wait_until

URL = "http://127.0.0.1:8001"
_FINAL = {"COMPLETED", "FAILED", "CANCELED"}


@pytest.fixture(autouse=True)
def _answers() -> None:
    wait_until(is_ready)


def is_ready() -> bool:
    try:
        return httpx.get(f"{URL}/admin/health", timeout=patience(5)).status_code == 200
    except httpx.TransportError:
        return False


def submit(agent: str, **input: Any) -> str:
    answer = httpx.post(f"{URL}/executions/run", json={"agent_id": agent, "input": input}, timeout=patience(10))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def get(execution_id: str) -> dict[str, Any]:
    return dict(httpx.get(f"{URL}/executions/{execution_id}", timeout=patience(10)).json())


def wait_for_end(execution_id: str) -> dict[str, Any]:
    return wait_until(lambda: execution if (execution := get(execution_id))["status"] in _FINAL else None)


def run(agent: str, **input: Any) -> dict[str, Any]:
    return wait_for_end(submit(agent, **input))


def check_run() -> None:
    """See that an agent is isolated, with a control group."""
    execution = run("ok")
    assert execution["status"] == "COMPLETED", execution
    assert "cgroup" in execution["isolation"]["effective"]
    assert execution["isolation"]["missing"] == []


def launcher_pid() -> int:
    """Return the pid of the launcher, whoever has started it."""
    found = [process.pid for process in psutil.process_iter() if "/var/lib/corral/work" in words(process)]
    assert len(found) == 1
    return found[0]


def words(process: psutil.Process) -> list[str]:
    """Return the command of a launcher, of another process nothing: an init has that of its launcher too."""
    try:
        parent = process.parent()
        is_init = parent and parent.cmdline() == process.cmdline()
        return [] if is_init else process.cmdline()
    except psutil.NoSuchProcess:
        return []


def groups() -> list[str]:
    """Return the names of the groups beside that of the launcher, which are all that the service has."""
    own = cgroup.own_groups(Path(f"/proc/{launcher_pid()}/cgroup").read_text())[""]
    assert own.endswith("/corral-server")
    assert own.count("corral-server") == 1
    entries = Path(f"/sys/fs/cgroup{own}").parent.iterdir()
    return [entry.name for entry in entries if entry.is_dir() and entry.name != ".control"]  # that one is systemd's


def run_command(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def systemctl(*arguments: str) -> str:
    return run_command("systemctl", *arguments)


def show(name: str) -> str:
    return systemctl("show", "--value", "--property", name, "corral.service")


def journal() -> str:
    """Return what the manager has said last."""
    return run_command("journalctl", "--unit=corral.service", "--lines=5")


def check_groups_are_of_one_launcher() -> None:
    launcher = launcher_pid()
    assert all(name == "corral-server" or name.startswith(f"corral-{launcher}-") for name in groups())


def test_run_has_every_layer() -> None:
    check_run()
    check_groups_are_of_one_launcher()


def test_settings_of_the_unit_are_in_force() -> None:
    data = Path("/var/lib/corral")
    assert (data / "corral.db").exists()
    assert data.stat().st_mode & 0o777 == 0o700
    assert run("trusted")["isolation"]["tier"] == "trusted"


def test_unit_covers_nothing_of_proc() -> None:
    """Else no sandbox has a /proc with systemd 253 or newer; an older one hides a whole one for the kernel alone."""
    mounts = Path(f"/proc/{launcher_pid()}/mountinfo").read_text().splitlines()
    covered = {place for line in mounts if (place := line.split(" ")[4]).startswith("/proc/")}
    assert covered <= {"/proc/sys/fs/binfmt_misc"}  # an automatic mount, which hides nothing


@pytest.mark.parametrize("attack", ["eat_memory", "eat_memory_in_children", "eat_memory_outside_of_processes"])
def test_agent_without_an_end_of_memory_is_ended_for_it_and_nobody_else(attack: str) -> None:
    server = psutil.Process(launcher_pid()).ppid()
    execution = run("hostile", attack=attack)
    assert execution["termination"]["code"] == "MEMORY", execution
    assert psutil.Process(launcher_pid()).ppid() == server
    check_run()


def test_fork_bomb_is_ended_by_a_cancel() -> None:
    execution_id = submit("hostile", attack="fork_bomb")
    wait_until(lambda: get(execution_id)["progress"])
    cancel(execution_id)
    assert wait_for_end(execution_id)["status"] == "CANCELED"
    check_run()


def test_killed_launcher_is_replaced_by_one_with_groups() -> None:
    killed = launcher_pid()
    os.kill(killed, signal.SIGKILL)
    wait_for_exit(killed)
    wait_until(lambda: get(submit("ok"))["status"])
    check_run()
    check_groups_are_of_one_launcher()


def cancel(execution_id: str) -> None:
    httpx.post(f"{URL}/executions/{execution_id}/cancel", timeout=patience(10))


def begin_endless_run() -> str:
    execution_id = submit("hostile", attack="ignore_everything")
    wait_until(lambda: get(execution_id)["progress"])
    return execution_id


def test_killed_server_of_a_unit_is_started_again_and_has_groups() -> None:
    main, launcher = int(show("MainPID")), launcher_pid()
    execution_id = begin_endless_run()
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: show("MainPID") not in ("0", str(main)))
    wait_until(is_ready)
    if int(systemctl("--version").split()[1]) >= 254:
        assert launcher_pid() == launcher
        assert get(execution_id)["status"] == "RUNNING"
        cancel(execution_id)
        assert wait_for_end(execution_id)["status"] == "CANCELED"
    else:  # see packaging/systemd/before-254.conf
        assert wait_for_end(execution_id)["termination"]["code"] == "LOST"
    check_run()
    check_groups_are_of_one_launcher()
    assert show("NRestarts") == "1"


def test_reloaded_unit_is_the_same_process_with_the_same_runs() -> None:
    main, launcher = show("MainPID"), launcher_pid()
    execution_id = begin_endless_run()
    systemctl("reload", "corral.service")
    assert (show("MainPID"), show("ActiveState"), launcher_pid()) == (main, "active", launcher)
    assert get(execution_id)["status"] == "RUNNING"
    cancel(execution_id)
    assert wait_for_end(execution_id)["status"] == "CANCELED"
    check_run()
    check_groups_are_of_one_launcher()


def test_stopped_unit_ends_its_runs_and_leaves_nothing() -> None:
    execution_id = begin_endless_run()
    folder = Path(f"/sys/fs/cgroup{show('ControlGroup')}")
    systemctl("stop", "corral.service")
    assert "Deactivated successfully" in journal()
    assert not folder.exists()
    systemctl("start", "corral.service")
    assert get(execution_id)["termination"]["code"] == "STOPPED"
