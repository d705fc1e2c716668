"""The namespaces of a sandbox, and who its user is outside of it."""

from __future__ import annotations

import os

from runner import profile
from runner.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Name in /proc/pid/ns -> flag of clone(2).
FLAGS = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}

# Network of a profile -> the namespaces that its sandboxes have in common with the host.
_SHARED: dict[str, tuple[str, ...]] = {profile.NONE: (), profile.HOST: ("net",)}

# Those that hold what an agent can leave behind without a process that lives.
OF_ONE_RUN = FLAGS["mnt"] | FLAGS["ipc"]

# Who the agent is inside. Not 0, which would regain the namespace's capabilities on exec. Source: capabilities(7).
INSIDE_ID = 1000

# As root, each sandbox has a user of its own on the host, one of these: above those that systemd gives to containers.
# Source: systemd.io/UIDS-GIDS.
OUTSIDE_IDS = range(1_879_100_000, 1_879_200_000)

# The layer that the next ones make.
CEILINGS = "ceilings"

# Ceilings of what the kernel counts by user: none of what the sandbox has no use for, and little of what it shares with
# the server where both have the same user. Source: namespaces(7), inotify(7).
_CEILINGS = {
    "max_user_namespaces": 0,
    "max_pid_namespaces": 1,
    "max_mnt_namespaces": 2,
    "max_net_namespaces": 1,
    "max_time_namespaces": 0,
    "max_fanotify_groups": 0,
    "max_inotify_instances": 16,
    "max_inotify_watches": 1024,
}


def shared(network: str) -> tuple[str, ...]:
    """Return the names of the namespaces that are the host's. Args: network: of runner.profile."""
    return _SHARED[network]


def flags(network: str) -> int:
    """Return the flags of clone(2) for a new sandbox. Args: network: of runner.profile."""
    return sum(flag for name, flag in FLAGS.items() if name not in _SHARED[network])


def identities(names: Mapping[str, int] = FLAGS) -> dict[str, str]:
    """Return what tells this process's namespaces from others: {name: "kind:[inode]"}."""
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in names}


def map_user(pid: int | str, outside_uid: int, outside_gid: int) -> None:
    """Give a new user namespace its one user and group.

    Args:
        pid: of a process in it that has none yet, or "self". outside_uid, outside_gid: ids in this process's namespace;
            other than its own only root may map. Source: user_namespaces(7).
    """
    kernel.write(f"/proc/{pid}/uid_map", f"{INSIDE_ID} {outside_uid} 1\n")
    if pid == "self":
        # The kernel lets one who is not root map a group only where nobody can leave any. Source: user_namespaces(7).
        kernel.write(f"/proc/{pid}/setgroups", "deny")
    kernel.write(f"/proc/{pid}/gid_map", f"{INSIDE_ID} {outside_gid} 1\n")


def become_inside_user() -> None:
    """Take the inside user's ids; the capabilities stay, because the ids before were not the namespace's root.

    The other groups of the server's user, which count for files of the host, are left.
    """
    os.setgroups([])
    os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)


def lower_ceilings() -> list[str]:
    """Set the ceilings of this user namespace; return the names of those that this host does not let us set."""
    known = set(os.listdir("/proc/sys/user"))
    return [name for name, amount in _CEILINGS.items() if name in known and not _could_write(name, amount)]


def _could_write(name: str, amount: int) -> bool:
    try:
        kernel.write(f"/proc/sys/user/{name}", str(amount))
    except OSError:
        return False
    return True
