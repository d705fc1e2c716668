"""What of the machine can be seen, and who can be reached."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from typing import Any

from .attempts import DONE, At, Attempts, attempt, read

# Larger areas of memory are reserves.
_LARGEST_AREA_BYTES = 16 << 20


def ordinary(at: At, context: Any) -> Attempts:
    """Do what harmless agents do."""
    with open(os.path.join(context.workdir, "file"), "w") as file:
        file.write("text")
    return {"start a shell": attempt(lambda: subprocess.run(["sh", "-c", "true"], check=True))}


def bystander(at: At, context: Any) -> Attempts:
    """Be there while the others do their worst."""
    context.progress("here")
    time.sleep(max(0.0, context.deadline - time.time()))
    return {"stay": DONE}


def read_files(at: At, context: Any) -> Attempts:
    """Read what is open to every user of the host, and what is the server's."""
    paths = (f"{at.data}/corral.db", "/etc/shadow")
    return {
        f"read {at.canary}": attempt(lambda: print(read(at.canary).decode())),
        **{f"read {path}": attempt(_open, path, os.O_RDONLY) for path in paths},
        f"list {at.data}": attempt(os.listdir, at.data),
    }


def write_files(at: At, context: Any) -> Attempts:
    """Write where every user of the host may; elsewhere only ask, or open and leave it as it is."""

    def append() -> None:
        with open(at.canary, "a") as file:
            file.write(at.mark)

    paths = (__file__, "/etc/passwd", "/usr/bin/env", "/proc/sys/kernel/hostname")
    return {
        f"append to {at.canary}": attempt(append),
        **{f"open {path}": attempt(_open, path, os.O_WRONLY) for path in paths},
        **{f"ask to write to {path}": _ask_to_write(path) for path in ("/", "/usr", "/etc", "/dev")},
    }


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def _ask_to_write(path: str) -> str:
    return DONE if os.access(path, os.W_OK) else "EACCES"


def other_processes(at: At, context: Any) -> Attempts:
    """Find processes that are not of this run."""
    seen = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    attempts = {"look for others in /proc": f"{len(seen)} seen" if seen else "nobody"}
    # A smaller number could be that of a process in here.
    if at.server_pid > 100:
        attempts["signal 0 to the server"] = attempt(os.kill, at.server_pid, 0)
    return attempts


def read_secret(at: At, context: Any) -> Attempts:
    """Find a variable of the server's environment: in other processes, and in what was inherited from the launcher."""
    assigned = re.compile(at.secret_name.encode() + rb"=[0-9a-f]+")
    found: set[bytes] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        attempt(lambda path: found.update(assigned.findall(read(path))), f"/proc/{pid}/environ")
    attempt(lambda: found.update(assigned.findall(_own_memory())))
    print(*found)
    return {"look for it in environments and memory": "found" if found else "nothing"}


def _own_memory() -> bytes:
    """Return the heap, and all else that can be written: the launcher's, which this process was forked from."""
    found = []
    for area, rights, *_ in map(bytes.split, read("/proc/self/maps").splitlines()):
        first, last = (int(end, 16) for end in area.split(b"-"))
        if rights.startswith(b"rw") and last - first <= _LARGEST_AREA_BYTES:
            found.append(ctypes.string_at(first, last - first))
    return b"".join(found)


def loopback(at: At, context: Any) -> Attempts:
    """Say something to TCP ports of the host."""

    def say(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(at.mark.encode())

    return {f"connect to port {port}": attempt(say, port) for port in at.ports}


def abstract_socket(at: At, context: Any) -> Attempts:
    """Say something to a Unix socket without a path, which belongs to a network namespace."""

    def say() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"\0{at.abstract}")
            connection.sendall(at.mark.encode())

    return {"connect to an abstract Unix socket": attempt(say)}


def launcher_socket(at: At, context: Any) -> Attempts:
    """Connect to the launcher; it closes a second connection at once."""

    def connect() -> None:
        os.chdir(at.data)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect("launcher.sock")

    return {"connect to the launcher": attempt(connect)}


def socket_families(at: At, context: Any) -> Attempts:
    """Make sockets of all kinds that reach further than a Unix socket."""
    families = {"inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40}
    return {
        f"make a socket of {name}": attempt(lambda number: socket.socket(number, socket.SOCK_DGRAM).close(), number)
        for name, number in families.items()
    }


def signal_everyone(at: At, context: Any) -> Attempts:
    """Send signals to everyone, but only where everyone is the processes of this run, as they are in a sandbox."""
    if os.getppid() != 1 or os.path.exists("/proc/1") or os.uname().nodename != "sandbox":
        return {"find itself alone": "no PID namespace of its own"}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGSTOP, signal.SIGKILL)
    return {
        "signal everyone": attempt(os.kill, -1, signal.SIGTERM),
        **{f"{number.name} to process 1": attempt(os.kill, 1, number) for number in numbers},
    }
