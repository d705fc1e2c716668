"""Where control groups are, as the kernel's tables tell it, and what is removed of them."""

import os
import subprocess
from pathlib import Path

import pytest

from runner.sandbox import cgroup

SYSTEMD = "0::/system.slice/corral.service\n"
OLD = "12:memory:/a\n11:cpu,cpuacct:/a/b\n5:pids:/\n1:name=systemd:/user.slice\n0::/init.scope\n"


@pytest.mark.parametrize(
    ("table", "groups"),
    [
        ("", {}),
        (SYSTEMD, {"": "/system.slice/corral.service"}),
        ("0::/\n", {"": ""}),
        ("0::/odd:name\n", {"": "/odd:name"}),
        (
            OLD,
            {
                "memory": "/a",
                "cpu": "/a/b",
                "cpuacct": "/a/b",
                "pids": "",
                "name=systemd": "/user.slice",
                "": "/init.scope",
            },
        ),
    ],
)
def test_own_groups_are_read_from_the_table(table: str, groups: dict[str, str]) -> None:
    assert cgroup.own_groups(table) == groups


UNIFIED = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "36 24 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
    "37 24 0:32 / /sys/fs/cgroup/cpu,cpuacct rw shared:1 master:2 - cgroup none rw,cpu,cpuacct\n"
    "38 24 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
OTHERS = "22 27 0:21 / /proc rw,nosuid - proc proc rw\n25 27 8:1 / / rw - ext4 /dev/sda1 rw,memory\n"


def test_hierarchies_are_read_from_the_mounts() -> None:
    assert cgroup.mounted_hierarchies(OTHERS + UNIFIED) == {"": "/sys/fs/cgroup"}
    found = cgroup.mounted_hierarchies(OTHERS + HYBRID)
    assert {name: found[name] for name in ("memory", "cpu", "cpuacct", "")} == {
        "memory": "/sys/fs/cgroup/memory",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "": "/sys/fs/cgroup/unified",
    }


def test_hierarchies_of_a_machine_without_any_are_none() -> None:
    assert cgroup.mounted_hierarchies(OTHERS) == {}


@pytest.mark.parametrize("waited_for", [True, False])
def test_groups_of_launchers_that_have_ended_are_swept_and_no_others(tmp_path: Path, waited_for: bool) -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    if waited_for:
        ended.wait()
    gone = f"corral-{ended.pid}-7"
    kept = [f"corral-{os.getpid()}-7", "corral-server", f"corral-{ended.pid}", f"other-{ended.pid}-7"]
    for hierarchy in ("memory", "pids"):
        for name in (gone, *kept):
            (tmp_path / hierarchy / name).mkdir(parents=True)
    cgroup.Groups(cgroup.GroupV1, str(tmp_path / "memory"), str(tmp_path / "pids"))
    assert sorted(os.listdir(tmp_path / "memory")) == sorted(os.listdir(tmp_path / "pids")) == sorted(kept)
    ended.wait()


def test_group_of_which_only_one_half_can_be_made_leaves_no_half(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cgroup.GroupV1(str(tmp_path / "memory"), str(tmp_path / "missing" / "pids"))
    assert os.listdir(tmp_path) == []
