"""Landlock: rules that a process puts on itself and on all it starts, a second net below mounts and namespaces.

They hold whatever the mounts, the modes of files and the namespaces allow: what is not below a path of the rules cannot
be opened, not even by a descriptor of a folder that has come in by mistake; no TCP; no signal and no abstract Unix
socket to anybody outside. What they are made of depends on the kernel's version of Landlock, its ABI, from 1 (Linux
5.13) on; what an older one does not have is left out, and so is its layer.
Source: landlock(7), Documentation/userspace-api/landlock.rst, linux/landlock.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct

from runner.sandbox import prctl
from runner.sandbox.attest import NotIsolated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# name -> (the first ABI that has it, its bit).
FILES = {
    "execute": (1, 0),
    "write_file": (1, 1),
    "read_file": (1, 2),
    "read_dir": (1, 3),
    "remove_dir": (1, 4),
    "remove_file": (1, 5),
    "make_char": (1, 6),
    "make_dir": (1, 7),
    "make_reg": (1, 8),
    "make_sock": (1, 9),
    "make_fifo": (1, 10),
    "make_block": (1, 11),
    "make_sym": (1, 12),
    # ABI 1 always refuses to move and link files between folders.
    "refer": (2, 13),
    "truncate": (3, 14),
    "ioctl_dev": (5, 15),
}
NETWORK = {"bind_tcp": (4, 0), "connect_tcp": (4, 1)}
SCOPES = {"abstract_unix_socket": (6, 0), "signal": (6, 1)}

# Flags of landlock_restrict_self(2): our own attempts below are not for the host's audit log.
_FLAGS = {"log_same_exec_off": (7, 0)}

# The fields of struct landlock_ruleset_attr; an older kernel takes only the first ones.
_FIELDS = ((1, FILES), (4, NETWORK), (6, SCOPES))

# Layers that are made of them, and the first ABI that has each.
_LAYERS = {"landlock": 1, "landlock_tcp": 4, "landlock_scopes": 6}

_READ = ("execute", "read_file", "read_dir")
_USE_DEVICE = ("read_file", "write_file", "ioctl_dev")
_WRITE = tuple(name for name in FILES if name not in ("make_char", "make_block"))

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the version that this kernel has, 0 if it has none or does not use it."""
    try:
        return _call("ask for Landlock", _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def mask(names: Iterable[str], table: Mapping[str, tuple[int, int]], version: int) -> int:
    """Return the bits of some rights, without those that a version does not have."""
    return sum(1 << table[name][1] for name in names if table[name][0] <= version)


def ruleset(version: int) -> bytes:
    """Return the struct landlock_ruleset_attr that forbids everything a version can forbid."""
    return b"".join(struct.pack("=Q", mask(table, table, version)) for first, table in _FIELDS if first <= version)


def confine(folders: Iterable[str], devices: Iterable[str]) -> list[str]:
    """Let this process and all it starts read what it sees, write below a few places, and reach nobody outside.

    Whether that is so is tried, before and after: a return value of 0 says little.

    Args:
        folders: where it may write. devices: files that it may write.
    Returns:
        The names of the layers: none where there is no Landlock.
    Raises:
        OSError: the kernel refuses. NotIsolated: an attempt has not worked before, or still works.
    """
    version = abi()
    if not version:
        return []
    # As after exec: the files of this process in /proc are its own again, which they are not since it changed its
    # user. Source: proc(5).
    prctl.show_memory()
    with contextlib.closing(_Attempts(version, _LAYERS)) as attempts:
        attempts.must_work()
        allowed = {"/": _READ, **dict.fromkeys(devices, _USE_DEVICE), **dict.fromkeys(folders, _WRITE)}
        _restrict(version, ruleset(version), allowed)
        return attempts.must_be_refused()


def keep_to_itself() -> list[str]:
    """Let this process and all it starts reach nobody outside by a signal or an abstract Unix socket; nothing more.

    Returns, Raises: as confine().
    """
    version = abi()
    if version < _LAYERS["landlock_scopes"]:
        return []
    with contextlib.closing(_Attempts(version, ("landlock_scopes",))) as attempts:
        attempts.must_work()
        _restrict(version, struct.pack("=3Q", 0, 0, mask(SCOPES, SCOPES, version)), {})
        return attempts.must_be_refused()


def _restrict(version: int, wanted: bytes, allowed: Mapping[str, Iterable[str]]) -> None:
    size = ctypes.c_size_t(len(wanted))
    rules = _call("make Landlock rules", _CREATE_RULESET, wanted, size, ctypes.c_uint32(0))
    try:
        for path, names in allowed.items():
            _allow(rules, path, mask(names, FILES, version))
        flags = ctypes.c_uint32(mask(_FLAGS, _FLAGS, version))
        _call("put on Landlock rules", _RESTRICT_SELF, ctypes.c_int(rules), flags)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    """Add a rule; its struct landlock_path_beneath_attr is packed."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, place)
        _call(f"allow {path}", _ADD_RULE, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)


class _Attempts:
    """What nothing but Landlock refuses to a process that is to be confined, in a sandbox with a first process."""

    def __init__(self, version: int, layers: Iterable[str]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("")  # an abstract name that nobody has. Source: unix(7), "Autobind"
        self._listener.listen()
        # Layer -> what it refuses, with which error.
        refused: dict[str, dict[Callable[[], None], int]] = {
            "landlock": {_open_to_write: errno.EACCES},
            "landlock_tcp": {_bind: errno.EACCES, _connect: errno.EACCES},
            "landlock_scopes": {_signal_outside: errno.EPERM, self._connect_outside: errno.EPERM},
        }
        self._layers = {name: refused[name] for name in layers if _LAYERS[name] <= version}

    def must_work(self) -> None:
        """Raises NotIsolated: something else refuses one of them, so that nothing could be told of Landlock."""
        for layer, attempts in self._layers.items():
            for attempt, refusal in attempts.items():
                if _error_of(attempt) == refusal:
                    raise NotIsolated(f"{layer}: cannot tell, {attempt.__name__} was refused before")

    def must_be_refused(self) -> list[str]:
        """Return the names of the layers. Raises NotIsolated: one of them still works."""
        for layer, attempts in self._layers.items():
            for attempt, refusal in attempts.items():
                if _error_of(attempt) != refusal:
                    raise NotIsolated(f"{layer}: {attempt.__name__} is not refused")
        return list(self._layers)

    def close(self) -> None:
        self._listener.close()

    def _connect_outside(self) -> None:
        """Connect to a socket that was made before the rules were."""
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(self._listener.getsockname())


def _open_to_write() -> None:
    """Open what is the process's own, on no read-only mount, and below no place where it may write."""
    os.close(os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC))


def _bind() -> None:
    with socket.socket(socket.AF_INET) as server:
        server.bind(("0.0.0.0", 0))


def _connect() -> None:
    with socket.socket(socket.AF_INET) as client:
        client.connect(("127.0.0.1", 1))


def _signal_outside() -> None:
    os.kill(1, 0)


def _error_of(attempt: Callable[[], None]) -> int | None:
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None


def _call(what: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, f"cannot {what}: {os.strerror(failed)}")
    return result
