"""One live run: its descriptors, and what has been read from them so far."""

import os
import select
from functools import partial
from pathlib import Path

import psutil

from runner.profile import TRUSTED
from runner.protocol import close_all
from supervisor.logs import LogBook
from supervisor.machine import layers
from supervisor.machine.cpu_watch import CpuWatch
from supervisor.machine.frames import FrameReader, WholeOutput
from supervisor.machine.intake import HEADER_BYTES, KeptPipe, LoggedPipe, Pipe, UselessPipe
from supervisor.machine.memo import Memo
from supervisor.machine.outcome import Ending
from supervisor.machine.process_tree import NamespaceTree, ProcessTree
from supervisor.machine.progress import ProgressGate
from supervisor.machine.reactor import Timer
from supervisor.machine.stopper import Stopper
from supervisor.models import Usage

# At the end of a run its pipes are emptied; a pipe holds at most what an agent may set with F_SETPIPE_SZ.
_DRAIN_BYTES = 4 << 20

_PIPES = ("stdout", "stderr", "result")

_STDERR_TAIL_BYTES = 4096


class Run:
    """What the machine knows of one attempt from its launch, or from when it was taken over, to its end."""

    def __init__(self, memo: Memo, kept: list[int], progress: ProgressGate, logs: LogBook) -> None:
        """Begin to know it.

        Args:
            kept: the descriptors of runner.protocol.KEPT_ENDS, owned by the run from now on.
            logs: of which its log is open.
        """
        self.memo = memo
        self.progress = progress
        self.progress_offset = 0
        self.layers: tuple[str, ...] = ()
        self.left_behind = 0
        self.counted: dict[str, int] = {}
        self.cpu_file: str | None = None
        self.cpu_watch: CpuWatch | None = None
        self.cpu_seconds_before: float | None = None
        self.pid: int | None = None
        self.pidfd = -1
        self.work: int | None = None
        self.kill_switches: list[int] = []
        self.deadline: Timer | None = None
        self.patience: Timer | None = None
        self.stopper: Stopper | None = None
        self.stop_grace_seconds = 0.0
        self._stderr_tail = bytearray()
        *readers, self._memory = kept
        self.readers = dict(zip(_PIPES, readers, strict=True))
        self._logs = logs
        self._pipes: dict[str, Pipe] = {stream: self._without_result(stream) for stream in _PIPES}
        self._kept = KeptPipe(self.readers[self.result_stream], self._memory, self._log if self._is_printed else None)
        self._pipes[self.result_stream] = self._kept
        limit, begin = memo.limits.result_bytes, self._kept.begin
        self.channel = WholeOutput(limit, begin) if self._is_printed else FrameReader(limit, begin)

    @property
    def name(self) -> str:
        """What the launcher calls it."""
        return self.memo.name

    @property
    def tier(self) -> str:
        return self.memo.tier

    @property
    def result_stream(self) -> str:
        """The stream that carries the result."""
        return "stdout" if self._is_printed else "result"

    @property
    def _is_printed(self) -> bool:
        """Whether the result is what the agent prints."""
        return self.memo.result == "stdout"

    def take(self, stream: str) -> bytes | None:
        """Return what has come through one pipe, b"" at its end, None when there is nothing now."""
        return self._pipes[stream].take()

    def drain(self) -> None:
        """Take in all that is still in the pipes. Nobody writes any more, so this ends."""
        for stream in self.readers:
            left = _DRAIN_BYTES
            while left > 0 and (data := self.take(stream)):
                self.hear(stream, data)
                left -= len(data)

    def hear(self, stream: str, data: bytes) -> None:
        """Look at what has come through a pipe."""
        if stream == "stderr":
            self._keep_stderr(data)
        if stream == self.result_stream:
            self._listen(data)

    def _listen(self, data: bytes) -> None:
        for text, offset in self.channel.feed(data):
            if offset > self.progress_offset:
                self.progress.offer(text, offset)
        self._kept.forget_before(self.channel.settled)
        if self.channel.fault:
            self._pipes[self.result_stream] = self._without_result(self.result_stream)

    def catch_up(self, progress_offset: int) -> None:
        """Look at all that was said so far. Args: progress_offset: see models.LiveAttempt."""
        self.progress_offset = progress_offset
        key = self.memo.key
        self._keep_stderr(self._logs.tail(*key, "stderr", _STDERR_TAIL_BYTES))
        unlogged = HEADER_BYTES + self._logs.size(*key, "stdout")
        for offset, data in self._kept.backlog():
            if self._is_printed:
                self._log(data[max(0, unlogged - offset) :])
            self._listen(data)

    def _log(self, data: bytes) -> None:
        self._logs.append(*self.memo.key, "stdout", data)

    def _without_result(self, stream: str) -> Pipe:
        """Return a pipe of which nobody expects a result, or none any more."""
        if stream == "result":
            return UselessPipe(self.readers[stream])
        return LoggedPipe(self.readers[stream], partial(self._logs.splice, *self.memo.key, stream))

    def _keep_stderr(self, data: bytes) -> None:
        self._stderr_tail += data
        del self._stderr_tail[:-_STDERR_TAIL_BYTES]

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

    def ending(self, at: int, usage: Usage, status: int | None, launch_error: str | None, lost: bool) -> Ending:
        """Return what was seen of it, when nothing of it lives and its pipes are empty. Args: see Ending."""
        # What broke the rules ends the run, also when the agent was quicker to exit than this side to read.
        stop = self.memo.stop or self.channel.fault
        self.channel.finish()
        self.progress.end()
        return Ending(
            at=at,
            usage=usage,
            isolation=layers.isolation(self.tier, self.layers, self.memo.limits),
            limits=self.memo.limits.model_dump(),
            isolated=self.tier == TRUSTED or bool(self.layers),
            counted=self.counted,
            left_behind=self.left_behind,
            stderr_tail=self._stderr_tail.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            result=self.channel.result,
            error=self.channel.error,
            exhausted=self.channel.exhausted,
            fault=self.channel.fault,
            stop=stop,
            done_before_stop=self.memo.done_before_stop,
            kill=self.stopper.certificate() if self.stopper else None,
            lost=lost,
            launch_error=launch_error,
            status=status,
        )

    def close(self) -> None:
        """Close every descriptor."""
        close_all((*self.readers.values(), self._memory))
        self.readers.clear()
        self._let_go_of_init()

    def _let_go_of_init(self) -> None:
        close_all(self.kill_switches)
        self.kill_switches = []
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _is_readable(descriptor: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))
