"""The filter of system calls, run by a machine of our own that does what the kernel's would."""

import errno
import platform
import socket
import struct

import pytest

from runner.sandbox import seccomp

ALLOWED = "allowed"
KILLED = "killed"
FIRST_UNKNOWN = 463

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
both = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])

# Those of everyday programs that come nearest to what is refused: (x86_64, aarch64).
EVERYDAY = {
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "execve": (59, 221),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "kill": (62, 129),
    "prctl": (157, 167),
    "setrlimit": (160, 164),
    "futex": (202, 98),
    "getrandom": (318, 278),
    "prlimit64": (302, 261),
    "openat2": (437, 437),
    "close_range": (436, 436),
    "fchmodat2": (452, 452),
    "pidfd_open": (434, 434),
}

# (x86_64, aarch64, what comes of it)
REFUSED = {
    "ptrace": (101, 117, errno.EPERM),
    "process_vm_readv": (310, 270, errno.EPERM),
    "process_vm_writev": (311, 271, errno.EPERM),
    "pidfd_getfd": (438, 438, errno.EPERM),
    "mount": (165, 40, errno.EPERM),
    "umount2": (166, 39, errno.EPERM),
    "pivot_root": (155, 41, errno.EPERM),
    "chroot": (161, 51, errno.EPERM),
    "open_tree": (428, 428, errno.EPERM),
    "mount_setattr": (442, 442, errno.EPERM),
    "unshare": (272, 97, errno.EPERM),
    "setns": (308, 268, errno.EPERM),
    "finit_module": (313, 273, errno.EPERM),
    "kexec_load": (246, 104, errno.EPERM),
    "reboot": (169, 142, errno.EPERM),
    "settimeofday": (164, 170, errno.EPERM),
    "sethostname": (170, 161, errno.EPERM),
    "mknodat": (259, 33, errno.EPERM),
    "open_by_handle_at": (304, 265, errno.EPERM),
    "personality": (135, 92, errno.EPERM),
    "vmsplice": (278, 75, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "clone3": (435, 435, errno.ENOSYS),
    "keyctl": (250, 219, errno.ENOSYS),
    "add_key": (248, 217, errno.ENOSYS),
    "io_uring_setup": (425, 425, errno.ENOSYS),
    "io_uring_enter": (426, 426, errno.ENOSYS),
    "memfd_secret": (447, 447, errno.ENOSYS),
    "first that is not known": (FIRST_UNKNOWN, FIRST_UNKNOWN, errno.ENOSYS),
    "open_tree_attr": (467, 467, errno.ENOSYS),
    "none at all": (0xFFFFFFFF, 0xFFFFFFFF, errno.ENOSYS),
}

SOCKET, SOCKETPAIR, CLONE, IOCTL, FCNTL = (41, 198), (53, 199), (56, 220), (16, 29), (72, 25)
NEW_USER = 0x10000000
MEMFD_CREATE, SHMGET = (319, 279), (29, 194)


def run(program: bytes, number: int, machine: str, *arguments: int) -> str | int:
    """Return what a filter says to a call: ALLOWED, KILLED, or the number of the error."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, ARCHITECTURES[machine], 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return _verdict(value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


def _verdict(value: int) -> str | int:
    named = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
    return named[value] if value in named else value - 0x00050000


def build(monkeypatch: pytest.MonkeyPatch, machine: str, network: bool = False, also: tuple[str, ...] = ()) -> bytes:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    return seccomp.build(network, also)


def pick(numbers: tuple[int, ...], machine: str) -> int:
    return numbers[0 if machine == "x86_64" else 1]


@both
def test_filter_lets_everyday_calls_pass(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(monkeypatch, machine)
    said = {name: run(program, pick(numbers, machine), machine) for name, numbers in EVERYDAY.items()}
    assert said == dict.fromkeys(EVERYDAY, ALLOWED)


@both
def test_filter_refuses_what_agents_have_no_use_for(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(monkeypatch, machine)
    said = {name: run(program, pick(row[:2], machine), machine) for name, row in REFUSED.items()}
    assert said == {name: row[2] for name, row in REFUSED.items()}


@pytest.mark.parametrize("number", [101, 39], ids=["ptrace", "getpid"])
def test_filter_knows_no_call_of_the_x32_kind(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(monkeypatch, "x86_64")
    assert run(program, 0x40000000 | number, "x86_64") == errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "other"), [("x86_64", "i386"), ("x86_64", "aarch64"), ("aarch64", "arm"), ("aarch64", "x86_64")]
)
def test_filter_kills_at_a_call_of_another_architecture(
    machine: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build(monkeypatch, machine)
    assert {run(program, number, other) for number in range(500)} == {KILLED}


FAMILIES = {
    socket.AF_UNIX: (ALLOWED, ALLOWED),
    socket.AF_INET: (errno.EAFNOSUPPORT, ALLOWED),
    socket.AF_INET6: (errno.EAFNOSUPPORT, ALLOWED),
    socket.AF_UNSPEC: (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT),
    socket.AF_NETLINK: (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT),
    socket.AF_PACKET: (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT),
    socket.AF_VSOCK: (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT),
    socket.AF_ALG: (errno.EAFNOSUPPORT, errno.EAFNOSUPPORT),
}


@both
@pytest.mark.parametrize("call", [SOCKET, SOCKETPAIR])
@pytest.mark.parametrize("family", FAMILIES)
def test_filter_allows_sockets_of_few_families(
    machine: str, call: tuple[int, int], family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = pick(call, machine)
    said = tuple(run(build(monkeypatch, machine, network), number, machine, family) for network in (False, True))
    assert said == FAMILIES[socket.AddressFamily(family)]


@both
@pytest.mark.parametrize("above", [0, 1 << 32], ids=["alone", "with a bit that the kernel cuts off"])
def test_filter_looks_at_the_half_of_an_argument_that_the_kernel_takes(
    machine: str, above: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = build(monkeypatch, machine)
    assert run(program, pick(SOCKET, machine), machine, above | socket.AF_VSOCK) == errno.EAFNOSUPPORT
    assert run(program, pick(CLONE, machine), machine, above | NEW_USER) == errno.EPERM
    assert run(program, pick(IOCTL, machine), machine, 0, above | 0x5412) == errno.EPERM


# Source: clone(2).
@both
@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (17, ALLOWED),  # fork: only SIGCHLD
        (0x3D0F00, ALLOWED),  # a thread of glibc
        *[(17 | flag, errno.EPERM) for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000)],
        (17 | 0x40000000, errno.EPERM),
    ],
)
def test_filter_allows_processes_and_threads_but_no_namespaces(
    machine: str, flags: int, verdict: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(build(monkeypatch, machine), pick(CLONE, machine), machine, flags) == verdict


@both
@pytest.mark.parametrize(("request_", "verdict"), [(0x5401, ALLOWED), (0x5412, errno.EPERM), (0x541C, errno.EPERM)])
def test_filter_lets_nobody_type_into_a_terminal(
    machine: str, request_: int, verdict: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(build(monkeypatch, machine), pick(IOCTL, machine), machine, 0, request_) == verdict


# Source: fcntl(2); F_DUPFD_CLOEXEC and F_SETPIPE_SZ are next to those that are refused.
@both
@pytest.mark.parametrize(
    ("command", "verdict"),
    [(0, ALLOWED), (1030, ALLOWED), (1031, ALLOWED), (1024, errno.EPERM), (1040, errno.EPERM)],
)
def test_filter_lets_nobody_take_a_lease(
    machine: str, command: int, verdict: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(build(monkeypatch, machine), pick(FCNTL, machine), machine, 0, command) == verdict


@both
@pytest.mark.parametrize("call", [MEMFD_CREATE, SHMGET])
def test_filter_refuses_uncounted_memory_if_told_to(
    machine: str, call: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = pick(call, machine)
    assert run(build(monkeypatch, machine), number, machine) == ALLOWED
    assert run(build(monkeypatch, machine, also=seccomp.UNCOUNTED_MEMORY), number, machine) == errno.EPERM


# (x86_64, aarch64), and arguments.
OF_INIT = {
    "wait4": ((61, 260), (0xFFFFFFFF,)),
    "sendmsg": ((46, 211), (4,)),
    "exit_group": ((231, 94), ()),
    "kill all": ((62, 129), (0xFFFFFFFF, 9)),
    "mmap": ((9, 222), (0, 4096, 3)),
}
NOT_OF_INIT = {
    "kill one": ((62, 129), (2, 9)),
    "mmap executable": ((9, 222), (0, 4096, 7)),
    "mprotect executable": ((10, 226), (0, 4096, 5)),
    "execve": ((59, 221), ()),
    "openat": ((257, 56), ()),
    "read": ((0, 63), ()),
    "write": ((1, 64), ()),
    "clone": ((56, 220), (17,)),
    "clone3": ((435, 435), ()),
    "socket": ((41, 198), (1,)),
    "prctl": ((157, 167), ()),
    "ptrace": ((101, 117), ()),
    "mount": ((165, 40), ()),
    "setns": ((308, 268), ()),
    "unknown": ((FIRST_UNKNOWN, FIRST_UNKNOWN), ()),
    "x32": ((0x40000000 | 61, 0x40000000 | 61), ()),
}


@both
def test_filter_of_init_lets_it_wait_and_nothing_else(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    program = seccomp.build_for_init()
    said = {
        name: run(program, pick(numbers, machine), machine, *arguments)
        for name, (numbers, arguments) in (OF_INIT | NOT_OF_INIT).items()
    }
    assert said == {**dict.fromkeys(OF_INIT, ALLOWED), **dict.fromkeys(NOT_OF_INIT, errno.EPERM)}
    passed = [number for number in range(FIRST_UNKNOWN) if run(program, number, machine) == ALLOWED]
    assert len(passed) == 12
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert run(program, pick((61, 260), other), other) == KILLED


@pytest.mark.parametrize("machine", ["riscv64", "i686", ""])
def test_filter_for_a_machine_without_a_table_is_no_filter_but_an_error(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="no table"):
        build(monkeypatch, machine)


@both
def test_filter_is_short_enough_for_the_kernel(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(build(monkeypatch, machine, also=seccomp.UNCOUNTED_MEMORY)) // 8 <= 4096
