"""The prctl(2) operations a run is started with; one function per operation."""

import ctypes
import os
import signal
from ctypes import c_int, c_ulong

from runner.sandbox import kernel

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_call = kernel.function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent thread ends.

    The parent may have died before the call, and then no signal ever comes: so the parent is compared afterwards.

    Args:
        parent_pid: the pid that getppid() must still return.
    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    ask_for_parent_death_signal()
    if os.getppid() != parent_pid:
        os._exit(1)


def ask_for_parent_death_signal() -> None:
    """Have the kernel kill this process when its parent thread ends.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_memory() -> None:
    """Let no other process read this one's memory or trace it.

    Source: prctl(2), PR_SET_DUMPABLE.
    """
    _prctl(PR_SET_DUMPABLE, 0)


def show_memory() -> None:
    """Undo what a change of user does: let this process's files in /proc be its user's again, as an exec does.

    Source: prctl(2), PR_SET_DUMPABLE.
    """
    _prctl(PR_SET_DUMPABLE, 1)


def become_subreaper() -> None:
    """Make every orphaned descendant a child of this process, so that none can leave its tree.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Make set-user-id programs and file capabilities grant nothing, for this process and all it starts.

    Source: prctl(2), PR_SET_NO_NEW_PRIVS.
    """
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _prctl(operation: int, argument: int) -> None:
    if _call(operation, argument, 0, 0, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot set prctl {operation}: {os.strerror(number)}")
