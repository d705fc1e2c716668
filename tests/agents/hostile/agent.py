"""Attacks the sandbox that it is in. Each attack returns what came of it, mostly the name of an error number."""

import ctypes
import errno
import fcntl
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading

# Where the attacks are. Each module is loaded only if those before it do not have the attack.
MODULES = ("agent", "crowds", "ends", "words", "neighbours")

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_NET = 0x10000000, 0x40000000


def run(input, context):
    # Outside of a sandbox some of these attacks would hit this machine.
    if os.uname().nodename != "sandbox" or os.path.exists("/proc/1"):
        raise RuntimeError("cannot attack: this is no sandbox")
    global CONTEXT
    CONTEXT = context
    return {"outcome": find(input["attack"])(*input.get("with", []))}


def find(attack):
    modules = map(importlib.import_module, MODULES)
    return next(getattr(module, attack) for module in modules if hasattr(module, attack))


def attempt(action, *arguments):
    """Return the name of the error number an action fails with, "done" if it does not fail."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except Exception as error:
        return type(error).__name__
    return "done"


def syscall(number, *arguments):
    if LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def by_number(*numbers):
    return [attempt(syscall, number, 0, 0, 0, 0) for number in numbers]


# -- processes --------------------------------------------------------------------------------------------------------


def fork_bomb():
    count = 0
    while True:
        try:
            if os.fork() == 0:
                signal.pause()
        except BlockingIOError:
            CONTEXT.progress({"children": count})
            signal.pause()
        count += 1


def detach():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    os.wait()


def ignore_everything():
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        attempt(signal.signal, number, signal.SIG_IGN)
    CONTEXT.progress("ready")
    while True:
        signal.pause()


def stop_itself():
    CONTEXT.progress("ready")
    os.kill(os.getpid(), signal.SIGSTOP)


def hop():
    """Never be the same process for long."""
    CONTEXT.progress("ready")
    while True:
        if os.fork():
            os._exit(0)
        os.setsid()


def signal_all():
    """Send signals to everyone in sight, but for SIGKILL to itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1, signal.SIGKILL)
    return [attempt(os.kill, -1, signal.SIGTERM)] + [attempt(os.kill, 1, number) for number in numbers]


def signal_init():
    """Send process 1 every signal that it may have a handler for."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        attempt(os.kill, 1, number)


def orphans(count):
    for _ in range(count):
        # At the limit, where those before have not been reaped yet, there is one less.
        if attempt(lambda: os.fork() or (attempt(os.fork), os._exit(0))) == "done":
            os.wait()


def zombies(count):
    found = set()
    for _ in range(count):
        found.add(attempt(lambda: os.fork() or os._exit(0)))
    return sorted(found)


def stop_parent():
    return attempt(os.kill, os.getppid(), signal.SIGSTOP)


# -- what can be seen -------------------------------------------------------------------------------------------------


def read(*paths):
    return [attempt(lambda path=path: os.listdir(path) if os.path.isdir(path) else open(path).read()) for path in paths]


def visible_processes():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def secrets():
    """Return whatever of /proc can be read of any process, as one text."""
    found = []
    for pid in range(1, 50):
        for name in ("environ", "cmdline", "maps", "root/data", "cwd/agent.toml", "fd/0"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    found.append(file.read().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def write(*paths):
    def create(path):
        with open(path, "a"):
            pass

    return [attempt(create, path) for path in paths]


def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file)


def mounts():
    with open("/proc/self/mountinfo") as file:
        return [line.split(" ")[4:6] for line in file]


def descriptors():
    return sorted(int(name) for name in os.listdir("/proc/self/fd"))


# -- the kernel -------------------------------------------------------------------------------------------------------


def sockets():
    families = {"inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "alg": 38, "vsock": 40, "bluetooth": 31}
    return {name: attempt(socket.socket, number, socket.SOCK_DGRAM) for name, number in families.items()}


def connect(path):
    def to():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)

    return attempt(to)


def namespaces():
    return [
        attempt(syscall, 272, NEW_USER),
        attempt(syscall, 56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0),
        attempt(syscall, 435, 0, 0),
    ]


def terminal():
    master, slave = (os.open(path, os.O_RDWR) if os.path.exists(path) else -1 for path in ("/dev/ptmx", "/dev/tty"))
    return [master, slave, attempt(fcntl.ioctl, 0, 0x5412, b"x"), attempt(fcntl.ioctl, 0, 0x541C, b"x")]


def raise_limits():
    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CPU)
    found = [attempt(resource.setrlimit, kind, (1 << 20, 1 << 20)) for kind in kinds]
    return [*found, attempt(os.nice, -5), attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))]


def inotify():
    count = 0
    while LIBC.inotify_init1(0) >= 0:
        count += 1
    return count


def machine_code(text):
    """Run bytes as a program of their own process; return how that ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(jump_into(text) & 0xFF)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def jump_into(text):
    """Run bytes as a function."""
    import mmap

    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex(text))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


# -- resources --------------------------------------------------------------------------------------------------------


def fill(folder):
    def write_all():
        for number in range(100):
            with open(f"{folder}/{number}", "wb") as file:
                file.write(bytes(1 << 20))

    return attempt(write_all)


def many_files(folder):
    def create_all():
        for number in range(100_000):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_WRONLY))

    return attempt(create_all)


def huge_file():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/work/sparse", "wb") as file:
        return attempt(os.truncate, file.fileno(), 1 << 40)


def eat_memory():
    memory = []
    while True:
        memory.append(b"x" * (1 << 20))


def eat_memory_in_children():
    for _ in range(16):
        if os.fork() == 0:
            memory = b"x" * (32 << 20)
            CONTEXT.progress(len(memory))
            signal.pause()
    signal.pause()


def eat_memory_outside_of_processes():
    while True:
        os.write(os.memfd_create("memory"), b"x" * (7 << 20))


def eat_descriptors():
    return attempt(lambda: [os.dup(0) for _ in range(1000)])


def spin():
    while True:
        pass


def spin_in_threads():
    for _ in range(8):
        threading.Thread(target=spin, daemon=True).start()
    CONTEXT.progress("ready")
    spin()


# -- what an ordinary program needs -----------------------------------------------------------------------------------


def ordinary_life():
    """Do what harmless programs do, to show that the sandbox lets them."""
    import asyncio
    import multiprocessing
    import sqlite3
    import ssl
    import tempfile

    with tempfile.NamedTemporaryFile() as file, sqlite3.connect(file.name) as database:
        database.execute("CREATE TABLE t (x)")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = pool.map(square, range(3))
    shell = subprocess.run(["sh", "-c", "echo $((6*7)) && id -un"], capture_output=True, text=True, check=True)
    left, right = socket.socketpair()
    left.send(b"x")
    asyncio.run(asyncio.sleep(0))
    ssl.create_default_context()
    with open("/dev/stderr", "w") as stderr:
        print("a line", file=stderr)
    return [squares, shell.stdout.split(), right.recv(1).decode(), len(os.urandom(4)), sys.executable != ""]


def square(number):
    return number * number


def shell_redirection():
    return subprocess.run(["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"], check=False).returncode
