"""A process tree like a run's, but a child of the test."""

import contextlib
import os
import signal
from types import TracebackType

from runner.sandbox import prctl
from tests.agents.tree import agent
from tests.helpers.named_pipes import Lifeline
from tests.helpers.processes import descendants, wait_for_exit


class ForkedTree:
    """A shape of the agent "tree" below a root that adopts orphans and exits with 0 when all others are gone.

    A context that ends them all.
    """

    def __init__(self, shape: str, lifeline: Lifeline, processes: int, own_session: bool = True) -> None:
        """Args: processes: how many of them to wait for. own_session: not that of the root, as in a run."""
        self.pid = os.fork()
        if self.pid == 0:
            _be_root(shape, lifeline.path, own_session)
        lifeline.wait_for("here", processes)

    def __enter__(self) -> "ForkedTree":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        for pid in (self.pid, *descendants(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def lives(self) -> bool:
        """Tell whether the root runs, without waiting for it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> int:
        """Wait until the root has ended; return its exit code, or the negative number of the signal that killed it."""
        wait_for_exit(self.pid)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _be_root(shape: str, lifeline: str, own_session: bool) -> None:
    try:
        os.setsid()
        prctl.become_subreaper()
        if os.fork() == 0:
            if own_session:
                os.setsid()
            agent.run({"shape": shape, "lifeline": lifeline})
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        os._exit(0)
    finally:
        os._exit(1)
