"""The steps from a forked process to the agent's own code, in the order that security asks for.

The first part is done once, by the init, and inherited by all it forks. The second part runs in the process that
becomes the agent; a step that fails raises, and the run ends as "cannot start".
"""

from __future__ import annotations

import os
import signal
import socket

from runner import agent, protocol, workdir
from runner.protocol import RESULT_FD
from runner.sandbox import prctl, rlimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Init's connection. The agent never sees it: it is closed by exec, or by hand before a Python entry point is called.
_CONNECTION_FD = RESULT_FD + 1

# Under memory pressure the kernel shall take an agent before any process of the server. Source: proc(5), oom_score_adj.
_OOM_SCORE_ADJUSTMENT = b"500"

_AGENT_NICENESS = 5

_READ_BYTES = 64 << 10

# CPython ignores these for itself and raises an exception instead.
IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})


def keep_only(connection: socket.socket) -> socket.socket:
    """Close everything but stdin, stdout, stderr and the connection; return the connection at its new number.

    RESULT_FD is kept busy, so that what init receives for an agent is never at a number where it has to be put.
    """
    number = connection.detach()
    if number != _CONNECTION_FD:
        os.dup2(number, _CONNECTION_FD, inheritable=False)
    os.dup2(0, RESULT_FD, inheritable=False)
    _close_from(_CONNECTION_FD + 1)
    return socket.socket(fileno=_CONNECTION_FD)


def apply_what_is_inherited() -> None:
    """Take the properties that every process of every run below this one is to have."""
    os.umask(0o077)
    _take_signals_as_they_come()
    prctl.forbid_new_privileges()
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, _OOM_SCORE_ADJUSTMENT)
    finally:
        os.close(descriptor)


def yield_to_the_server() -> None:
    """Let the server and the inits go first where agents take all cores. Source: nice(2)."""
    os.nice(_AGENT_NICENESS)


def _take_signals_as_they_come() -> None:
    """Undo what the server was started with: nohup ignores SIGHUP, and what is ignored or blocked is inherited."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def wait_and_start(connection: socket.socket, work_root: str, parent_pid: int) -> NoReturn:
    """Wait for a run and become its agent; raises OSError or ValueError before the agent's code has started.

    All that does not depend on the run is done before the wait, so that it takes no time of the run.

    Args:
        connection: the init's; brings one run (runner.protocol).
        work_root: the folder in which the run's private directory is made now.
        parent_pid: the run's init.
    Raises:
        Disconnected: there will be no run.
    """
    prctl.die_with_parent(parent_pid)
    os.setsid()
    yield_to_the_server()
    limits, spec, descriptors = receive_run(connection)
    directory = workdir.new_path(work_root)
    workdir.create(directory)
    tell_work_directory(connection, directory, directory)
    place(descriptors)
    os.chdir(spec["folder"])
    rlimits.apply(limits)
    start(spec, spec["folder"], directory, directory)


def tell_work_directory(connection: socket.socket, place: str, directory: str | None) -> None:
    """Give the launcher a descriptor of the work directory, for what is left there; to be done before any agent's code.

    And before the limits are applied: how many descriptors may be under way in messages is counted by user, and the
    limit of open files of the one who sends counts. Source: unix(7), ETOOMANYREFS.

    Args:
        place: its path in this process's file system. directory: see runner.protocol, AT_WORK.
    """
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        protocol.send(connection, {"tell": protocol.AT_WORK, "directory": directory}, [descriptor])
    finally:
        os.close(descriptor)


def receive_run(connection: socket.socket) -> tuple[dict[str, int], dict[str, Any], list[int]]:
    """Wait for a run; return its limits, its spec, and the descriptors that are the agent's.

    Raises:
        Disconnected: there will be no run.
    """
    message, (spec, *descriptors) = protocol.receive(connection)
    text = b"".join(iter(lambda: os.read(spec, _READ_BYTES), b""))
    return message["limits"], protocol.decode(text), descriptors


def start(spec: dict[str, Any], folder: str, home: str, temporary: str) -> NoReturn:
    """Run the agent's own code in this process.

    Args:
        spec: see runner.protocol. folder: where the agent's folder is now. home: path of the run's private directory.
        temporary: path of the directory for temporary files.
    """
    environment = {"HOME": home, "TMPDIR": temporary, **spec["environment"], "CORRAL_WORKDIR": home}
    if spec["command"]:
        _execute(spec["command"], environment)
    os.close(_CONNECTION_FD)
    for name, value in environment.items():
        # Not by update(): every function on the way is paid for with page faults.
        os.environ[name] = value
    agent.run(spec["entrypoint"], folder)


def place(descriptors: list[int]) -> None:
    """Put the descriptors at 0, 1, 2, 3 and close all others but the connection, which does not survive an exec."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    _close_from(_CONNECTION_FD + 1)


def _close_from(first: int) -> None:
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by the agent's program. An ignored signal stays ignored across exec. Source: execve(2)."""
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise OSError(error.errno, f"cannot execute {command[0]!r}: {error.strerror}") from error
