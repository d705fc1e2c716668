"""Attacks on those outside: on the server, on other runs, and on what is shared with them."""

import ctypes
import fcntl
import os
import re
import signal
import socket

import agent


def knock(addresses):
    """Connect to sockets. addresses: [[family, address]...], with "@" for the zero byte of an abstract name."""

    def connect(family, address):
        address = tuple(address) if isinstance(address, list) else address.replace("@", "\0")
        with socket.socket(getattr(socket, family), socket.SOCK_STREAM) as client:
            client.connect(address)

    return [agent.attempt(connect, family, address) for family, address in addresses]


def search_memory(start, rest):
    """Return what in the own memory matches: start and rest of a pattern, apart so that the memory does not hold it."""
    pattern = re.compile(start.encode() + rest.encode())
    found = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            place, access = line.split()[:2]
            if access.startswith("rw"):
                first, last = (int(number, 16) for number in place.split("-"))
                found.update(pattern.findall(ctypes.string_at(first, last - first)))
    return sorted(text.decode() for text in found)


def reopen(word):
    """Return what can be read from the own pipes, after having printed a word, for a while."""
    os.write(1, word.encode())
    found = []
    for number in (1, 2, 3):
        try:
            pipe = os.open(f"/proc/self/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        for _ in range(1000):
            try:
                found.append(os.read(pipe, 1 << 16).decode())
            except BlockingIOError:
                os.sched_yield()
    return "".join(found)


def chatter(word):
    """Print a word for ever."""
    agent.CONTEXT.progress("ready")
    while True:
        os.write(1, word.encode())


def keep(what, *arguments):
    """Do another attack, and keep what it has got."""
    agent.CONTEXT.progress({"got": agent.find(what)(*arguments)})
    signal.pause()


def hog_pipes():
    """Make as many pipes as can be, each as large as can be; return how large they are together."""
    total = 0
    while True:
        try:
            _, writer = os.pipe()
        except OSError:
            return total
        for size in (1 << 20, 1 << 16):
            if agent.attempt(fcntl.fcntl, writer, fcntl.F_SETPIPE_SZ, size) == "done":
                break
        total += fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)


def lease(*paths):
    """Have everybody who opens the files wait."""

    def take(path):
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    return [agent.attempt(take, path) for path in paths]


def lock(path):
    """Take a lock that others may look for."""
    return agent.attempt(fcntl.flock, os.open(path, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)


def tamper(folder):
    """Change what is in a folder, in every way there is; return what came of it."""
    outcomes = set()
    for path in (folder, *(f"{folder}/{name}" for name in os.listdir(folder))):
        descriptor = os.open(path, os.O_RDONLY)
        ways = (
            (open, path, "r+b"),
            (os.open, f"/proc/self/fd/{descriptor}", os.O_RDWR),
            (os.chmod, path, 0o777),
            (os.fchmod, descriptor, 0o777),
            (os.chown, path, -1, 1000),
            (os.utime, path),
            (os.rename, path, f"{path}.old"),
            (os.truncate, path, 0),
            (os.setxattr, path, "user.mark", b"1"),
            (os.link, path, f"{folder}/link"),
            (os.symlink, path, f"{folder}/symlink"),
            (os.remove, path),
            (os.mkdir, f"{folder}/new"),
        )
        outcomes.update(agent.attempt(*way) for way in ways)
        os.close(descriptor)
    return sorted(outcomes)
