"""What hostile agents try, and what comes of it. After each, nothing of it is left: see nothing_is_left."""

import os
import signal
from pathlib import Path

import pytest

from tests.helpers.server import SECRET, RunningServer
from tests.helpers.siege import attack, begin
from tests.helpers.wait import wait_until

MEGABYTE = 1 << 20


@pytest.fixture
def server(besieged: RunningServer) -> RunningServer:
    return besieged


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fork_bomb", "ignore_everything", "stop_itself", "hop", "spin_in_threads"])
def test_cancel_of_what_does_not_want_to_end_leaves_nothing_alive(server: RunningServer, name: str) -> None:
    execution_id = begin(server, name)
    server.cancel(execution_id)
    execution = server.wait_for_end(execution_id)
    assert execution["status"] in ("CANCELED", "FAILED")
    wait_until(lambda: not server.runs())
    assert server.run("ok")["status"] == "COMPLETED"


def test_fork_bomb_gets_no_more_processes_than_its_limit(server: RunningServer) -> None:
    execution_id = begin(server, "fork_bomb")
    children = server.get(execution_id)["progress"]["children"]
    server.cancel(execution_id)
    server.wait_for_end(execution_id)
    assert children < 32


def test_daemon_of_an_agent_that_has_ended_is_killed(server: RunningServer) -> None:
    assert attack(server, "detach") is None
    wait_until(lambda: not server.runs())


def test_signals_to_everyone_reach_nobody_else(server: RunningServer) -> None:
    other = begin(server, "ignore_everything")
    attack(server, "signal_all")
    assert server.get(other)["status"] == "RUNNING"
    server.cancel(other)
    server.wait_for_end(other)


def test_signals_to_the_init_reach_no_handler_of_it(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as own:
        attack(own, "signal_init")
        assert own.errors() == ""


def test_stop_signal_to_the_init_does_not_reach_it(server: RunningServer) -> None:
    attack(server, "stop_parent")


def test_orphans_are_reaped(server: RunningServer) -> None:
    attack(server, "orphans", 300)


def test_unreaped_children_are_bounded_by_the_limit(server: RunningServer) -> None:
    assert attack(server, "zombies", 100) == ["EAGAIN", "done"]


# -- what it sees -----------------------------------------------------------------------------------------------------


def test_files_of_the_host_are_not_there(server: RunningServer) -> None:
    paths = [server.data, *(server.data / name for name in ("corral.db", "logs", "work", "launcher.sock"))]
    assert all(path.exists() for path in paths)
    paths += [
        server.agents / "ok",
        "/etc/shadow",
        "/home",
        "/root/.ssh",
        "/var",
        "/boot",
        "/sys",
        "/proc/sys",
        "/proc/1",
    ]
    assert set(attack(server, "read", *map(str, paths))) == {"ENOENT"}


def test_no_other_process_is_seen(server: RunningServer) -> None:
    other = begin(server, "ignore_everything")
    processes = attack(server, "visible_processes")
    assert 1 not in processes
    assert len(processes) == 1
    server.cancel(other)
    server.wait_for_end(other)


def test_secret_of_the_server_is_in_nothing_that_can_be_read(server: RunningServer) -> None:
    assert SECRET in Path(f"/proc/{server.process.pid}/environ").read_text()
    assert SECRET not in attack(server, "secrets")
    assert attack(server, "search_memory", "secret-", "[0-9a-f]{32}") == []
    assert attack(server, "search_memory", "CORRAL_", "AGENT=hostile"), "else it would find nothing"


def test_nothing_but_its_own_places_can_be_written(server: RunningServer) -> None:
    refused = [
        "/x",
        "/usr/x",
        "/etc/passwd",
        "/agent/agent.py",
        "/corral/agent.py",
        "/proc/sys/kernel/hostname",
        "/dev/x",
    ]
    assert set(attack(server, "write", *refused)) <= {"EROFS", "EACCES", "ENOENT"}
    assert attack(server, "write", "/work/x", "/tmp/x", "/dev/shm/x") == ["done"] * 3


def test_status_shows_no_privilege(server: RunningServer) -> None:
    status = attack(server, "status")
    assert {status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == ["1000"] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave a group")
def test_agent_is_in_no_group_of_the_servers_user(server: RunningServer) -> None:
    assert attack(server, "status")["Groups"].split() == []


def test_every_mount_ignores_privileged_programs_and_devices(server: RunningServer) -> None:
    mounts = {place: set(flags.split(",")) for place, flags in attack(server, "mounts")}
    assert all("nosuid" in flags and flags & {"nodev", "noexec"} for flags in mounts.values())
    writable = {place for place, flags in mounts.items() if "rw" in flags}
    assert {place for place in writable if not place.startswith("/dev/")} == {"/proc", "/tmp", "/work"}


def test_only_its_own_descriptors_are_open(server: RunningServer) -> None:
    assert attack(server, "descriptors") == [0, 1, 2, 3, 4]


# -- the kernel -------------------------------------------------------------------------------------------------------


def test_only_local_sockets_can_be_made(server: RunningServer) -> None:
    assert set(attack(server, "sockets").values()) == {"EAFNOSUPPORT"}


def test_unix_sockets_of_the_server_are_not_reachable(server: RunningServer) -> None:
    path = str(server.data / "launcher.sock")
    assert attack(server, "connect", path) in ("ENOENT", "OSError")


def test_no_new_namespace_can_be_made(server: RunningServer) -> None:
    assert attack(server, "namespaces") == ["EPERM", "EPERM", "ENOSYS"]


REFUSED = {
    "ptrace": (101, "EPERM"),
    "process_vm_readv": (310, "EPERM"),
    "process_vm_writev": (311, "EPERM"),
    "pidfd_getfd": (438, "EPERM"),
    "mount": (165, "EPERM"),
    "umount2": (166, "EPERM"),
    "chroot": (161, "EPERM"),
    "pivot_root": (155, "EPERM"),
    "open_tree": (428, "EPERM"),
    "move_mount": (429, "EPERM"),
    "fsopen": (430, "EPERM"),
    "setns": (308, "EPERM"),
    "mknod": (133, "EPERM"),
    "mknodat": (259, "EPERM"),
    "name_to_handle_at": (303, "EPERM"),
    "keyctl": (250, "ENOSYS"),
    "add_key": (248, "ENOSYS"),
    "request_key": (249, "ENOSYS"),
    "io_uring_setup": (425, "ENOSYS"),
    "io_uring_enter": (426, "ENOSYS"),
    "bpf": (321, "EPERM"),
    "perf_event_open": (298, "EPERM"),
    "userfaultfd": (323, "EPERM"),
    "settimeofday": (164, "EPERM"),
    "clock_settime": (227, "EPERM"),
    "adjtimex": (159, "EPERM"),
    "sethostname": (170, "EPERM"),
    "setdomainname": (171, "EPERM"),
    "kexec_load": (246, "EPERM"),
    "init_module": (175, "EPERM"),
    "reboot": (169, "EPERM"),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_that_agents_do_not_need_are_refused(server: RunningServer) -> None:
    found = attack(server, "by_number", *(number for number, _ in REFUSED.values()))
    assert dict(zip(REFUSED, found, strict=True)) == {name: error for name, (_, error) in REFUSED.items()}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number is that of x86_64")
def test_system_call_in_the_x32_way_is_refused_or_kills(server: RunningServer) -> None:
    """It kills where the server is a service that may call the kernel in its native way only."""
    execution = server.run("hostile", attack="by_number", **{"with": [0x40000000 | 39]})  # getpid
    if execution["status"] == "COMPLETED":
        assert execution["final_result"]["outcome"] == ["ENOSYS"]
    else:
        assert execution["termination"]["signal"] == signal.SIGSYS


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the code is that of x86_64")
def test_system_call_of_another_architecture_kills(server: RunningServer) -> None:
    in_32_bits = "b814000000" + "cd80" + "c3"  # mov eax, 20; int 0x80; ret
    assert attack(server, "machine_code", in_32_bits) == -31


def test_terminal_cannot_be_typed_into(server: RunningServer) -> None:
    assert attack(server, "terminal") == [-1, -1, "EPERM", "EPERM"]


def test_limits_cannot_be_raised(server: RunningServer) -> None:
    found = attack(server, "raise_limits")
    assert set(found) <= {"EPERM", "EACCES", "ValueError", "PermissionError"}


def test_inotify_of_the_machine_is_not_exhausted(server: RunningServer) -> None:
    assert attack(server, "inotify") <= 16


# -- resources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/work", "/tmp", "/dev/shm"])
def test_disk_ends_at_its_limit(server: RunningServer, folder: str) -> None:
    assert attack(server, "fill", folder) == "ENOSPC"
    assert attack(server, "many_files", folder) == "ENOSPC"


def has_groups(server: RunningServer) -> bool:
    return "cgroup" in server.run("ok")["isolation"]["effective"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_memory_outside_of_processes_can_be_had_only_where_a_group_counts_it(server: RunningServer) -> None:
    memfd_create, shmget = 319, 29
    outcomes = ["EFAULT", "EINVAL"] if has_groups(server) else ["EPERM", "EPERM"]
    assert attack(server, "by_number", memfd_create, shmget) == outcomes


@pytest.mark.parametrize("name", ["eat_memory", "eat_memory_in_children", "eat_memory_outside_of_processes"])
def test_memory_of_all_its_processes_together_ends_at_its_limit(server: RunningServer, name: str) -> None:
    if name == "eat_memory_outside_of_processes" and not has_groups(server):
        pytest.skip("this machine has no control groups for us: there is no such memory to be had")
    execution = server.run("hostile", attack=name)
    termination = execution["termination"]
    assert (execution["status"], termination["code"], termination["by"]) == ("FAILED", "MEMORY", "limit")
    assert termination["limit"] == {"memory_bytes": 256 * MEGABYTE}
    assert termination["observed"]["peak_memory_bytes"] > 250 * MEGABYTE
    assert "memory" in execution["error_log"]


def test_file_size_and_descriptors_end_at_their_limits(server: RunningServer) -> None:
    assert attack(server, "huge_file") == "EFBIG"
    assert attack(server, "eat_descriptors") == "EMFILE"


# -- the others -------------------------------------------------------------------------------------------------------


def test_ordinary_programs_work(server: RunningServer) -> None:
    assert attack(server, "ordinary_life") == [[0, 1, 4], ["42", "agent"], "x", 4, True]


def test_shell_redirection_to_its_own_output_works(server: RunningServer) -> None:
    execution = server.run("hostile", attack="shell_redirection")
    assert execution["final_result"] == {"outcome": 0}, execution
    assert server.logs(execution["execution_id"])["text"] == "out\n"
    assert server.logs(execution["execution_id"], "stderr")["text"] == "err\n"


def test_record_tells_every_layer(server: RunningServer) -> None:
    isolation = server.run("ok")["isolation"]
    assert isolation["tier"] == "sandboxed"
    assert isolation["missing"] == ([] if "cgroup" in isolation["effective"] else ["cgroup"])
    namespaces = {f"{name}_namespace" for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")}
    assert namespaces | {"no_capabilities", "no_new_privs", "seccomp", "read_only_root"} <= set(isolation["effective"])
