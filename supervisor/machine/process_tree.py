"""The processes of one run, found and signaled with psutil.

The root is the run's init: a subreaper, so whatever a process of the run does, it stays below the root while the root
lives. psutil compares start times before it signals, so a pid that was used again is never hit.
"""

import contextlib
import os
import signal
from collections.abc import Sequence, Set

import psutil

# A look at /proc takes milliseconds, in which a running process can fork; a stopped one cannot. So the tree is stopped
# until a look finds nobody new, at most so often before the loop gets to do something else.
_FREEZE_ROUNDS = 8

# The root of a namespace is given these rounds, some 35 ms, to wait for its dead and tell of them.
_ROUNDS_WITHOUT_ROOT = 3


class ProcessTree:
    """All processes below one root; the root itself is ours and is not signaled with them."""

    def __init__(self, root_pid: int) -> None:
        """Args: root_pid: a process that is alive or not yet waited for."""
        self._root = psutil.Process(root_pid)
        self.killed: set[int] = set()
        self.root_was_killed = False

    def terminate(self) -> int:
        """Ask every process to end, also the stopped ones; return how many were asked."""
        members = self.members()
        asked = 0
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                asked += 1
        for process in members:
            # A stopped process takes SIGTERM only when it is continued. Source: signal(7).
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        return asked

    def kill(self) -> int:
        """Stop all, then kill all that could be stopped; return how many. Call again until the root has ended."""
        # Children first: the kernel continues a stopped process group when the parents that tie it to its session die.
        # Source: setpgid(2), "orphaned process group".
        killed = self._signal(self._freeze()[::-1], signal.SIGKILL)
        self.killed.update(process.pid for process in killed)
        if not killed:
            # An agent can have stopped the root, which then waits for nobody and tells nothing.
            with contextlib.suppress(psutil.NoSuchProcess):
                self._root.resume()
        return len(killed)

    def members(self) -> list[psutil.Process]:
        """Return the processes that live below the root; none if the root has ended."""
        try:
            below = self._root.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in below if _lives(process)]

    def kill_root(self) -> None:
        """Kill the init; for one that an agent has stopped or tampered with. What is below it goes to the launcher."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root.kill()
            self.root_was_killed = True

    def _freeze(self) -> list[psutil.Process]:
        frozen: dict[int, psutil.Process] = {}
        for _ in range(_FREEZE_ROUNDS):
            fresh = [process for process in self.members() if process.pid not in frozen]
            if not fresh:
                break
            frozen.update((process.pid, process) for process in self._signal(fresh, signal.SIGSTOP))
        return list(frozen.values())

    def _signal(self, processes: list[psutil.Process], number: signal.Signals) -> list[psutil.Process]:
        """Signal processes, then their process groups: one call per group, which no fork in the group can race with.

        Every group below the root is the run's own, because the agent was started in a session of its own.

        Returns:
            The processes that were there to be signaled.
        """
        reached = []
        groups = set()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(number)
                reached.append(process)
                if os.getsid(process.pid) != self._root.pid:
                    groups.add(os.getpgid(process.pid))
        for group in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
        return reached


class NamespaceTree(ProcessTree):
    """A tree whose root is process 1 of a pid namespace: the kernel kills all of it with the root, whatever it does.

    Source: pid_namespaces(7).
    """

    def __init__(self, root_pid: int, kill_switches: Sequence[int] = (), members_file: str | None = None) -> None:
        """See ProcessTree.

        Args:
            kill_switches: see STARTED in runner.protocol: one or none.
            members_file: path of the file in which its control group lists its processes, the root too, if it has one.
        """
        super().__init__(root_pid)
        self._kill_switches = kill_switches
        self._members_file = members_file
        self._rounds = 0

    def kill(self) -> int:
        """Kill the members, so that the root can tell of them; after some rounds kill the root, and all with it."""
        self._rounds += 1
        if self._rounds <= _ROUNDS_WITHOUT_ROOT:
            return super().kill()
        members = self.members()
        self.killed.update(process.pid for process in members)
        self.kill_root()
        return len(members)

    def members(self) -> list[psutil.Process]:
        """See ProcessTree. The group's list saves a look at all processes of the machine, which many runs make dear."""
        try:
            with open(self._members_file or "") as file:
                family = set(map(int, file))
        except OSError:
            return super().members()
        if not self._root.is_running():  # the list may be that of another group with this name
            return []
        return [process for pid in sorted(family - {self._root.pid}) if (process := _member(pid, family))]

    def kill_root(self) -> None:
        """Kill the init and, by its control group too, all that is below it."""
        for descriptor in self._kill_switches:
            # The group is removed as soon as it is empty.
            with contextlib.suppress(OSError):
                os.write(descriptor, b"1")
        super().kill_root()


class AdoptedProcesses:
    """Children of this process that it did not start: what is left of runs whose launcher has died."""

    def __init__(self) -> None:
        self._self = psutil.Process()

    def kill(self, our_own: set[int]) -> int:
        """Kill them with all that is below them, reap what has ended, and return how many there still were.

        Args:
            our_own: pids of the children that this process did start.
        """
        adopted = [child for child in self._self.children() if child.pid not in our_own]
        for child in adopted:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [*child.children(recursive=True), child]:
                    process.kill()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)
        return len(adopted)


def _member(pid: int, family: Set[int]) -> psutil.Process | None:
    """Return a process of a group that lives; None if it has ended, and a stranger may have got its pid.

    Its parent is asked for after psutil has noted its start time: a stranger's is not of the family, which has the
    parent of all others, the root.
    """
    try:
        process = psutil.Process(pid)
        return process if process.ppid() in family and _lives(process) else None
    except psutil.NoSuchProcess:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
