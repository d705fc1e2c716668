"""One live run: its descriptors, and what has been read from them so far."""

import fcntl
import json
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from runner.profile import TRUSTED
from runner.protocol import AGENT_ENDS, close_all
from supervisor.agents import Agent
from supervisor.machine.cpu_watch import CpuWatch
from supervisor.machine.frames import FrameReader, WholeOutput
from supervisor.machine.process_tree import NamespaceTree, ProcessTree
from supervisor.machine.progress import ProgressGate
from supervisor.machine.reactor import Timer
from supervisor.machine.stopper import Reason, Stopper
from supervisor.models import Claim

# Read at once from one pipe: little enough that a run that floods does not keep the loop from the others.
_READ_BYTES = 16_384

# At the end of a run its pipes are emptied; a pipe holds at most what an agent may set with F_SETPIPE_SZ.
_DRAIN_BYTES = 4 << 20

_PIPES = ("stdout", "stderr", "result")

_STDERR_TAIL_BYTES = 4096


class Run:
    """What the machine knows of one attempt from its launch to its end."""

    def __init__(self, claim: Claim, agent: Agent, spec: dict[str, Any], began: float, progress: ProgressGate) -> None:
        """Create the pipes.

        Args:
            spec: what the process that becomes the agent is told (runner.protocol). began: monotonic seconds.
        Raises:
            OSError: the host has no more descriptors.
        """
        self.claim = claim
        self.agent = agent
        self.began = began
        self.progress = progress
        self.layers: tuple[str, ...] = ()
        self.left_behind = 0
        self.counted: dict[str, int] = {}
        self.cpu_file: str | None = None
        self.cpu_watch: CpuWatch | None = None
        self.pid: int | None = None
        self.pidfd = -1
        self.work: int | None = None
        self.kill_switches: list[int] = []
        self.deadline: Timer | None = None
        self.patience: Timer | None = None
        self.stop_reason: Reason | None = None
        self.stop_grace_seconds = 0.0
        self.stopper: Stopper | None = None
        self.done_before_stop = False
        self.stderr_tail = bytearray()
        limit = agent.limits.result_bytes
        self.channel = WholeOutput(limit) if agent.manifest.result == "stdout" else FrameReader(limit)
        self.readers: dict[str, int] = {}
        self._writers: dict[str, int] = {}
        try:
            self._open_pipes(json.dumps(spec).encode())
        except OSError:
            self.close()
            raise

    @property
    def name(self) -> str:
        """What the launcher calls it."""
        return f"{self.claim.execution_id}.{self.claim.attempt}"

    @property
    def tier(self) -> str:
        return self.agent.manifest.sandbox.tier

    @property
    def result_stream(self) -> str:
        """The stream that carries the result."""
        return self.agent.manifest.result if self.agent.manifest.result == "stdout" else "result"

    def descriptors(self) -> list[int]:
        """Return what the launcher is sent, in the order of runner.protocol.DESCRIPTORS."""
        writers = [self._writers[name] for name in AGENT_ENDS]
        return writers + [self.readers[name] for name in _PIPES]

    def hand_over(self) -> None:
        """Close the agent's ends, which the launcher has now."""
        close_all(self._writers.values())
        self._writers.clear()

    def read(self, stream: str) -> bytes | None:
        """Return what one pipe holds, b"" at its end, None when there is nothing now."""
        try:
            return os.read(self.readers[stream], _READ_BYTES)
        except BlockingIOError:
            return None

    def drain(self, take: Callable[[str, bytes], None]) -> None:
        """Hand over all that is still in the pipes. Nobody writes any more, so this ends."""
        for stream in self.readers:
            left = _DRAIN_BYTES
            while left > 0 and (data := self.read(stream)):
                take(stream, data)
                left -= len(data)

    def keep_stderr(self, data: bytes) -> None:
        """Remember the end of stderr."""
        self.stderr_tail += data
        del self.stderr_tail[:-_STDERR_TAIL_BYTES]

    def be_at(self, pid: int, pidfd: int, *kill_switches: int) -> None:
        """Take the init that it has now. Args: pidfd, kill_switches: see STARTED; owned by the run from now on."""
        self._let_go_of_init()
        self.pid, self.pidfd, self.kill_switches = pid, pidfd, list(kill_switches)
        self.cpu_file = None

    def tree(self) -> ProcessTree | None:
        """Return its processes; None when it has not started or its init has ended.

        The pidfd tells a live init from a stranger that has got its pid: it is looked at after psutil has noted the
        start time of whatever has the pid.
        """
        if self.pid is None:
            return None
        try:
            tree = ProcessTree(self.pid) if self.tier == TRUSTED else self._namespace_tree(self.pid)
        except psutil.NoSuchProcess:
            return None
        return None if _is_readable(self.pidfd) else tree

    def _namespace_tree(self, pid: int) -> NamespaceTree:
        members_file = str(Path(self.cpu_file).with_name("cgroup.procs")) if self.cpu_file else None
        return NamespaceTree(pid, self.kill_switches, members_file)

    def namespace_is_gone(self) -> bool:
        """Tell whether nothing of it can live because process 1 of its namespace has ended; see NamespaceTree."""
        return self.tier != TRUSTED and self.pidfd >= 0 and _is_readable(self.pidfd)

    def close(self) -> None:
        """Close every descriptor."""
        self.hand_over()
        close_all(self.readers.values())
        self.readers.clear()
        self._let_go_of_init()

    def _let_go_of_init(self) -> None:
        close_all(self.kill_switches)
        self.kill_switches = []
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _open_pipes(self, spec: bytes) -> None:
        self._writers["spec"] = _memory_file(spec)
        self._writers["stdin"] = _memory_file(self.claim.payload.encode())
        for stream in _PIPES:
            self.readers[stream], self._writers[stream] = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.readers[stream], False)


def _memory_file(data: bytes) -> int:
    """Return a sealed memory file, open at its start: unlike a pipe it takes any data at once, whoever reads when.

    Source: memfd_create(2), fcntl(2) "File Sealing".
    """
    descriptor = os.memfd_create("corral", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_readable(descriptor: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))
