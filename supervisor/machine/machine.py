"""Runs on this machine: start and stop in; progress, log and finished out.

An order names its execution and attempt; a repeated one, or one for a run that has ended, changes nothing. Nothing is
decided here about the execution: this side tells what became of the attempt, the head decides what that means.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from runner import profile, protocol
from supervisor.agents import Agent
from supervisor.clock import MICROSECONDS, Clock
from supervisor.machine import layers, outcome
from supervisor.machine.collector import Collector
from supervisor.machine.cpu_watch import CpuWatch
from supervisor.machine.launcher import Launcher
from supervisor.machine.memory_watch import MemoryWatch
from supervisor.machine.progress import ProgressGate
from supervisor.machine.reactor import Reactor
from supervisor.machine.run import Run
from supervisor.machine.spec import launch_request, run_spec
from supervisor.machine.stopper import STUCK_SECONDS, Reason, Stopper
from supervisor.machine.sweeper import Sweeper
from supervisor.models import Claim, Finished, Log, Progress, Unkillable, Usage
from supervisor.states import Cause

Message = Progress | Log | Unkillable | Finished


_log = structlog.get_logger()


class Machine:
    """All live runs of this machine."""

    def __init__(
        self,
        data: Path,
        lock: int,
        our_pids: Callable[[], set[int]],
        collector: Collector,
        on_no_sandbox: Callable[[], None],
        reactor: Reactor,
        clock: Clock,
        accepted: Sequence[str] = (),
    ) -> None:
        """Prepare; open() starts the launcher.

        Args:
            data, lock, accepted: see Launcher.
            our_pids: the server's own processes, which are never taken for left-overs of a run.
            collector: is given what each run leaves.
            on_no_sandbox: called for each run that could not have its sandbox.
        """
        self._collector = collector
        self._on_no_sandbox = on_no_sandbox
        self._reactor = reactor
        self._clock = clock
        self._runs: dict[tuple[str, int], Run] = {}
        self._messages: list[Message] = []
        self._sweeper = Sweeper(our_pids, self._on_swept, self._on_stuck, reactor, clock)
        self._memory_watch = MemoryWatch(reactor, clock)
        self._events = {
            protocol.STARTED: self._on_started,
            protocol.ISOLATED: self._on_isolated,
            protocol.EXITED: self._on_exited,
            protocol.GONE: self._on_gone,
        }
        self.launcher = Launcher(data, lock, self._on_event, self._on_launcher_death, reactor, clock, accepted)

    @property
    def ready(self) -> bool:
        """Whether a start can be carried out now."""
        return self.launcher.connected

    def start(self, claim: Claim, agent: Agent) -> None:
        """Launch an attempt; its end comes as a message, also when it cannot be launched."""
        now = self._clock.monotonic()
        key = (claim.execution_id, claim.attempt)
        if key in self._runs:
            return
        try:
            gate = ProgressGate(partial(self._tell_progress, claim), self._reactor, self._clock)
            timeout = agent.limits.timeout_seconds
            spec = run_spec(claim, agent, deadline=self._clock.now() / MICROSECONDS + timeout)
            run = Run(claim, agent, spec, now, gate)
        except OSError as error:
            failed = outcome.launch_failed(f"cannot open its pipes: {error.strerror}", self._clock.now())
            self._messages.append(Finished(claim.execution_id, claim.attempt, failed))
            return
        self._runs[key] = run
        self.launcher.launch(run.name, launch_request(agent), run.descriptors())
        run.hand_over()
        run.deadline = self._reactor.call_at(now + timeout, partial(self._on_deadline, run))
        for stream, descriptor in run.readers.items():
            self._reactor.watch(descriptor, partial(self._on_readable, run, stream))

    def stop(self, execution_id: str, attempt: int, reason: Reason, grace_seconds: float | None = None) -> None:
        """Take a run down the stop ladder. The first reason stands; one that has ended is left alone.

        Args:
            grace_seconds: from SIGTERM to SIGKILL; None for the agent's own.
        """
        run = self._runs.get((execution_id, attempt))
        if run and run.stop_reason is None:
            grace = run.agent.manifest.grace_seconds if grace_seconds is None else grace_seconds
            self._begin_stop(run, reason, grace)

    def stop_all(self, reason: Reason, longest_grace_seconds: float) -> None:
        """Stop every run, with its own grace period where that is shorter; those being stopped are hurried."""
        for run in list(self._runs.values()):
            grace = min(run.agent.manifest.grace_seconds, longest_grace_seconds)
            if run.stop_reason is None:
                self._begin_stop(run, reason, grace)
            elif run.stopper:
                run.stopper.hurry(grace)

    def release(self, execution_id: str, attempt: int) -> None:
        """Forget an attempt whose end is recorded."""
        self.launcher.release(f"{execution_id}.{attempt}")

    def take_messages(self) -> list[Message]:
        """Return what has happened since the last call, in order."""
        messages, self._messages = self._messages, []
        return messages

    # -- what the launcher tells -------------------------------------------------------------------------------------

    def _on_event(self, event: dict[str, Any], descriptors: list[int]) -> None:
        execution_id, _, attempt = event["run"].rpartition(".")
        run = self._runs.get((execution_id, int(attempt)))
        if run is None:
            protocol.close_all(descriptors)
            return
        self._events[event["event"]](run, event, descriptors)

    def _on_started(self, run: Run, event: dict[str, Any], descriptors: list[int]) -> None:
        """It has an init; another one if the first has died before the agent was started."""
        if run.stopper:
            run.stopper.end()
            run.stopper = None
        run.be_at(event["pid"], *descriptors)
        if run.tier == profile.TRUSTED and not run.cpu_watch:
            self._watch_limits(run, cpu_file=None)
        if run.stop_reason:
            self._begin_ladder(run)

    def _on_isolated(self, run: Run, event: dict[str, Any], _descriptors: list[int]) -> None:
        run.layers, run.cpu_file = tuple(event["layers"]), event["cpu_file"]
        self._watch_limits(run, run.cpu_file)

    def _on_exited(self, run: Run, _event: dict[str, Any], _descriptors: list[int]) -> None:
        """The agent has ended by itself and left processes behind: nothing of a run may outlive it."""
        if not run.stopper:
            stopper = self._new_stopper(run)
            if stopper:
                stopper.kill()

    def _on_gone(self, run: Run, event: dict[str, Any], descriptors: list[int]) -> None:
        used = event["usage"] or {}
        run.work = descriptors[0] if descriptors else None
        run.left_behind, run.counted = event["left_behind"], event["counted"]
        self._finish(run, Usage(self._wall_seconds(run), **used), status=event["status"], launch_error=event["error"])

    def _on_launcher_death(self) -> None:
        """The kernel has killed each run's init and agent; what they left behind is ours now, and is killed first."""
        for run in self._runs.values():
            if run.stopper:
                run.stopper.end()
        self._sweeper.take(list(self._runs.values()))

    def _on_swept(self, run: Run) -> None:
        self._finish(run, Usage(self._wall_seconds(run)), lost=True)

    # -- what the agent says -----------------------------------------------------------------------------------------

    def _on_readable(self, run: Run, stream: str) -> None:
        data = run.read(stream)
        if data:
            self._take(run, stream, data)
        elif data is not None:
            self._reactor.forget(run.readers[stream])
        if run.channel.fault and run.stop_reason is None:
            self._begin_stop(run, run.channel.fault, run.agent.manifest.grace_seconds)

    def _take(self, run: Run, stream: str, data: bytes) -> None:
        if stream != "result":
            self._messages.append(Log(run.claim.execution_id, run.claim.attempt, stream, data))
        if stream == "stderr":
            run.keep_stderr(data)
        if stream == run.result_stream:
            for text in run.channel.feed(data):
                run.progress.offer(text)

    def _tell_progress(self, claim: Claim, text: str) -> None:
        self._messages.append(Progress(claim.execution_id, claim.attempt, text))

    # -- limits that the kernel does not hold ------------------------------------------------------------------------

    def _watch_limits(self, run: Run, cpu_file: str | None) -> None:
        assert run.pid is not None
        limits = run.agent.limits
        on_over = partial(self._on_cpu_time, run, limits.cpu_seconds)
        run.cpu_watch = CpuWatch(run.pid, cpu_file, limits.cpu_seconds, on_over, self._reactor, self._clock)
        # Not of trusted runs: most wait for somebody else, and would be looked at all the while.
        if run.tier != profile.TRUSTED and layers.CGROUP not in run.layers:
            on_too_much = partial(self._on_memory, run, limits.memory_bytes)
            self._memory_watch.begin(run.name, run.pid, limits.memory_bytes, on_too_much)

    def _on_cpu_time(self, run: Run, limit: float, used: float) -> None:
        self.stop(run.claim.execution_id, run.claim.attempt, outcome.over_cpu_time(limit, used))

    def _on_memory(self, run: Run, limit: int, used: int) -> None:
        """It is killed at once: a grace period would be time to take still more."""
        if run.stopper:
            run.stopper.hurry(0)
            return
        stopper = self._new_stopper(run)
        if stopper:
            run.stop_reason = run.stop_reason or outcome.over_memory(limit, used)
            stopper.kill()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _on_deadline(self, run: Run) -> None:
        limit = run.agent.limits.timeout_seconds
        reason = Reason(
            Cause.WALL_TIME,
            f"It ran longer than its limit of {limit:g} seconds.",
            "limit",
            {"timeout_seconds": limit},
            {"wall_seconds": self._wall_seconds(run)},
        )
        self.stop(run.claim.execution_id, run.claim.attempt, reason)

    def _begin_stop(self, run: Run, reason: Reason, grace_seconds: float) -> None:
        run.stop_reason = reason
        run.stop_grace_seconds = grace_seconds
        run.done_before_stop = run.channel.result is not None
        if run.pid is not None and not run.stopper:
            self._begin_ladder(run)

    def _begin_ladder(self, run: Run) -> None:
        stopper = self._new_stopper(run)
        if stopper:
            stopper.terminate(run.stop_grace_seconds)

    def _new_stopper(self, run: Run) -> Stopper | None:
        """Return what stops this run, or None when its init has ended and the launcher is about to say so."""
        tree = run.tree()
        if tree:
            run.stopper = Stopper(tree, self._reactor, self._clock, partial(self._on_stuck, run))
        elif not run.patience:
            due = self._clock.monotonic() + STUCK_SECONDS
            run.patience = self._reactor.call_at(due, partial(self._on_stuck, run))
        return run.stopper

    def _on_stuck(self, run: Run) -> None:
        """It cannot be killed now. It stays live and keeps its slot until it is gone."""
        _log.error("processes survive SIGKILL", run=run.name)
        self._messages.append(Unkillable(run.claim.execution_id, run.claim.attempt, self._clock.now()))

    def _finish(
        self, run: Run, usage: Usage, status: int | None = None, launch_error: str | None = None, lost: bool = False
    ) -> None:
        if run.stopper:
            run.stopper.end()
        for timer in (run.deadline, run.patience):
            if timer:
                timer.cancel()
        if run.cpu_watch:
            run.cpu_watch.end()
        self._memory_watch.end(run.name)
        for descriptor in run.readers.values():
            self._reactor.forget(descriptor)
        run.drain(partial(self._take, run))
        # What broke the rules ends the run, also when the agent was quicker to exit than this side to read.
        run.stop_reason = run.stop_reason or run.channel.fault
        run.channel.finish()
        run.progress.end()
        seen = outcome.Ending(
            at=self._clock.now(),
            usage=usage,
            isolation=layers.isolation(run.tier, run.layers, run.agent.limits),
            limits=run.agent.limits.model_dump(),
            isolated=run.tier == profile.TRUSTED or bool(run.layers),
            counted=run.counted,
            left_behind=run.left_behind,
            stderr_tail=run.stderr_tail.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}"),
            result=run.channel.result,
            error=run.channel.error,
            exhausted=run.channel.exhausted,
            fault=run.channel.fault,
            stop=run.stop_reason,
            done_before_stop=run.done_before_stop,
            kill=run.stopper.certificate() if run.stopper else None,
            lost=lost,
            launch_error=launch_error,
            status=status,
        )
        run.close()
        del self._runs[run.claim.execution_id, run.claim.attempt]
        ended = outcome.decide(seen)
        if ended.termination.code is Cause.SANDBOX_UNAVAILABLE:
            self._on_no_sandbox()
        finished = Finished(run.claim.execution_id, run.claim.attempt, ended)
        # An execution that has ended has its files.
        self._collector.collect(run.work, finished.execution_id, finished.attempt, partial(self._tell, finished))

    def _tell(self, message: Message) -> None:
        self._messages.append(message)

    def _wall_seconds(self, run: Run) -> float:
        return round(self._clock.monotonic() - run.began, 6)
