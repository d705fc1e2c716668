"""The launcher: has every run forked, holds its descriptors, and tells the supervisor how it ended.

Started by a supervisor (runner/start.py), but in a session of its own; it outlives it. It is small and has one thread,
because every run is a fork of it: what it imports or opens, every run pays for and could see. It holds no secret and
parses nothing that an agent wrote.

Three kinds of peers:
  supervisor   one at a time, over the listening Unix socket it was given (runner.supervisors); messages in
               runner.protocol
  inits        children (runner.init, runner.sandboxed); each runs one agent at a time and says when it is over
  strays       orphans of a run at tier "trusted" whose init was killed: this process is a subreaper, so they come
               here and are killed

For each run it keeps the reading ends of the agent's pipes, the work directory, the init, and what there was to tell,
until a supervisor releases the run: only then is its end recorded, and only then may the init be given another one,
because only then has the supervisor stopped to look below that init. So a supervisor may die at any moment: the next
one is given all of it. When none comes for a while, it kills every run and exits.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import signal
import sys

from runner import profile, protocol, tree
from runner.inits import Idle, Init, Nursery
from runner.profile import Profile
from runner.run import Run
from runner.sandbox import kernel
from runner.strays import Strays
from runner.supervisors import Supervisors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

# After this long without anything to do, the inits that are too many are dismissed.
_PAUSE_SECONDS = 1.0

_FIRST_PIPE = protocol.AGENT_ENDS.index("stdout")

_INPUTS = slice(0, _FIRST_PIPE)

# Between two looks at what was told to die.
_KILL_ROUND_SECONDS = 0.01

# At the end, for what is killed: what outlives that must not keep the next server from starting.
_LAST_SECONDS = 10.0


class Launcher:
    """The event loop; every descriptor in the selector carries the function that handles it."""

    def __init__(
        self,
        identity: dict[str, str],
        listener: socket.socket,
        first: socket.socket,
        nursery: Nursery,
        strays: Strays,
    ) -> None:
        """Prepare.

        Args:
            identity: what a supervisor is told with ALL_HELD. listener, first: see Supervisors.
            nursery: makes the inits. strays: what may come here besides them.
        """
        self._identity = identity
        self._nursery = nursery
        self._selector = selectors.EpollSelector()
        self._supervisors = Supervisors(listener, first, self._selector, self._tell_all, self._obey)
        self._runs: dict[str, Run] = {}
        self._inits: dict[int, Init] = {}
        self._idle: dict[Profile, Idle] = collections.defaultdict(Idle)
        self._ended: list[Init] = []
        self._strays = strays
        self._stopping = False
        self._child_signals = kernel.watch_signal(signal.SIGCHLD)
        self._requests = {
            protocol.LAUNCH: self._launch,
            protocol.NOTE: self._note,
            protocol.RELEASE: self._release,
            protocol.END: self._end,
        }
        self._tidings = {
            protocol.FAILED: self._on_failed,
            protocol.AT_WORK: Run.take_place,
            protocol.ISOLATED: self._on_isolated,
            protocol.EXITED: self._on_exited,
            protocol.ENDED: Run.take_end,
            protocol.GONE: self._on_gone,
        }

    def serve(self) -> None:
        """Serve until a supervisor asks for the end, or there has been none for too long; then kill every run."""
        self._selector.register(self._child_signals, selectors.EVENT_READ, lambda: os.read(self._child_signals, 4096))
        self._warm_up(profile.DEFAULT)
        while not (self._stopping or self._supervisors.are_gone()):
            ready = self._selector.select(self._patience())
            for key, _ in ready:
                key.data()
            if not ready:
                self._shrink()
            self._bury()
            for run in self._strays.kill(self._inits):
                self._tell_gone(run)
            self._supervisors.watch()
        self._kill_everything()

    # -- the supervisor ----------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        """Tell a supervisor that has just come what there is."""
        for run in self._runs.values():
            for event, descriptors in run.history():
                self._supervisors.send(event, descriptors)
        self._supervisors.send({"event": protocol.ALL_HELD, **self._identity})

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._requests[message["do"]](message, descriptors)

    def _end(self, _message: dict[str, Any], _descriptors: list[int]) -> None:
        self._stopping = True

    def _launch(self, message: dict[str, Any], descriptors: list[int]) -> None:
        wanted = Profile(message["tier"], message["network"])
        run = self._runs[message["run"]] = Run(message, wanted, descriptors)
        run.purpose = None if wanted.tier == profile.TRUSTED else {**message, "run": None, "memo": None}
        self._place(run, message["shared"])

    def _place(self, run: Run, shared: list[str]) -> None:
        """Find an init for a run."""
        try:
            self._nursery.prepare_places(shared)
            chosen = self._idle[run.profile].take(run.purpose) or self._fork(run.profile)
        except OSError as error:
            run.error = error.strerror or str(error)
            self._tell_gone(run)
        else:
            chosen.run, chosen.purpose, run.init = run, run.purpose, chosen
            self._supervisors.send(*run.started())
            self._hand_over(run, chosen)

    def _hand_over(self, run: Run, chosen: Init) -> None:
        """Give a run to its init. One that cannot have it exits, and the run is gone with it."""
        try:
            for descriptor in run.agent_ends[_INPUTS]:
                # An init that has died may have had them read.
                os.lseek(descriptor, 0, os.SEEK_SET)
            for_each = chosen.limit(run.limits)
            if chosen.uid is not None:
                # An agent that opens its /dev/stdout opens the pipe anew, which only its owner may.
                for descriptor in run.agent_ends[_FIRST_PIPE:]:
                    os.fchown(descriptor, chosen.uid, chosen.uid)
            chosen.channel.send({"limits": for_each}, run.agent_ends)
        except OSError as error:
            run.error = error.strerror or str(error)
            chosen.dismiss()
        except protocol.Disconnected:
            pass  # it has died, and is waited for like any child
        else:
            if run.profile.tier == profile.TRUSTED:
                run.close_agent_ends()

    def _note(self, message: dict[str, Any], _descriptors: list[int]) -> None:
        run = self._runs.get(message["run"])
        if run:
            run.memo = message["memo"]

    def _release(self, message: dict[str, Any], _descriptors: list[int]) -> None:
        run = self._runs.pop(message["run"], None)
        if run is None:
            return
        run.close()
        if run.directory:
            self._strays.clear_up(run.directory)
        if run.init:
            self._keep(run.init, self._idle[run.profile])
        self._warm_up(run.profile)

    def _keep(self, free: Init, idle: Idle) -> None:
        failed = free.run is not None and free.run.error is not None
        if free.run and free.run.usage:
            free.note_usage(free.run.usage)
        free.run = None
        if idle.full or failed:
            free.dismiss()
        else:
            free.get_ready()
            idle.add(free)

    def _patience(self) -> float | None:
        waits = [self._strays.patience(), self._supervisors.patience()]
        if self._ended:
            waits.append(_KILL_ROUND_SECONDS)
        if any(idle.has_surplus for idle in self._idle.values()):
            waits.append(_PAUSE_SECONDS)
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def _tell_gone(self, run: Run) -> None:
        self._supervisors.send(run.gone(), run.work)

    # -- inits -------------------------------------------------------------------------------------------------------

    def _warm_up(self, wanted: Profile) -> None:
        """Make idle inits of a profile, if the host allows it; if not, the next run is told why."""
        with contextlib.suppress(OSError):
            for _ in range(self._idle[wanted].missing):
                self._idle[wanted].add(self._fork(wanted))

    def _fork(self, wanted: Profile) -> Init:
        made = self._nursery.fork(wanted)
        self._inits[made.pid] = made
        self._selector.register(made.channel, selectors.EVENT_READ, lambda: self._hear(made))
        if made.memory_event is not None:
            self._selector.register(made.memory_event, selectors.EVENT_READ, made.on_memory_event)
        return made

    def _hear(self, speaker: Init) -> None:
        """Take in what an init says. When it is dead instead, it is waited for like any child."""
        try:
            while received := speaker.channel.receive():
                message, descriptors = received
                if speaker.run:
                    speaker.run.work += descriptors
                    self._tidings[message["tell"]](speaker.run, message)
                elif message["tell"] == protocol.GONE:
                    speaker.get_ready()
        except protocol.Disconnected:
            if speaker.channel in self._selector.get_map():
                self._selector.unregister(speaker.channel)

    def _on_failed(self, run: Run, message: dict[str, Any]) -> None:
        run.error = message["error"]

    def _on_isolated(self, run: Run, message: dict[str, Any]) -> None:
        run.close_agent_ends()
        self._supervisors.send(run.isolated(message["layers"]))

    def _on_exited(self, run: Run, _message: dict[str, Any]) -> None:
        self._supervisors.send(run.exited())

    def _on_gone(self, run: Run, message: dict[str, Any]) -> None:
        run.take_end(message)
        run.take_counts()
        self._tell_gone(run)

    def _shrink(self) -> None:
        for idle in self._idle.values():
            while idle.has_surplus:
                idle.take_surplus().dismiss()

    # -- the dead ----------------------------------------------------------------------------------------------------

    def _bury(self) -> None:
        """Wait for every child that has ended: inits that were dismissed or have died, and strays."""
        for pid in tree.ended_children():
            self._strays.note_end(pid)
            dead = self._inits.get(pid)
            if dead is None:
                continue
            self._hear(dead)
            del self._inits[pid]
            for watched in (dead.channel, dead.memory_event):
                if watched is not None and watched in self._selector.get_map():
                    self._selector.unregister(watched)
            for idle in self._idle.values():
                idle.discard(dead)
            self._ended.append(dead)
        self._ended = [dead for dead in self._ended if not self._let_go(dead)]

    def _let_go(self, dead: Init) -> bool:
        """Mourn and bury one that has ended, if nothing lives in its control group; else kill what does."""
        if dead.group and not dead.group.empty:
            dead.group.kill()
            return False
        if dead.run:
            self._mourn(dead.run)
        self._nursery.bury(dead)
        return True

    def _mourn(self, run: Run) -> None:
        """Tell that a run is gone with its init; of one that had no namespace of its own, when no stray is left."""
        if run.over:
            run.init = None
            return
        run.take_leave()
        if run.may_begin_again():
            self._place(run, [])
            return
        if run.profile.tier == profile.TRUSTED:
            self._strays.expect(run)
            return
        self._tell_gone(run)

    def _kill_everything(self) -> None:
        if not tree.end_children(_LAST_SECONDS, self._strays.is_cleaner):
            with contextlib.suppress(OSError):  # nobody may read that any more
                print("launcher: processes survive SIGKILL", file=sys.stderr)
            return
        for dead in (*self._inits.values(), *self._ended):
            self._nursery.bury(dead)
