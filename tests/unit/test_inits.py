"""The inits that wait, and what is left of one that cannot be made."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runner.inits import Idle, Init
from tests.helpers.command import ROOT
from tests.helpers.processes import wait_for_exit


def forked() -> Init:
    """Return an init that does nothing until its connection is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        theirs.recv(1)
        os._exit(0)
    theirs.close()
    return Init(pid, ours, None, None)


@pytest.fixture
def waiting() -> Iterator[list[Init]]:
    inits = [forked() for _ in range(3)]
    yield inits
    for init in inits:
        signal.pidfd_send_signal(init.pidfd, signal.SIGKILL)
        os.waitpid(init.pid, 0)
        init.close()


def test_idle_gives_the_last_that_lives_and_none_that_has_died(waiting: list[Init]) -> None:
    idle = Idle()
    for init in waiting:
        idle.add(init)
    first, *others = waiting
    for init in others:
        os.kill(init.pid, signal.SIGKILL)
        wait_for_exit(init.pid)
    assert idle.take(None) is first
    assert idle.take(None) is None


def test_idle_gives_none_of_a_purpose_that_has_died(waiting: list[Init]) -> None:
    idle = Idle()
    first, *others = waiting
    for init in others:
        init.purpose = {"agent": "a"}
        idle.add(init)
    idle.add(first)
    os.kill(others[1].pid, signal.SIGKILL)
    wait_for_exit(others[1].pid)
    assert idle.take({"agent": "a"}) is others[0]
    assert idle.take({"agent": "a"}) is first


# Fails to make a sandbox at some step, then makes one; prints the users and groups that are taken.
FAILING = """
import os, sys
from runner import agent, inits, profile
from runner.sandbox import mounts
from runner.sandboxed import Sandboxes

class Group:
    def __init__(self, fails):
        self.fails = fails
    def add(self, pid):
        self.do("add")
    def watch_memory(self):
        self.do("watch")
    def do(self, step):
        if self.fails == step:
            raise OSError(28, "no room")

class Groups:
    def remove(self, group):
        print("removed", flush=True)
    def make(self, pid):
        if sys.argv[2] == "make":
            raise OSError(28, "no room")
        return Group(sys.argv[2])

skeleton = mounts.Skeleton(sys.argv[1], [sys.base_prefix], agent.__file__)
nursery = inits.Nursery("", Sandboxes(skeleton, ()), Groups(), {})
before = len(os.listdir("/proc/self/fd"))
try:
    nursery.fork(profile.DEFAULT)
except OSError as error:
    print(error.strerror)
print(len(nursery._uids_taken), len(os.listdir("/proc/self/fd")) - before)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize(("step", "removed"), [("make", []), ("add", ["removed"]), ("watch", ["removed"])])
def test_sandbox_that_cannot_be_made_leaves_no_user_group_process_or_descriptor(
    tmp_path_factory: pytest.TempPathFactory, step: str, removed: list[str]
) -> None:
    skeleton = tmp_path_factory.mktemp("skeleton") / "root"
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(skeleton), step],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.splitlines() == [*removed, "no room", "0 0", "no child"], done.stderr
