"""Becomes a command in a user namespace whose ceiling of further ones can be changed while the command runs.

`python own_user_namespace.py FIFO COMMAND...`: each line that is written to the named pipe becomes the ceiling
(/proc/sys/user/max_user_namespaces of that namespace); at the end of the pipe nobody changes it any more.

The namespace has the ids of this one, so the command is who it would be without.
"""

import ctypes
import os
import sys

_CLONE_NEWUSER = 0x10000000


def main(fifo: str, *command: str) -> None:
    """See above."""
    ready_reader, ready_writer = os.pipe()
    done_reader, done_writer = os.pipe()
    pid = os.getpid()
    if os.fork() == 0:
        os.read(ready_reader, 1)
        _map_ids(pid)
        os.write(done_writer, b"d")
        os._exit(0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) < 0:
        sys.exit(f"cannot make a user namespace: {os.strerror(ctypes.get_errno())}")
    os.write(ready_writer, b"r")
    os.read(done_reader, 1)
    os.wait()
    if os.fork() == 0:
        _follow(fifo)
    os.execvp(command[0], command)


def _map_ids(pid: int) -> None:
    """As root, all ids; else the own ones, for which groups must be given up."""
    if os.geteuid() == 0:
        ids = {name: "0 0 4294967295" for name in ("uid_map", "gid_map")}
    else:
        ids = {"uid_map": f"{os.geteuid()} {os.geteuid()} 1", "setgroups": "deny"}
        ids["gid_map"] = f"{os.getegid()} {os.getegid()} 1"
    for name, text in ids.items():
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def _follow(fifo: str) -> None:
    """Set each ceiling that is asked for. Only who has not called exec has the capability that this takes."""
    os.setsid()
    os.closerange(3, 64)
    with open(fifo) as ceilings:
        for ceiling in ceilings:
            with open("/proc/sys/user/max_user_namespaces", "w") as file:
                file.write(ceiling)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
