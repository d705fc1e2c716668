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
from supervisor.logs import LogBook
from supervisor.machine import outcome
from supervisor.machine.collector import Collector
from supervisor.machine.launcher import Launcher
from supervisor.machine.memo import Memo
from supervisor.machine.pipes import open_all
from supervisor.machine.predecessor import kill
from supervisor.machine.progress import ProgressGate
from supervisor.machine.reactor import Reactor
from supervisor.machine.run import Run
from supervisor.machine.spec import launch_request, run_spec
from supervisor.machine.stopper import STUCK_SECONDS, Reason, Stopper
from supervisor.machine.sweeper import Sweeper
from supervisor.machine.tree_limits import TreeLimits
from supervisor.models import Claim, Finished, Progress, Unkillable, Usage
from supervisor.states import Cause

Message = Progress | Unkillable | Finished
Key = tuple[str, int]


_log = structlog.get_logger()


class Machine:
    """All live runs of this machine."""

    def __init__(
        self,
        data: Path,
        orphan_seconds: float,
        our_pids: Callable[[], set[int]],
        logs: LogBook,
        collector: Collector,
        on_no_sandbox: Callable[[], None],
        reactor: Reactor,
        clock: Clock,
        accepted: Sequence[str] = (),
    ) -> None:
        """Prepare; take_over() or launcher.start() is next.

        Args:
            data, orphan_seconds, accepted: see Launcher.
            our_pids: the server's own processes, which are never taken for left-overs of a run.
            logs: takes what agents print. collector: is given what each run leaves.
            on_no_sandbox: called for each run that could not have its sandbox.
        """
        self._logs = logs
        self._collector = collector
        self._on_no_sandbox = on_no_sandbox
        self._reactor = reactor
        self._clock = clock
        self._runs: dict[Key, Run] = {}
        self._messages: list[Message] = []
        self._live: dict[Key, int] = {}
        self._taken: list[Memo] = []
        self._sweeper = Sweeper(our_pids, self._on_swept, self._on_stuck, reactor, clock)
        self._limits = TreeLimits(self._on_cpu_time, self._on_memory, reactor, clock)
        self._events = {
            protocol.STARTED: self._on_started,
            protocol.ISOLATED: self._on_isolated,
            protocol.EXITED: self._on_exited,
            protocol.GONE: self._on_gone,
        }
        self.launcher = Launcher(
            data, orphan_seconds, self._on_event, self._on_launcher_death, reactor, clock, accepted
        )

    @property
    def ready(self) -> bool:
        """Whether a start can be carried out now."""
        return self.launcher.connected

    @property
    def launcher_name(self) -> str | None:
        """What tells the launcher of now from all others."""
        return self.launcher.name

    def take_over(self, live: dict[Key, int]) -> list[Memo]:
        """Take the runs of a launcher that a predecessor has left, if there is one, and return them.

        Their ends, also those that were before, come as messages.

        Args:
            live: the attempts that are live in the database, with the progress_offset of each. Other runs are stopped.
        """
        self._live, self._taken = live, []
        self.launcher.take_over()
        return self._taken

    def start(self, claim: Claim, agent: Agent) -> None:
        """Launch an attempt; its end comes as a message, also when it cannot be launched."""
        memo = Memo.of(claim, agent, self._clock.monotonic())
        if memo.key in self._runs:
            return
        deadline = self._clock.now() / MICROSECONDS + memo.limits.timeout_seconds
        try:
            theirs, kept = open_all(run_spec(claim, agent, deadline), claim.payload)
        except OSError as error:
            failed = outcome.launch_failed(f"cannot open its pipes: {error.strerror}", self._clock.now())
            self._messages.append(Finished(*memo.key, failed))
            return
        self.launcher.launch(memo.name, launch_request(agent), memo.to_json(), theirs + kept)
        protocol.close_all(theirs)
        self._watch(self._new_run(memo, kept))

    def _new_run(self, memo: Memo, kept: list[int]) -> Run:
        gate = ProgressGate(partial(self._tell_progress, memo.key), self._reactor, self._clock)
        self._logs.open(*memo.key, memo.limits.log_bytes)
        run = self._runs[memo.key] = Run(memo, kept, gate, self._logs)
        return run

    def _watch(self, run: Run) -> None:
        due = run.memo.began + run.memo.limits.timeout_seconds
        run.deadline = self._reactor.call_at(due, partial(self._on_deadline, run))
        for stream, descriptor in run.readers.items():
            self._reactor.watch(descriptor, partial(self._on_readable, run, stream))

    def stop(self, execution_id: str, attempt: int, reason: Reason, grace_seconds: float | None = None) -> None:
        """Take a run down the stop ladder. The first reason stands; one that has ended is left alone.

        Args:
            grace_seconds: from SIGTERM to SIGKILL; None for the agent's own.
        """
        run = self._runs.get((execution_id, attempt))
        if run and run.memo.stop is None:
            self._begin_stop(run, reason, run.memo.grace_seconds if grace_seconds is None else grace_seconds)

    def stop_all(self, reason: Reason, longest_grace_seconds: float) -> None:
        """Stop every run, with its own grace period where that is shorter; those being stopped are hurried."""
        for run in list(self._runs.values()):
            grace = min(run.memo.grace_seconds, longest_grace_seconds)
            if run.memo.stop is None:
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
        key = execution_id, int(attempt)
        if event["event"] == protocol.HELD and key in self._live:
            self._adopt(key, event, descriptors)
        elif key in self._runs:
            self._events[event["event"]](self._runs[key], event, descriptors)
        else:
            self._on_event_of_stranger(event, descriptors)

    def _on_event_of_stranger(self, event: dict[str, Any], descriptors: list[int]) -> None:
        """A predecessor has launched it, and it is not live in the database: it is ended, or only to be released."""
        if event["event"] == protocol.STARTED:
            kill(descriptors[0])
        elif event["event"] == protocol.GONE:
            self.launcher.release(event["run"])
        protocol.close_all(descriptors)

    def _adopt(self, key: Key, event: dict[str, Any], descriptors: list[int]) -> None:
        """Take over what a predecessor has launched. What else there is to be told of it comes next."""
        memo = Memo.from_json(event["memo"])
        self._taken.append(memo)
        run = self._new_run(memo, descriptors)
        run.stop_grace_seconds = memo.grace_seconds
        run.cpu_seconds_before = event["cpu_seconds_before"]
        run.catch_up(self._live[key])
        self._watch(run)

    def _on_started(self, run: Run, event: dict[str, Any], descriptors: list[int]) -> None:
        """It has an init; another one if the first has died before the agent was started."""
        if run.stopper:
            run.stopper.end()
            run.stopper = None
        run.be_at(event["pid"], *descriptors)
        if run.tier == profile.TRUSTED and not run.cpu_watch:
            self._limits.begin(run, cpu_file=None)
        if run.memo.stop:
            self._begin_ladder(run)

    def _on_isolated(self, run: Run, event: dict[str, Any], _descriptors: list[int]) -> None:
        run.layers, run.cpu_file = tuple(event["layers"]), event["cpu_file"]
        if run.pid is not None:  # else it was taken over when its init had ended
            self._limits.begin(run, run.cpu_file)

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
        at = event["at"]
        self._finish(run, Usage(round(at - run.memo.began, 6), **used), at, event["status"], event["error"])

    def _on_launcher_death(self) -> None:
        """The kernel has killed each run's init and agent; what they left behind is ours now, and is killed first."""
        for run in self._runs.values():
            if run.stopper:
                run.stopper.end()
        self._sweeper.take(list(self._runs.values()), self.launcher.foreign_name)

    def _on_swept(self, run: Run) -> None:
        self._finish(run, Usage(self._wall_seconds(run)), lost=True)

    # -- what the agent says -----------------------------------------------------------------------------------------

    def _on_readable(self, run: Run, stream: str) -> None:
        data = run.take(stream)
        if data:
            run.hear(stream, data)
        elif data is not None:
            self._reactor.forget(run.readers[stream])
        if run.channel.fault and run.memo.stop is None:
            self._begin_stop(run, run.channel.fault, run.memo.grace_seconds)

    def _tell_progress(self, key: Key, text: str, offset: int) -> None:
        self._messages.append(Progress(*key, text, offset))

    # -- limits that the kernel does not hold ------------------------------------------------------------------------

    def _on_cpu_time(self, run: Run, used: float) -> None:
        self.stop(*run.memo.key, outcome.over_cpu_time(run.memo.limits.cpu_seconds, used))

    def _on_memory(self, run: Run, used: int) -> None:
        """It is killed at once: a grace period would be time to take still more."""
        if run.stopper:
            run.stopper.hurry(0)
            return
        stopper = self._new_stopper(run)
        if stopper:
            if run.memo.stop is None:
                self._note_stop(run, outcome.over_memory(run.memo.limits.memory_bytes, used))
            stopper.kill()

    # -- the end -----------------------------------------------------------------------------------------------------

    def _on_deadline(self, run: Run) -> None:
        used = self._wall_seconds(run)
        self.stop(*run.memo.key, outcome.over_wall_time(run.memo.limits.timeout_seconds, used))

    def _begin_stop(self, run: Run, reason: Reason, grace_seconds: float) -> None:
        self._note_stop(run, reason)
        run.stop_grace_seconds = grace_seconds
        if run.pid is not None and not run.stopper:
            self._begin_ladder(run)

    def _note_stop(self, run: Run, reason: Reason) -> None:
        """Have it known, also by whoever takes over, before the first signal."""
        run.memo = run.memo.stopped(reason, run.channel.result is not None)
        self.launcher.note(run.name, run.memo.to_json())

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
        self._messages.append(Unkillable(*run.memo.key, self._clock.now()))

    def _finish(
        self,
        run: Run,
        usage: Usage,
        at: float | None = None,
        status: int | None = None,
        launch_error: str | None = None,
        lost: bool = False,
    ) -> None:
        """Tell of the end. Args: at: when, on the monotonic clock; None for now. The others: see outcome.Ending."""
        if run.stopper:
            run.stopper.end()
        for timer in (run.deadline, run.patience):
            if timer:
                timer.cancel()
        self._limits.end(run)
        for descriptor in run.readers.values():
            self._reactor.forget(descriptor)
        run.drain()
        self._logs.close(*run.memo.key)
        ago = self._clock.monotonic() - at if at else 0.0
        seen = run.ending(self._clock.now() - int(ago * MICROSECONDS), usage, status, launch_error, lost)
        run.close()
        del self._runs[run.memo.key]
        ended = outcome.decide(seen)
        if ended.termination.code is Cause.SANDBOX_UNAVAILABLE:
            self._on_no_sandbox()
        finished = Finished(*run.memo.key, ended)
        # An execution that has ended has its files.
        self._collector.collect(run.work, finished.execution_id, finished.attempt, partial(self._tell, finished))

    def _tell(self, message: Message) -> None:
        self._messages.append(message)

    def _wall_seconds(self, run: Run) -> float:
        return round(self._clock.monotonic() - run.memo.began, 6)
