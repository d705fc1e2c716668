"""Privileges, and calls to the kernel."""

import ctypes
import os
import resource
from typing import Any

from .attempts import At, Attempts, attempt, attempt_in_child, read

_PTRACE_SEIZE = 0x4206
_NEW_USER, _NEW_NET, _NEW_MOUNT = 0x10000000, 0x40000000, 0x00020000
_TIOCSTI = 0x5412

# Number on x86_64, on aarch64. With zeros as arguments none of them does anything, whoever calls it.
_CALLS = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
}
_PTRACE, _UNSHARE, _CLONE3 = (101, 117), (272, 97), (435, 435)

_libc = ctypes.CDLL(None, use_errno=True)


def privileges(at: At, context: Any) -> Attempts:
    """Have a right that an agent has not; only the rights of this run's processes are touched."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    sets = ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
    places = ("/", "/usr", context.workdir)
    return {
        **{name: "some" if int(status[name], 16) else "none" for name in sets},
        "run a set-user-id program for its rights": "ignored" if status["NoNewPrivs"] == "1" else "granted",
        **{f"set-user-id in {place}": "ignored" if _ignores_set_user_id(place) else "granted" for place in places},
        "become root": attempt_in_child(os.setuid, 0),
    }


def _ignores_set_user_id(place: str) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_NOSUID)


def trace(at: At, context: Any) -> Attempts:
    """Get at the memory of other processes; its parent is the run's own init."""
    parent = os.getppid()
    return {
        "ptrace its parent": attempt_in_child(_call, _PTRACE, _PTRACE_SEIZE, parent),
        "open its parent's memory": attempt(read, f"/proc/{parent}/maps"),
        "open the server's memory": attempt(read, f"/proc/{at.server_pid}/maps"),
    }


def namespaces(at: At, context: Any) -> Attempts:
    """Make namespaces, in which it would have all capabilities."""
    kinds = {"user": _NEW_USER, "net": _NEW_USER | _NEW_NET, "mount": _NEW_MOUNT}
    return {
        **{f"unshare {name}": attempt_in_child(_call, _UNSHARE, flags) for name, flags in kinds.items()},
        "clone3": attempt_in_child(_call, _CLONE3),
    }


def forbidden_calls(at: At, context: Any) -> Attempts:
    """Make system calls that no agent needs, with arguments that are of no use."""
    return {
        **{name: attempt_in_child(_call, numbers) for name, numbers in _CALLS.items()},
        "ioctl TIOCSTI": attempt_in_child(_ioctl, 0, _TIOCSTI),
    }


def raise_limits(at: At, context: Any) -> Attempts:
    """Raise limits and priorities."""

    def more(kind: int) -> None:
        soft, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            resource.setrlimit(kind, (soft, hard + 1))

    kinds = {"open files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    return {
        **{f"raise the limit of {name}": attempt(more, kind) for name, kind in kinds.items()},
        "raise its priority": attempt_in_child(os.nice, -5),
        "become a real-time process": attempt_in_child(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    }


def _call(numbers: tuple[int, int], *arguments: int) -> None:
    number = numbers[os.uname().machine == "aarch64"]
    if _libc.syscall(*map(ctypes.c_long, (number, *arguments, 0, 0, 0, 0, 0))) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _ioctl(descriptor: int, request: int) -> None:
    if _libc.ioctl(descriptor, request, None) < 0:
        raise OSError(ctypes.get_errno(), "refused")
