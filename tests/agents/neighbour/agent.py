"""Leaves traces wherever another run could find them, or looks for those of another run; then waits if told to."""

import ctypes
import os
import signal
import socket

LIBC = ctypes.CDLL(None, use_errno=True)
PLACES = ("/work", "/tmp", "/dev/shm")
KEY = 0x600D


def run(input, context):
    found = {"leave": leave, "look": look, "both": lambda name: [leave(name), look(name)][1]}[input["do"]](
        input["name"]
    )
    if input.get("wait"):
        context.progress(found)
        signal.pause()
    return found


def leave(name):
    for place in PLACES:
        with open(f"{place}/{name}", "w") as file:
            file.write(name)
    global listener
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen()
    return {"queue": LIBC.msgget(KEY, 0o1666), "semaphores": LIBC.semget(KEY, 1, 0o1666), "ready": True}


def look(name):
    return {
        "files": [place for place in PLACES if os.listdir(place)],
        "socket": connects(f"\0{name}"),
        "queue": LIBC.msgget(KEY, 0),
        "semaphores": LIBC.semget(KEY, 1, 0),
        "host": os.uname().nodename,
    }


def connects(address):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(address) == 0
