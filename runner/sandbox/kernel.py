"""System calls that the standard library does not offer, as functions that raise OSError.

Called through ctypes. PyDLL keeps the interpreter's lock, which a call that returns twice needs. Each function of the C
library is looked up when the module is loaded: in a new process the first look takes longer than most calls.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ARCHITECTURE = platform.machine()

# Calls from 424 on have the same number on every architecture. Source: the kernel's asm-generic/unistd.h.
_NUMBERS = {"clone": {"x86_64": 56, "aarch64": 220}, "pivot_root": {"x86_64": 155, "aarch64": 41}}
_MOUNT_SETATTR = 442

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MNT_DETACH = 2
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522

# sizeof(sigset_t) of the C library; on 64 bits its first word has all that is asked for here.
_SIGNAL_SET_BYTES = 128

_libc = ctypes.CDLL(None, use_errno=True)
_locked = ctypes.PyDLL(None, use_errno=True)


def function(name: str, *kinds: Any) -> Callable[..., int]:
    """Return a function of the C library. Args: kinds: ctypes of its arguments; those of syscall(2) depend on the call.

    A call that fails sets ctypes.get_errno().
    """
    found = _libc[name]
    found.argtypes = kinds
    return found


_unshare = function("unshare", c_int)
_mount = function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_mount_setattr = function("syscall", c_long, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_pivot_root = function("syscall", c_long, c_char_p, c_char_p)
_umount2 = function("umount2", c_char_p, c_int)
_signalfd = function("signalfd", c_int, c_char_p, c_int)
_sethostname = function("sethostname", c_char_p, c_size_t)
_capset = function("capset", c_void_p, c_void_p)
_prctl = function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


class _MountAttributes(ctypes.Structure):
    """struct mount_attr. Source: mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def clone(flags: int) -> int:
    """Fork this process, which must have one thread, into new namespaces; return the pid, 0 in the child.

    clone(2) and not clone3(2): it is there on every kernel and behind every filter that lets a container make
    namespaces, and what only the newer one can do (a child born into a cgroup) is done before the child goes on.

    The C library does not know of the new process, so its own record of the thread is wrong in the child until that
    forks in the ordinary way. The interpreter is told, as by os.fork().

    Args:
        flags: CLONE_NEW… flags of clone(2).
    """
    zero = ctypes.c_long(0)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_locked.syscall(_number("clone"), ctypes.c_long(flags | signal.SIGCHLD), zero, zero, zero, zero))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"cannot make namespaces: {os.strerror(error)}")
    return pid


def unshare(flags: int) -> None:
    """Move this process into new namespaces. Args: flags: CLONE_NEW… flags. Source: unshare(2)."""
    _check(_unshare(flags), "cannot make namespaces")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system, or bind a path to another. Source: mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(_mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"cannot mount {source} on {target}")


def restrict_mount(target: str, attributes: int) -> None:
    """Add attributes to a mount and to all mounts below it.

    Unlike a remount it leaves the attributes alone that the host has locked. Source: mount_setattr(2), Linux 5.12.
    """
    wanted = _MountAttributes(attr_set=attributes)
    path = os.fsencode(target)
    size = ctypes.sizeof(wanted)
    done = _mount_setattr(_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, ctypes.byref(wanted), size)
    _check(done, f"cannot restrict the mount {target}")


def pivot_root(new_root: str) -> None:
    """Make a mount point the root of this mount namespace, and let go of the old root and of all below it.

    Both places may be the same directory: the old root then lies on top of the new one. Source: pivot_root(2), Notes.
    """
    os.chdir(new_root)
    _check(_pivot_root(_number("pivot_root"), b".", b"."), f"cannot pivot to {new_root}")
    _check(_umount2(b".", _MNT_DETACH), "cannot let go of the old root")
    os.chdir("/")


def read(path: str) -> str:
    """Return what is in a file of the kernel's. Raises OSError.

    Without a file object, whose first use costs a new process more than most of its steps.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(b"".join(iter(lambda: os.read(descriptor, 1 << 16), b"")))
    finally:
        os.close(descriptor)


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's, which takes all in one call or refuses it. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {path}: {error.strerror}") from error


def watch_signal(number: int) -> int:
    """Block a signal in this thread; return a descriptor that is readable when it has come. Source: signalfd(2)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    mask = (1 << (number - 1)).to_bytes(_SIGNAL_SET_BYTES, sys.byteorder)
    found = _signalfd(-1, mask, os.O_CLOEXEC | os.O_NONBLOCK)
    _check(found, f"cannot watch signal {number}")
    return found


def sethostname(name: str) -> None:
    """Set the name of the machine. Source: sethostname(2)."""
    encoded = name.encode()
    _check(_sethostname(encoded, len(encoded)), "cannot set the host name")


def forbid_new_capabilities() -> None:
    """Make no capability to be had by exec, for this process and all that it starts. Source: capabilities(7)."""
    for capability in range(64):
        # The first that this kernel does not know is an error, and the end.
        if _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break


def keep_capabilities(*numbers: int) -> None:
    """Give up every capability of this thread but these, which it must have, for good.

    Source: capabilities(7); capset(2), whose data are two structs of the effective, permitted and inheritable half.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    kept = sum(1 << number for number in numbers)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(_capset(header, data), "cannot drop capabilities")


def _number(name: str) -> int:
    try:
        return _NUMBERS[name][_ARCHITECTURE]
    except KeyError:
        raise OSError(38, f"cannot call {name}: {_ARCHITECTURE} is not supported") from None


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
