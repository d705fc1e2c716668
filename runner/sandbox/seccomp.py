"""The filters of system calls.

That of an agent allows everything but what it has no use for and the kernel may have bugs in; that of a sandbox's init,
which does nothing but wait, refuses everything but what this takes. Hand-made programs for the kernel's classic BPF
machine, built once and inherited as bytes. Source: seccomp(2), Documentation/userspace-api/seccomp_filter.rst,
linux/bpf_common.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

from runner.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# name -> (x86_64, aarch64); None where the architecture does not have it.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone3": (435, 435),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    "ustat": (136, None),
    "sysfs": (139, None),
    "uselib": (134, None),
    "nfsservctl": (180, 42),
    "_sysctl": (156, None),
    "vmsplice": (278, 75),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "wait4": (61, 260),
    "kill": (62, 129),
    "sendmsg": (46, 211),
    "close": (3, 57),
    "exit_group": (231, 94),
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
}

# Another process's memory and descriptors; mounts and roots; namespaces; the machine; names that lead around mounts.
_NOT_PERMITTED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp"),
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "unshare", "setns"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff"),
    *("acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname"),
    *("setdomainname", "syslog", "iopl", "ioperm", "modify_ldt", "mknod", "mknodat", "name_to_handle_at"),
    *("open_by_handle_at", "fanotify_init", "lookup_dcookie", "personality", "ustat", "sysfs", "uselib", "nfsservctl"),
    *("vmsplice", "mbind", "set_mempolicy", "migrate_pages", "move_pages", "perf_event_open", "bpf", "userfaultfd"),
)

# These are said not to exist, so that programs fall back to something else: the C library does so for clone3, whose
# flags lie behind a pointer that a filter cannot follow.
_NOT_THERE = (
    *("clone3", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("memfd_secret", "_sysctl", "listmount", "statmount"),
)

# Memory that no process limit counts; refused where no cgroup counts it.
UNCOUNTED_MEMORY = ("memfd_create", "shmget")

# What an init still does: it waits, tells, ends and lets go of what it has; and what the interpreter's memory takes.
_WAITING = (
    *("wait4", "sendmsg", "exit_group", "close"),
    *("brk", "munmap", "mremap", "madvise", "futex", "clock_gettime"),
)

# It kills all others in its namespace at once, and nobody by its pid. Source: kill(2).
_EVERYBODY = 0xFFFFFFFF

# Source: mmap(2).
_EXECUTABLE = 4

# Of other families, some reach the machine around every namespace (AF_VSOCK), others are rarely used kernel code.
_LOCAL_FAMILIES = (socket.AF_UNIX,)
_NETWORK_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

# TIOCSTI and TIOCLINUX put input into a terminal. Source: ioctl_tty(2).
_REFUSED_IOCTLS = (0x5412, 0x541C)

# F_SETLEASE and F_SETDELEG: whoever opens a leased file waits for the holder, up to 45 seconds. Where agents are the
# server's user they could have it wait for their own folder. Source: fcntl(2), "Leases".
_REFUSED_FCNTLS = (1024, 1040)

_NAMESPACE_FLAGS = 0x7E020000

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# Calls from here on came after these tables: who knows what they do. With them go those of the x32 kind, which have a
# high bit set.
_FIRST_UNKNOWN = 463

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

# So many are tried one by one.
_FEW_RULES = 8

# Offsets in struct seccomp_data; the low half of an argument, on little-endian machines.
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_0_AT, _ARGUMENT_1_AT, _ARGUMENT_2_AT = 0, 4, 16, 24, 32

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_prctl = kernel.function("prctl", ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def build(network: bool, also_refused: Iterable[str] = ()) -> bytes:
    """Return the filter as the kernel takes it.

    Args:
        network: whether internet sockets are allowed. also_refused: names of further calls.
    Raises:
        OSError: there is no table for this machine's architecture.
    """
    column, audit_architecture = _architecture()
    program = [
        *_of_architecture(audit_architecture),
        _instruction(_AT_LEAST, _FIRST_UNKNOWN, 0, 1),
        _refuse(errno.ENOSYS),
    ]
    families = _NETWORK_FAMILIES if network else _LOCAL_FAMILIES
    rules: dict[str, Sequence[bytes]] = {
        **dict.fromkeys((*_NOT_PERMITTED, *also_refused), (_refuse(errno.EPERM),)),
        **dict.fromkeys(_NOT_THERE, (_refuse(errno.ENOSYS),)),
        **dict.fromkeys(("socket", "socketpair"), _only(_ARGUMENT_0_AT, families, errno.EAFNOSUPPORT)),
        "clone": _without_bits(_ARGUMENT_0_AT, _NAMESPACE_FLAGS, errno.EPERM),
        "ioctl": _except(_ARGUMENT_1_AT, _REFUSED_IOCTLS, errno.EPERM),
        "fcntl": _except(_ARGUMENT_1_AT, _REFUSED_FCNTLS, errno.EPERM),
    }
    numbered = [(number, body) for name, body in rules.items() if (number := _NUMBERS[name][column]) is not None]
    return b"".join(program + _search(sorted(numbered)))


def build_for_init() -> bytes:
    """Return the filter of a process that has nothing left to do but to wait. Raises OSError as build()."""
    column, audit_architecture = _architecture()
    program = _of_architecture(audit_architecture)
    for name in _WAITING:
        program += _when(name, column, [_instruction(_RETURN, _ALLOW)])
    for name in ("mmap", "mprotect"):
        program += _when(name, column, _without_bits(_ARGUMENT_2_AT, _EXECUTABLE, errno.EPERM))
    program += _when("kill", column, _only(_ARGUMENT_0_AT, (_EVERYBODY,), errno.EPERM))
    return b"".join([*program, _refuse(errno.EPERM)])


def load(program: bytes) -> None:
    """Put a filter on this process and all it starts, for good. Needs no_new_privs."""
    wanted = _Program(len(program) // 8, program)
    if _prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(wanted), 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, "cannot filter system calls")


def _architecture() -> tuple[int, int]:
    name = platform.machine()
    if name not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"cannot filter system calls: there is no table for {name}")
    return _ARCHITECTURES[name]


def _of_architecture(audit_architecture: int) -> list[bytes]:
    """Return the start of a filter: another architecture's calls kill, and then the number of the call is looked at."""
    return [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, audit_architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
    ]


def _search(rules: Sequence[tuple[int, Sequence[bytes]]]) -> list[bytes]:
    """Return instructions that find the rule of a call, or allow it, by halves.

    When a filter is loaded the kernel tries it with every call that there is; one by one, that takes a quarter longer.

    Args:
        rules: (number of the call, instructions that end), by number.
    """
    if len(rules) > _FEW_RULES:
        middle = len(rules) // 2
        lower, upper = _search(rules[:middle]), _search(rules[middle:])
        return [_instruction(_AT_LEAST, rules[middle][0], len(lower), 0), *lower, *upper]
    tests = [part for number, body in rules for part in (_instruction(_EQUAL, number, 0, len(body)), *body)]
    return [*tests, _instruction(_RETURN, _ALLOW)]


def _when(name: str, column: int, body: Sequence[bytes]) -> list[bytes]:
    """Return a body that is skipped unless the call is this one."""
    number = _NUMBERS[name][column]
    return [] if number is None else [_instruction(_EQUAL, number, 0, len(body)), *body]


def _only(offset: int, allowed: Iterable[int], number: int) -> list[bytes]:
    checks = [part for value in allowed for part in (_instruction(_EQUAL, value, 0, 1), _instruction(_RETURN, _ALLOW))]
    return [_instruction(_LOAD, offset), *checks, _refuse(number)]


def _except(offset: int, refused: Iterable[int], number: int) -> list[bytes]:
    checks = [part for value in refused for part in (_instruction(_EQUAL, value, 0, 1), _refuse(number))]
    return [_instruction(_LOAD, offset), *checks, _instruction(_RETURN, _ALLOW)]


def _without_bits(offset: int, bits: int, number: int) -> list[bytes]:
    return [
        _instruction(_LOAD, offset),
        _instruction(_ANY_BIT, bits, 0, 1),
        _refuse(number),
        _instruction(_RETURN, _ALLOW),
    ]


def _refuse(number: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | number)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
