"""The first process of a run: it starts the agent, adopts what the agent leaves behind, and ends when nothing is left.

Forked by the launcher, trusted, and the parent of the agent. It is a subreaper, so a process of the run can leave its
session, its group and its parent, but not the tree below this process. Its end therefore proves that the tree is
empty: it exits only when wait(2) says that there is no child any more. If it is killed, the kernel kills the agent
(parent-death signal); if the launcher dies, the kernel kills this process.

It tells the launcher over the status pipe, one JSON object per line:
    {"error": text}                       the agent could not be started
    {"status": wait status, "empty": bool}   the agent has ended; "empty": no other process of the tree lives
"""

import json
import os
import signal

from runner import enter, tree, workdir
from runner.sandbox import prctl

HANDLED_BY_LAUNCHER = (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def run(spec, descriptors, launcher_pid):
    """Be the init of one run; never returns.

    Args:
        spec: see runner.protocol.
        descriptors: what the agent gets, in the order of runner.protocol.AGENT_ENDS, then the status pipe.
        launcher_pid: the parent.
    """
    try:
        enter.place_descriptors(descriptors)
        prctl.die_with_parent(launcher_pid)
        _reset_signals()
        os.setsid()
        prctl.become_subreaper()
        workdir.create(spec["workdir"])
        agent = _fork_agent(spec)
        _let_go_of_the_agents_descriptors()
        status = _wait_for(agent)
        _report({"status": status, "empty": not tree.has_children()})
        _reap_all()
        workdir.remove(spec["workdir"])
    except BaseException as error:
        _report({"error": f"cannot start the run: {error}"})
        os._exit(1)
    os._exit(0)


def _reset_signals():
    signal.set_wakeup_fd(-1)
    for number in HANDLED_BY_LAUNCHER:
        signal.signal(number, signal.SIG_DFL)


def _fork_agent(spec):
    init_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            enter.start(spec, init_pid)
        except BaseException as error:
            _report({"error": str(error)})
        os._exit(1)
    return pid


def _let_go_of_the_agents_descriptors():
    """Only the tree may hold the writing ends: then their end-of-file says that the tree has let go of them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(enter.STATUS_FD):
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _wait_for(agent):
    while True:
        pid, status = os.wait()
        if pid == agent:
            return status


def _reap_all():
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


def _report(record):
    os.write(enter.STATUS_FD, json.dumps(record).encode() + b"\n")
