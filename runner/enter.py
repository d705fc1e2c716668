"""The steps from a forked child to the agent's own code, in the order that security asks for.

Runs in the process that becomes the agent. A step that fails raises, and the run ends as "cannot start".
"""

import fcntl
import os
import signal

from runner import agent
from runner.protocol import RESULT_FD
from runner.sandbox import prctl, rlimits

# Init's status pipe. The agent never sees it: it is closed by exec, or by hand before a Python entry point is called.
STATUS_FD = RESULT_FD + 1

# Under memory pressure the kernel shall take an agent before any process of the server. Source: proc(5), oom_score_adj.
_OOM_SCORE_ADJUSTMENT = b"500"


def start(spec, parent_pid):
    """Become the agent; returns never, raises OSError or ValueError before the agent's code has started.

    Args:
        spec: see runner.protocol.
        parent_pid: the run's init.
    """
    prctl.die_with_parent(parent_pid)
    os.setsid()
    os.umask(0o077)
    os.chdir(spec["folder"])
    _go_first_when_memory_is_short()
    rlimits.apply(spec["limits"])
    prctl.forbid_new_privileges()
    if spec["command"]:
        _execute(spec["command"], spec["environment"])
    os.close(STATUS_FD)
    os.environ.clear()
    os.environ.update(spec["environment"])
    agent.run_forked(spec["entrypoint"], spec["folder"])


def place_descriptors(descriptors):
    """Move descriptors to 0, 1, 2, … and close all others; only 0 to RESULT_FD survive an exec.

    All are first copied above the targets, because one may sit where another has to go.
    """
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, len(descriptors)) for descriptor in descriptors]
    for target, copy in enumerate(copies):
        os.dup2(copy, target, inheritable=target <= RESULT_FD)
    os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))


def _go_first_when_memory_is_short():
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, _OOM_SCORE_ADJUSTMENT)
    finally:
        os.close(descriptor)


def _execute(command, environment):
    """Replace this process by the agent's program.

    CPython ignores two signals for itself, and an ignored signal stays ignored across exec. Source: execve(2).
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        raise OSError(error.errno, f"cannot execute {command[0]!r}: {error.strerror}") from error
