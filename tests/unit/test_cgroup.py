"""Where control groups are, as the kernel's tables tell it, and what is removed of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.sandbox import cgroup
from runner.sandbox.control_group import Group, GroupV1, GroupV2
from supervisor.machine.process_tree import NamespaceTree
from tests.helpers.named_pipes import Lifeline
from tests.helpers.wait import wait_until

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
    cgroup.Groups(GroupV1, {name: str(tmp_path / name) for name in ("memory", "pids")})
    assert sorted(os.listdir(tmp_path / "memory")) == sorted(os.listdir(tmp_path / "pids")) == sorted(kept)
    ended.wait()


def test_group_of_which_only_one_half_can_be_made_leaves_no_half(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        GroupV1({"memory": str(tmp_path / "memory"), "pids": str(tmp_path / "missing" / "pids")})
    assert os.listdir(tmp_path) == []


# -- what the kernel has counted, from files as the kernel writes them ------------------------------------------------

V2_FILES = {
    "memory.events": "low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 1\n",
    "memory.peak": "4096\n",
    "pids.events": "max 3\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\ncore_sched.force_idle_usec 0\n",
    "cgroup.events": "populated 0\nfrozen 0\n",
}
V1_FILES = {
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "memory/memory.max_usage_in_bytes": "67108864\n",
    "memory/memory.limit_in_bytes": "67108864\n",
    "pids/pids.events": "max 3\n",
    "pids/cgroup.procs": "",
    "cpuacct/cpuacct.stat": "user 200\nsystem 50\n",
    "cpuacct/cpuacct.usage": "2500000000\n",
}


def group_v2(folder: Path, **files: str) -> Group:
    folder.mkdir(exist_ok=True)
    group = GroupV2(dict.fromkeys(("memory", "pids", "cpu"), str(folder / "group")))
    write_all(folder / "group", {**V2_FILES, **files})
    return group


def group_v1(folder: Path, **files: str) -> Group:
    folder.mkdir(exist_ok=True)
    group = GroupV1({name: str(folder / name) for name in ("memory", "pids", "cpu", "cpuacct")})
    write_all(folder, {**V1_FILES, **files})
    return group


def write_all(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def test_what_was_counted_before_the_limits_were_set_does_not_count(tmp_path: Path) -> None:
    v2, v1 = group_v2(tmp_path / "v2"), group_v1(tmp_path / "v1")
    write_all(tmp_path / "v2" / "group", {"pids.max": ""})
    write_all(tmp_path / "v1", {"pids/pids.max": ""})
    for group in (v2, v1):
        group.limit(64 << 20, 7, None)
        assert set(group.cpu_times().values()) == {0.0}
        assert group.peak_memory_bytes() is None
        assert not any(group.counted().values())
        assert not group.has_hit_its_limit()


def test_limits_are_written_when_they_change_and_the_peak_is_forgotten_each_time(tmp_path: Path) -> None:
    group = group_v1(tmp_path)
    for limits, written in (((1 << 20, 7, None), "7"), ((1 << 20, 7, None), ""), ((1 << 20, 8, None), "8")):
        write_all(tmp_path, {"pids/pids.max": "", "memory/memory.max_usage_in_bytes": "4096"})
        group.limit(*limits)
        assert (tmp_path / "pids" / "pids.max").read_text() == written
        assert (tmp_path / "memory" / "memory.max_usage_in_bytes").read_text().startswith("0")


def test_counters_of_version_2(tmp_path: Path) -> None:
    group = group_v2(tmp_path)
    assert group.counted() == {"killed_for_memory": 3, "memory_limit_hits": 1, "refused_processes": 3}
    assert group.peak_memory_bytes() == 4096
    assert group.cpu_times() == {"user_cpu_seconds": 2.0, "system_cpu_seconds": 0.5}
    assert group.cpu_file == str(tmp_path / "group" / "cpu.stat")


def test_counters_of_version_1(tmp_path: Path) -> None:
    group = group_v1(tmp_path)
    assert group.counted() == {"killed_for_memory": 1, "memory_limit_hits": 1, "refused_processes": 3}
    assert group.peak_memory_bytes() == 64 << 20
    ticks = os.sysconf("SC_CLK_TCK")
    assert group.cpu_times() == {"user_cpu_seconds": 200 / ticks, "system_cpu_seconds": 50 / ticks}
    assert group.cpu_file == str(tmp_path / "cpuacct" / "cpuacct.usage")


def test_kill_that_a_group_above_brought_about_is_no_hit_of_the_own_limit(tmp_path: Path) -> None:
    events = V2_FILES["memory.events"].replace("oom 1", "oom 0")
    assert group_v2(tmp_path / "v2", **{"memory.events": events}).counted()["memory_limit_hits"] == 0
    peak = {"memory/memory.max_usage_in_bytes": str(60 << 20)}
    assert group_v1(tmp_path / "v1", **peak).counted()["memory_limit_hits"] == 0


def test_counters_that_an_older_kernel_does_not_have_are_0(tmp_path: Path) -> None:
    group = group_v2(tmp_path)
    for name in ("memory.events", "pids.events", "memory.peak"):
        (tmp_path / "group" / name).unlink()
    assert group.counted() == {"killed_for_memory": 0, "memory_limit_hits": 0, "refused_processes": 0}
    assert group.peak_memory_bytes() is None


def test_group_without_the_optional_controllers_counts_no_time_and_shares_none(tmp_path: Path) -> None:
    group = GroupV1({name: str(tmp_path / name) for name in ("memory", "pids")})
    write_all(tmp_path, {"pids/pids.max": "", "memory/memory.limit_in_bytes": ""})
    group.limit(1 << 20, 7, 0.5)
    assert (group.cpu_file, group.cpu_times(), group.has_cpu_share) == (None, {}, False)
    assert (tmp_path / "pids" / "pids.max").read_text() == "7"


def test_share_of_cpu_time_is_so_much_of_each_tenth_of_a_second(tmp_path: Path) -> None:
    v2, v1 = group_v2(tmp_path / "v2"), group_v1(tmp_path / "v1")
    write_all(tmp_path / "v2" / "group", {"cpu.max": "max 100000", "pids.max": ""})
    write_all(tmp_path / "v1", {"cpu/cpu.cfs_period_us": "", "cpu/cpu.cfs_quota_us": "-1", "pids/pids.max": ""})
    for group in (v2, v1):
        group.limit(1 << 20, 7, 1.5)
        assert group.has_cpu_share
    assert (tmp_path / "v2" / "group" / "cpu.max").read_text().startswith("150000 100000")
    assert (tmp_path / "v1" / "cpu" / "cpu.cfs_quota_us").read_text() == "150000"
    assert (tmp_path / "v1" / "cpu" / "cpu.cfs_period_us").read_text() == "100000"


def test_share_of_cpu_time_that_the_kernel_refuses_is_none(tmp_path: Path) -> None:
    group = group_v2(tmp_path)
    write_all(tmp_path / "group", {"pids.max": ""})
    group.limit(1 << 20, 7, 1.5)  # there is no cpu.max to write to
    assert not group.has_cpu_share


@pytest.mark.parametrize("populated", [0, 1])
def test_group_of_version_2_is_empty_when_the_kernel_says_so(tmp_path: Path, populated: int) -> None:
    group = group_v2(tmp_path, **{"cgroup.events": f"populated {populated}\n"})
    assert group.empty == (not populated)


def test_group_of_version_1_is_empty_without_members_and_kills_them(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as member:
        group = group_v1(tmp_path, **{"pids/cgroup.procs": f"{member.pid}\n"})
        assert not group.empty
        group.kill()
        assert member.wait() == -signal.SIGKILL
    assert group_v1(tmp_path / "other").empty


def test_group_of_version_2_is_killed_in_one_step_or_member_by_member(tmp_path: Path) -> None:
    group = group_v2(tmp_path, **{"cgroup.kill": "", "cgroup.procs": ""})
    group.kill()
    assert (tmp_path / "group" / "cgroup.kill").read_text() == "1"
    (tmp_path / "group" / "cgroup.kill").unlink()
    with subprocess.Popen(["sleep", "60"]) as member:
        (tmp_path / "group" / "cgroup.procs").write_text(f"{member.pid}\n")
        group.kill()
        assert member.wait() == -signal.SIGKILL


# -- groups of the kernel's -------------------------------------------------------------------------------------------


def groups_v1() -> cgroup.Groups:
    return cgroup.Groups(GroupV1, {name: own_folder(name) for name in ("memory", "pids")})


def groups_v2() -> cgroup.Groups:
    return cgroup.Groups(GroupV2, dict.fromkeys(("memory", "pids"), own_folder("")))


def own_folder(controller: str) -> str:
    own = cgroup.own_groups(Path("/proc/self/cgroup").read_text())
    mounted = cgroup.mounted_hierarchies(Path("/proc/self/mountinfo").read_text())
    if controller not in own or controller not in mounted:
        pytest.skip("there is no such hierarchy here")
    return mounted[controller] + own[controller]


@pytest.fixture(params=[groups_v1, groups_v2])
def made(request: pytest.FixtureRequest) -> Iterator[tuple[cgroup.Groups, Group]]:
    """Places of groups, and a group there; removed with all others at the end."""
    find: Callable[[], cgroup.Groups] = request.param
    groups = find()
    try:
        made = groups.make(1)
    except OSError:
        pytest.skip("groups cannot be made here")
    yield groups, made
    wait_until(lambda: groups.remove(made) or not any(map(os.path.exists, made.folders)))


def test_group_with_a_member_is_removed_with_the_next_after_that_has_ended(
    made: tuple[cgroup.Groups, Group],
) -> None:
    groups, group = made
    with subprocess.Popen(["sleep", "60"]) as member:
        group.add(member.pid)
        groups.remove(group)
        assert all(map(os.path.exists, group.folders))
        member.kill()
    other = groups.make(2)
    groups.remove(other)
    assert not any(map(os.path.exists, (*group.folders, *other.folders)))


# Waits until it is in the group; then is many.
FAMILY = """
import os, sys, time
sys.stdin.readline()
line = os.open(sys.argv[1], os.O_WRONLY)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
os.write(line, b"here\\n")
time.sleep(60)
"""


def test_kill_switch_of_a_group_ends_every_member(made: tuple[cgroup.Groups, Group], lifeline: Lifeline) -> None:
    _, group = made
    switch = group.open_kill_switch()
    if switch is None:
        pytest.skip("there is none here")
    with os.fdopen(switch, "w") as file:
        with subprocess.Popen([sys.executable, "-c", FAMILY, lifeline.path], stdin=subprocess.PIPE) as first:
            assert first.stdin is not None
            group.add(first.pid)
            first.stdin.write(b"go\n")
            first.stdin.flush()
            lifeline.wait_for("here", 8)
            file.write("1")
            file.flush()
        wait_until(lifeline.ended)


def test_end_of_a_sandbox_is_made_by_its_group_too(made: tuple[cgroup.Groups, Group]) -> None:
    _, group = made
    switch = group.open_kill_switch()
    if switch is None:
        pytest.skip("there is none here")
    with subprocess.Popen(["sleep", "60"]) as init, subprocess.Popen(["sleep", "60"]) as member:
        group.add(member.pid)
        NamespaceTree(init.pid, [switch]).kill_root()
        os.close(switch)
        assert [init.wait(), member.wait()] == [-signal.SIGKILL] * 2


def test_process_in_the_leaf_of_the_server_belongs_to_the_group_above() -> None:
    for leaf in ("", "/corral-server"):
        table = f"5:memory:/a\n0::/system.slice/corral.service{leaf}\n"
        assert cgroup.server_folders(table, UNIFIED) == {"": "/sys/fs/cgroup/system.slice/corral.service"}


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """What looks like a group of version 2 that is delegated to us and has us alone."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return tmp_path


def objection(group: Path) -> str | None:
    return cgroup._objection({"": str(group)}, {os.getpid()})


def test_group_that_is_ours_alone_can_be_used(group: Path) -> None:
    assert objection(group) is None
    (group / "cgroup.procs").write_text("")
    assert objection(group) is None


def test_group_that_cannot_be_used_says_why(group: Path) -> None:
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n1\n2\n")
    assert objection(group) == f"in {group} are 2 other processes"
    (group / "cgroup.controllers").write_text("cpu memory\n")
    assert objection(group) == f"{group} does not have the controllers pids"
    (group / "cgroup.procs").unlink()
    assert objection(group) == f"cannot read {group}: No such file or directory"
    assert cgroup._objection({}, {os.getpid()}) == "it is not there"


def test_group_is_not_touched_by_who_only_wants_to_know() -> None:
    def place() -> tuple[str, list[bool]]:
        leaves = [Path(folder, "corral-server").exists() for folder in cgroup._here().values()]
        return Path("/proc/self/cgroup").read_text(), leaves

    before = place()
    version, why = cgroup.explain(lambda: {os.getpid()})
    assert (version is None) is (why is not None)
    assert place() == before
