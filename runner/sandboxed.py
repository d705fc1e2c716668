"""The init of sandboxed runs: the first process in its own namespaces, and the process that becomes the agent.

Who does what, with which rights:
  launcher  clones the init into new namespaces and, as root, maps its user; then it says GET_READY
  init      has all capabilities in its namespaces, none outside. It assembles the file system, forks the process that
            waits for a run, gives up what it no longer needs and waits. It is process 1 in there: when it ends, the
            kernel kills all the others, and it has not ended before they have. Source: pid_namespaces(7)
            Before any agent's code runs, one that serves one run has nothing left but to wait: not even most system
            calls. One that may serve again keeps four capabilities, and is another user than the agent
  agent     takes the run, adds what only the run tells (the agent's folder), makes the sandbox its root, becomes the
            inside user, gives up everything, at tier strict confines itself by Landlock, filters its system calls,
            looks whether all of that holds, and only then runs code that is not ours

Everything up to the arrival of the run takes no time of the run. A step that fails ends the run; nothing is left out.
Where agents are another user than their init, it serves again if a run ended cleanly, for the same agent only: what an
agent can leave without a living process, mounts and System V IPC, is in namespaces of that run alone. Else it serves
one run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import shlex
import signal
import socket
from _signal import signal as set_handler  # type: ignore[import-not-found]

from runner import enter, profile, protocol, strict
from runner.init import TreeUsage
from runner.sandbox import attest, kernel, landlock, mounts, namespaces, prctl, rlimits, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any, NoReturn

    from runner.profile import Profile

_HOST_NAME = "sandbox"

_GO = b"go"

# What starting another agent takes: the mounts, the change of user, and the end of all that another user has left.
# CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_KILL. Source: capabilities(7).
_TO_SERVE_AGAIN = (21, 7, 6, 5)


class Sandboxes:
    """What all sandboxes have in common: made by the launcher once, inherited by every init."""

    def __init__(self, skeleton: mounts.Skeleton, accepted: Collection[str]) -> None:
        """Prepare. Args: accepted: needs of the tier strict (runner.strict) that it can do without."""
        self.skeleton = skeleton
        self._accepted = accepted
        self._host = namespaces.identities()
        # Taken on the host: in a namespace that has no users yet, everybody is told to be the overflow user.
        # Source: user_namespaces(7), "Unmapped user and group IDs".
        self._outside_ids = os.geteuid(), os.getegid()
        # Filters are inherited and never go: these, and ours, are all that an agent has.
        self._filters_before = attest.count_filters()
        self._maps_itself = self._outside_ids[0] != 0
        self._unset_ceilings: list[str] = []
        self._build_filters(())
        self._filter_of_init = seccomp.build_for_init()

    def refuse_uncounted_memory(self) -> None:
        """Let agents have no memory that no limit counts; for those that will have no control group."""
        self._build_filters(seccomp.UNCOUNTED_MEMORY)

    def serve(self, connection: socket.socket, wanted: Profile) -> NoReturn:
        """Be the init of a run, or of more. Args: connection: to the launcher. wanted: the isolation of the runs."""
        try:
            _take_no_signal_from_inside()
            os.setsid()
            connection = enter.keep_only(connection)
            protocol.receive(connection)
            self._build()
            serve = self._serve_run_after_run if self._can_serve_again(wanted) else self._serve_one_run
            serve(connection, wanted)
            os._exit(0)
        except protocol.Disconnected:
            os._exit(0)
        except BaseException as error:
            _tell_failure(connection, error)
            os._exit(1)

    def _can_serve_again(self, wanted: Profile) -> bool:
        """Tell whether agents are another user than their init, and so have no power over it.

        As the same user they could lower its limits, from which later runs would suffer. Source: prlimit(2).
        """
        return wanted == profile.DEFAULT and not self._maps_itself

    def _serve_run_after_run(self, connection: socket.socket, wanted: Profile) -> None:
        """Until a run does not end cleanly: what it has left is then gone for certain with this process."""

        def wait_and_start() -> NoReturn:
            kernel.unshare(namespaces.OF_ONE_RUN)
            self._wait_and_start(connection, wanted)

        kernel.keep_capabilities(*_TO_SERVE_AGAIN)
        _die_with_launcher(connection)
        while True:
            clean, end = _wait_until_over(_fork(connection, wait_and_start))
            protocol.send(connection, {"tell": protocol.GONE if clean else protocol.ENDED, **end})
            if not clean:
                return
            protocol.receive(connection)

    def _serve_one_run(self, connection: socket.socket, wanted: Profile) -> None:
        gate, latch = socket.socketpair()

        def wait_and_start() -> NoReturn:
            latch.close()
            _wait_for_go(gate)
            self._wait_and_start(connection, wanted)

        agent = _fork(connection, wait_and_start)
        self._give_up_everything()
        _die_with_launcher(connection)
        seccomp.load(self._filter_of_init)
        # No agent starts before this.
        latch.sendmsg([_GO])
        gate.close()
        latch.close()
        _, end = _wait_until_over(agent)
        protocol.send(connection, {"tell": protocol.ENDED, **end})

    def _build_filters(self, also_refused: Iterable[str]) -> None:
        self._filters = {
            network: seccomp.build(network == profile.HOST, also_refused) for network in (profile.NONE, profile.HOST)
        }

    def _build(self) -> None:
        if self._maps_itself:
            namespaces.map_user("self", *self._outside_ids)
        enter.apply_what_is_inherited()
        self._unset_ceilings = namespaces.lower_ceilings()
        kernel.sethostname(_HOST_NAME)
        kernel.forbid_new_capabilities()
        self.skeleton.assemble()

    def _wait_and_start(self, connection: socket.socket, wanted: Profile) -> NoReturn:
        _take_signals_like_python()
        os.setsid()
        enter.yield_to_the_server()
        limits, spec, descriptors = enter.receive_run(connection)
        if wanted.network == profile.HOST:
            self.skeleton.add_network()
        self.skeleton.enter(spec["folder"], spec["shared"], spec["disk_bytes"])
        self._give_up_everything()
        enter.tell_work_directory(connection, mounts.WORK, None)
        enter.place(descriptors)
        _enter_folder(spec["folder"])
        layers = self._confine(wanted, spec)
        if self._can_serve_again(wanted):
            limits["processes"] -= 1  # the init, which is another user
        rlimits.apply(limits)
        seccomp.load(self._filters[wanted.network])
        layers += attest.attest(self._host, self._filters_before, namespaces.shared(wanted.network), mounts.WRITABLE)
        if not self._unset_ceilings:
            layers.append(namespaces.CEILINGS)
        told = {"tell": protocol.ISOLATED, "layers": layers, "unset_ceilings": self._unset_ceilings}
        protocol.send(connection, told)
        enter.start(spec, protocol.AGENT_PLACE, mounts.WORK, "/tmp")

    def _confine(self, wanted: Profile, spec: dict[str, Any]) -> list[str]:
        """Do what only some profiles have, before sockets are filtered; return the layers. Raises NotIsolated."""
        if wanted.tier == profile.STRICT:
            return self._be_strict(spec)
        # The host's network has the abstract Unix sockets of its programs in it.
        return landlock.keep_to_itself() if wanted.network == profile.HOST else []

    def _be_strict(self, spec: dict[str, Any]) -> list[str]:
        if not spec["command"]:
            raise attest.NotIsolated("a strict agent must be a program of its own, not a fork")
        layers = [*attest.own_uid(self._outside_ids[0]), *landlock.confine(mounts.PRIVATE, mounts.DEVICES)]
        for need in (strict.OWN_UID, strict.LANDLOCK):
            if need not in layers and need not in self._accepted:
                raise attest.NotIsolated(f"{need} is not in effect")
        return layers

    def _give_up_everything(self) -> None:
        if not self._maps_itself:
            namespaces.become_inside_user()
        kernel.keep_capabilities()


def _wait_for_go(gate: socket.socket) -> None:
    with gate:
        if gate.recv(len(_GO)) != _GO:
            raise protocol.Disconnected("the init has ended")


def _fork(connection: socket.socket, wait_and_start: Callable[[], NoReturn]) -> int:
    """Fork the agent's process; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            wait_and_start()
        except protocol.Disconnected:
            os._exit(0)
        except BaseException as error:
            _tell_failure(connection, error)
        os._exit(1)
    return pid


def _take_no_signal_from_inside() -> None:
    """Have no handler: a process 1 gets no signal from inside its namespace without one. Source: pid_namespaces(7).

    Those of faulthandler would besides let the agent have this process write to the server's log.
    """
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_signals_like_python() -> None:
    """Undo that for the agent: a Python program expects an exception in place of the signal.

    By number, because asking sys.stderr for its number takes longer; and by what is below signal.signal(), which makes
    members of enumerations of what it is given and returns: that takes a new process a tenth of a millisecond.
    """
    faulthandler.enable(2)
    set_handler(signal.SIGINT, signal.default_int_handler)


def _enter_folder(original: str) -> None:
    """Go to the agent's folder, with the agent's rights. Args: original: its path on the host."""
    try:
        os.chdir(protocol.AGENT_PLACE)
    except PermissionError as error:
        advice = f"where the server is root, agents are another user of the host: chmod -R o+rX {shlex.quote(original)}"
        raise OSError(error.errno, f"cannot enter {original}: {error.strerror}; {advice}") from error


def _die_with_launcher(connection: socket.socket) -> None:
    """Ask for the kernel's parent-death signal; only now, because a change of user undoes it. Source: prctl(2).

    The launcher may have died before. It has no pid in here to compare with, but its end of the connection is closed.
    """
    prctl.ask_for_parent_death_signal()
    prctl.hide_memory()
    poll = select.poll()
    poll.register(connection, 0)
    if poll.poll(0):
        os._exit(0)


def _wait_until_over(agent: int) -> tuple[bool, dict[str, Any]]:
    """Reap until the agent has ended, then end all others.

    Returns:
        Whether the agent has exited by itself and was the last one; and how it ended, as runner.protocol has it.
    """
    usage = TreeUsage()
    status = usage.wait_for(agent)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    left_behind = usage.wait_for_all()
    clean = os.WIFEXITED(status) and not left_behind
    return clean, {"status": status, "usage": usage.record(), "left_behind": left_behind}


def _tell_failure(connection: socket.socket, error: BaseException) -> None:
    with contextlib.suppress(protocol.Disconnected):
        protocol.send(connection, {"tell": protocol.FAILED, "error": _words(error)})


def _words(error: BaseException) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
