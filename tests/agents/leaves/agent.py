"""Leaves things in its work directory. Input: {"steps": [[name of a step, argument...]...]}"""

import os
import signal
import socket


def run(input, context):
    global CONTEXT
    CONTEXT = context
    os.chdir(context.workdir)
    for step, *arguments in input["steps"]:
        globals()[step](*arguments)
    return {"descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))}


def file(name, text, times=1):
    if os.path.dirname(name):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "w", encoding="utf-8") as created:
        for _ in range(times):
            created.write(text)


def numbers(name, count):
    """Leave a file of lines that are all different, 8 bytes each."""
    with open(name, "w") as created:
        created.writelines(f"{number:07}\n" for number in range(count))


def hex_named_file(name):
    file(bytes.fromhex(name), "odd")


def many_files(count):
    for number in range(count):
        os.close(os.open(f"{number:06}", os.O_CREAT | os.O_WRONLY))


def links(canary):
    """Leave links of every kind to a file of the host and to folders."""
    file("twice", "twice")
    os.link("twice", "hard link")
    for number, target in enumerate([canary, os.path.dirname(canary), "/etc/passwd", "/etc", "..", "/proc/self/fd"]):
        os.symlink(target, f"link {number}")
    try:
        os.link(canary, "canary")
    except OSError:
        os.symlink(canary, "canary")  # it is not there, or on another file system


def no_files():
    """Leave what is no file and no folder: a socket, and a pipe that nobody writes into if the sandbox allows it."""
    socket.socket(socket.AF_UNIX).bind("socket")
    try:
        os.mkfifo("pipe")
    except PermissionError:
        socket.socket(socket.AF_UNIX).bind("pipe")


def sparse(name, size, text=""):
    with open(name, "w") as created:
        created.write(text)
        created.truncate(size)


def deep(levels):
    for _ in range(levels):
        os.mkdir("d")
        os.chdir("d")
    file("bottom", "bottom")
    os.chdir(CONTEXT.workdir)


def forbidden(name):
    """Leave a file, and one in a folder, that even their owner may not read."""
    file(f"{name}/file", "secret")
    file(f"{name}.txt", "secret")
    os.chmod(f"{name}.txt", 0)
    os.chmod(name, 0)


def forbid_all():
    os.chmod(".", 0)


# -- how it goes on ---------------------------------------------------------------------------------------------------


def wait():
    CONTEXT.progress("ready")
    signal.pause()


def ignore_and_wait():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()
    wait()


def fail():
    raise RuntimeError("on purpose")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def eat_memory():
    memory = []
    while True:
        memory.append(b"x" * (1 << 20))
