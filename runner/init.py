"""The init of a run: it starts the agent, adopts what the agent leaves behind, and tells when nothing is left.

A child of the launcher, trusted, and the parent of the agent, which it forks before there is a run for it: the fork
and its preparations then take no time of the run. It is a subreaper, so a process of the run can leave its
session, its group and its parent, but not the tree below this process; when wait(2) says that there is no child any
more, the tree is empty. If it is killed, the kernel kills the agent (parent-death signal); if the launcher dies, the
kernel kills this process.

It serves one run after another: a process that has served before is cheaper than a new one, and nothing of a run can
stay in it, because the agent's code runs only in its children. Messages: see runner.protocol.
"""

from __future__ import annotations

import contextlib
import os
import socket
import traceback

from runner import enter, protocol
from runner.sandbox import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage
    from typing import NoReturn


class TreeUsage:
    """What the processes of one run have used, as far as they were waited for."""

    def __init__(self) -> None:
        self._user = self._system = 0.0
        self._peak_kilobytes = 0

    def add(self, used: struct_rusage) -> None:
        """Count a process that was waited for, and those that it has waited for. Source: getrusage(2)."""
        self._user += used.ru_utime
        self._system += used.ru_stime
        self._peak_kilobytes = max(self._peak_kilobytes, used.ru_maxrss)

    def wait_for(self, pid: int) -> int:
        """Reap children until this one has ended; return its wait status."""
        while True:
            ended, status, used = os.wait4(-1, 0)
            self.add(used)
            if ended == pid:
                return status

    def wait_for_all(self) -> int:
        """Reap until there is no child any more; return how many there were."""
        count = 0
        with contextlib.suppress(ChildProcessError):
            while True:
                self.add(os.wait4(-1, 0)[2])
                count += 1
        return count

    def others_live(self) -> bool:
        """Reap what has ended; tell whether there is still a child."""
        try:
            while True:
                pid, _, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return True
                self.add(used)
        except ChildProcessError:
            return False

    def record(self) -> dict[str, float]:
        """Return the usage as runner.protocol has it."""
        return {
            "user_cpu_seconds": round(self._user, 6),
            "system_cpu_seconds": round(self._system, 6),
            "peak_memory_bytes": self._peak_kilobytes * 1024,
        }


def serve(connection: socket.socket, work_root: str, launcher_pid: int) -> NoReturn:
    """Be the init of one run after another, until the launcher closes the connection.

    Args:
        connection: to the launcher. work_root: the folder for the runs' work directories. launcher_pid: the parent.
    """
    try:
        prctl.die_with_parent(launcher_pid)
        os.setsid()
        connection = enter.keep_only(connection)
        prctl.become_subreaper()
        enter.apply_what_is_inherited()
        while True:
            message, descriptors = protocol.receive(connection)
            protocol.close_all(descriptors)
            if message == protocol.GET_READY:
                _serve_one(connection, work_root)
    except protocol.Disconnected:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _serve_one(connection: socket.socket, work_root: str) -> None:
    """Fork the process that waits for a run and becomes its agent; tell when nothing of its tree lives."""
    usage = TreeUsage()
    status = None
    try:
        agent = _fork_agent(connection, work_root)
        status = usage.wait_for(agent)
        if usage.others_live():
            protocol.send(connection, {"tell": protocol.EXITED})
            usage.wait_for_all()
    except OSError as error:
        protocol.send(connection, {"tell": protocol.FAILED, "error": f"cannot fork: {error.strerror}"})
    protocol.send(connection, {"tell": protocol.GONE, "status": status, "usage": usage.record()})


def _fork_agent(connection: socket.socket, work_root: str) -> int:
    init_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            enter.wait_and_start(connection, work_root, init_pid)
        except protocol.Disconnected:
            os._exit(0)
        except BaseException as error:
            protocol.send(connection, {"tell": protocol.FAILED, "error": str(error)})
        os._exit(1)
    return pid
