"""What outlives a process: files, System V shared memory, a name in the network, and what process 1 was told."""

import ctypes
import errno
import os
import resource
import signal
import socket
import time

KEY, CREATE_NEW = 4711, 0o3600
PLACES = ("/work", "/tmp", "/dev/shm")


def run(input):
    found = {
        "pid": os.getpid(),
        "files": [name for place in PLACES for name in os.listdir(place)],
        "shared memory": shared_memory(),
        "name": name(),
        "init": {what: attempt(call) for what, call in POWER_OVER_INIT.items()},
    }
    for place in PLACES:
        with open(f"{place}/trace", "w") as file:
            file.write("I was here")
    if input.get("how") == "spending":
        memory = bytearray(b"1" * (100 << 20))
        while time.process_time() < 0.5:
            memory[0] ^= 1
    if input.get("how") == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if input.get("how") == "leaving a child" and os.fork() == 0:
        signal.pause()
    return found


def shared_memory():
    libc = ctypes.CDLL(None, use_errno=True)
    return errno.errorcode[ctypes.get_errno()] if libc.shmget(KEY, 4096, CREATE_NEW) < 0 else "new"


def name():
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind("\0trace")
    except OSError as error:
        return errno.errorcode[error.errno]
    return "new"


def attempt(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


POWER_OVER_INIT = {
    "limit": lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    "cores": lambda: os.sched_setaffinity(1, {0}),
    "signal": lambda: os.kill(1, signal.SIGKILL),
}
