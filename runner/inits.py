"""The inits of the launcher: how they are made, and which of them wait for the next runs.

One of the tier "trusted" serves one run after another, that of a sandbox only runs of one agent. A few wait idle, with
everything done that can be done before there is a run. While runs come and go more of them are kept, because making
one takes longer than a run should; after a pause, only a few.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

from runner import init, profile, protocol, strict
from runner.sandbox import kernel, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.profile import Profile
    from runner.run import Run
    from runner.sandbox.cgroup import Groups
    from runner.sandbox.control_group import Group
    from runner.sandboxed import Sandboxes

# Each takes some three megabytes.
_MOST_IDLE = max(2, os.cpu_count() or 1)
_MOST_IDLE_WHEN_BUSY = 8 * _MOST_IDLE


class Init:
    """One init process.

    uid: its user on the host, None for the launcher's. group: its control group, None if it has no own one.
    memory_event: descriptor that is readable when it may have to be killed for its use of memory, if there is such a
    thing. kill_switch: descriptor that kills all of its group when a "1" is written to it, if there is such a thing.
    out_of_memory: it was. run: what it was given last, until that is released. purpose: what that run was for, see
    Idle.take().
    """

    def __init__(self, pid: int, connection: socket.socket, uid: int | None, group: Group | None) -> None:
        self.pid = pid
        self.channel = protocol.Channel(connection)
        self.uid = uid
        self.group = group
        self.pidfd = os.pidfd_open(pid)
        try:
            self.memory_event = group.watch_memory() if group else None
            self.kill_switch = group.open_kill_switch() if group else None
        except OSError:
            os.close(self.pidfd)
            raise
        self.out_of_memory = False
        self.run: Run | None = None
        self.purpose: dict[str, Any] | None = None
        self._cpu_seconds_told = 0.0

    def layers_outside(self) -> list[str]:
        """Return the layers that an agent cannot see from inside."""
        return self.group.layers if self.group else []

    def note_usage(self, usage: Mapping[str, float]) -> None:
        """Note what a run that is over has used."""
        self._cpu_seconds_told += usage.get("user_cpu_seconds", 0) + usage.get("system_cpu_seconds", 0)

    def cpu_seconds_before(self) -> float:
        """Return what runs that are over have used: as the counter of its group has it, else as they told."""
        return self.group.cpu_seconds_before() if self.group else self._cpu_seconds_told

    def get_ready(self) -> None:
        """Tell it that a run may come. One that has died meanwhile is noticed when it is waited for."""
        with contextlib.suppress(protocol.Disconnected):
            self.channel.send(protocol.GET_READY)

    def has_died(self) -> bool:
        """Tell whether it has ended, or is about to: nobody holds the other end of its connection any more."""
        looking = select.poll()
        looking.register(self.pidfd, select.POLLIN)
        looking.register(self.channel, 0)
        return bool(looking.poll(0))

    def dismiss(self) -> None:
        """Tell it to exit."""
        self.channel.hang_up()

    def limit(self, limits: Mapping[str, float]) -> dict[str, float]:
        """Set what its tree may use together; return the limits that are for each of its processes."""
        for_each = {name: amount for name, amount in limits.items() if name != "cpus"}
        if self.group:
            # In place of the limit of each process, which counts what it has only reserved.
            self.group.limit(int(for_each.pop("memory_bytes")), int(limits["processes"]), limits.get("cpus"))
            # One more than the group allows: so that it is the group that refuses, which counts how often.
            for_each["processes"] += 1
        return for_each

    def on_memory_event(self) -> None:
        """End it, the init of a sandbox, and with it all of its tree, if its own limit was hit.

        The kernel tells also those of whom it was a group above that had no more memory; then it ends one of them
        itself. Source: mem_cgroup_oom_notify() in the kernel's mm/memcontrol-v1.c.
        """
        assert self.group is not None
        assert self.memory_event is not None
        os.read(self.memory_event, 8)
        if self.group.has_hit_its_limit():
            self.out_of_memory = True
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of what is held for it; when it has ended."""
        self.channel.close()
        for descriptor in (self.pidfd, self.memory_event, self.kill_switch):
            if descriptor is not None:
                os.close(descriptor)


class Idle:
    """The inits of one profile that wait: those that may serve any run, and those that may serve one purpose only."""

    def __init__(self) -> None:
        self._for_any: list[Init] = []
        self._for_one: list[Init] = []

    @property
    def full(self) -> bool:
        return len(self._for_any) + len(self._for_one) >= _MOST_IDLE_WHEN_BUSY

    @property
    def missing(self) -> int:
        """How many there are too few of to be ready for whatever comes."""
        return max(0, _MOST_IDLE - len(self._for_any))

    @property
    def has_surplus(self) -> bool:
        return bool(self._for_one) or len(self._for_any) > _MOST_IDLE

    def add(self, ready: Init) -> None:
        """Keep one for the next run."""
        (self._for_one if ready.purpose else self._for_any).append(ready)

    def take(self, purpose: dict[str, Any] | None) -> Init | None:
        """Return the one that came last, whose memory is the warmest; None if none lives.

        A sandbox is used again for the same purpose only: whatever an agent may have left in it, in a way that nobody
        knows of, no other agent is to find.
        """
        for used in reversed(self._for_one):
            if used.purpose == purpose and not used.has_died():
                self._for_one.remove(used)
                return used
        while self._for_any:
            last = self._for_any.pop()
            if not last.has_died():
                return last
        return None

    def take_surplus(self) -> Init:
        """Return one of those that are too many after a pause."""
        return (self._for_one or self._for_any).pop(0)

    def discard(self, dead: Init) -> None:
        """Forget one that has died."""
        for waiting in (self._for_any, self._for_one):
            if dead in waiting:
                waiting.remove(dead)


class Nursery:
    """Forks inits."""

    def __init__(
        self, work_root: str, sandboxes: Sandboxes | None, groups: Groups | None, strict_lacks: Mapping[str, str]
    ) -> None:
        """Prepare.

        Args:
            work_root: see start.main(). sandboxes: None if this machine cannot have any.
            groups: None if sandboxes cannot have control groups.
            strict_lacks: why there can be no strict runs; see runner.strict.
        """
        self._work_root = work_root
        self._sandboxes = sandboxes
        self._groups = groups
        self._strict_lacks = strict_lacks
        self._launcher_pid = os.getpid()
        self._uids_taken: set[int] = set()
        if sandboxes and not groups:
            sandboxes.refuse_uncounted_memory()

    def fork(self, wanted: Profile) -> Init:
        """Return a new init that has been told to get ready. Raises OSError: the host does not allow it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                if wanted.tier == profile.TRUSTED:
                    made = self._fork_trusted(ours, theirs)
                else:
                    made = self._fork_sandboxed(ours, theirs, wanted)
            except OSError:
                ours.close()
                raise
        made.get_ready()
        return made

    def prepare_places(self, shared: list[str]) -> None:
        """Make the targets of what one agent has of the host besides what every agent has."""
        if self._sandboxes:
            for source in shared:
                self._sandboxes.skeleton.make_place(source)

    def bury(self, dead: Init) -> None:
        """Let go of one that has been waited for."""
        if dead.uid is not None:
            self._uids_taken.discard(dead.uid)
        dead.close()
        if self._groups and dead.group:
            self._groups.remove(dead.group)

    def _fork_trusted(self, ours: socket.socket, theirs: socket.socket) -> Init:
        pid = os.fork()
        if pid == 0:
            init.serve(theirs, self._work_root, self._launcher_pid)
        return Init(pid, ours, None, None)

    def _fork_sandboxed(self, ours: socket.socket, theirs: socket.socket, wanted: Profile) -> Init:
        if self._sandboxes is None:
            raise OSError(f"cannot make a sandbox: {wanted.tier} is not possible on this machine")
        if wanted.tier == profile.STRICT and self._strict_lacks:
            raise OSError(f"cannot make a sandbox: {strict.refusal(self._strict_lacks)}")
        pid = kernel.clone(namespaces.flags(wanted.network))
        if pid == 0:
            self._sandboxes.serve(theirs, wanted)
        # Until it is told to get ready it does nothing, so nothing of it escapes what is set up here.
        uid = group = None
        try:
            uid = self._map_user(pid)
            if self._groups:
                group = self._groups.make(pid)
                group.add(pid)
            return Init(pid, ours, uid, group)
        except OSError:
            self._give_up(pid, uid, group)
            raise

    def _give_up(self, pid: int, uid: int | None, group: Group | None) -> None:
        """Undo a sandbox that cannot be made; a group can be removed only when nothing is in it."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if uid is not None:
            self._uids_taken.discard(uid)
        if self._groups and group:
            self._groups.remove(group)

    def _map_user(self, pid: int) -> int | None:
        if os.geteuid() != 0:
            return None
        uid = next(number for number in namespaces.OUTSIDE_IDS if number not in self._uids_taken)
        namespaces.map_user(pid, uid, uid)
        self._uids_taken.add(uid)
        return uid
