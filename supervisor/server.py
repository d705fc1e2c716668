"""The supervisor process: puts the parts together and serves until it is told to stop, and then leaves nothing behind;
or until it is told to start anew, and then leaves the runs to itself.
"""

import os
import resource
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import structlog

from runner.sandbox import prctl
from supervisor import listening, recovery, service_manager
from supervisor.agent_digest import AgentDigests
from supervisor.agents import AgentRegistry
from supervisor.clock import Clock
from supervisor.control import DRAIN, STATE
from supervisor.departure import Departure
from supervisor.errors import ConfigurationError, Superseded
from supervisor.isolation import Bulletin, Canary
from supervisor.isolation_watch import IsolationWatch
from supervisor.keeper import Keeper
from supervisor.logs import LogBook
from supervisor.loop import Loop
from supervisor.machine import remains, signals
from supervisor.machine.canary import Canaries, remove_leavings, send_canary
from supervisor.machine.collector import Collector
from supervisor.machine.handover import Handover
from supervisor.machine.launcher import has_left_a_launcher
from supervisor.machine.lock import FileLock
from supervisor.machine.machine import Machine
from supervisor.machine.reactor import Reactor
from supervisor.machine.service import Service
from supervisor.models import Origin
from supervisor.nudge import NudgeReceiver
from supervisor.reception import Reception
from supervisor.settings import Settings
from supervisor.store import Store

# For a child that a killed supervisor was just starting.
_PREDECESSOR_SECONDS = 5.0

# For the requests under way, which take milliseconds, and for the launcher to see that nothing is left.
_SERVICES_STOP_SECONDS = 3.0

# The loop has other things to do than to wait for an API process that somebody has stopped in the middle of a write.
_WRITE_PATIENCE_SECONDS = 1.0

_log = structlog.get_logger()


class Server:
    """Everything behind one data folder: the loop, and the two processes it keeps alive."""

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[str], None],
        load_anew: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the data folder into use.

        Args:
            on_ready: called once, with the base URL, when requests are answered.
            load_anew: loads the settings as the next program in this process will; raises ConfigurationError.
        Raises:
            ConfigurationError: the settings cannot be used on this machine now.
        """
        signals.leave_on_stop_signal()
        # What is made in the data folder is for us alone, also where the folder was made by somebody else.
        os.umask(0o077)
        self._received = Handover.received()
        self._has_terminal = os.isatty(0)
        self._settings = settings
        self._on_ready, self._load_anew = on_ready, load_anew
        self._is_restarting = self._is_stopping = self._ready = False
        self._shutdown_grace_seconds = settings.shutdown_grace_seconds
        self._clock = Clock()
        self._started_at = self._clock.now()
        if not settings.agents.is_dir():
            raise ConfigurationError(f"cannot read agents: there is no folder {str(settings.agents)!r}")
        if has_left_a_launcher(settings.data):
            # There may be runs to stop, so the signal to stop has to wait until they are taken over.
            signals.put_off()
        self._lock = _take_folder(settings, self._received)
        self._canary = _check_isolation(settings)
        self._listener = _listen(settings, self._received)
        # The threads that start now must never take one: it would be lost when this program gives way to the next.
        signals.put_off()
        prctl.become_subreaper()
        _allow_many_descriptors()
        self._reactor = Reactor(self._clock)
        with _refusals_explained(settings.data):
            self._store = Store(settings.database, self._clock, _WRITE_PATIENCE_SECONDS)
            self._keeper = Keeper(settings, self._clock)
            self._collector = Collector(settings.files, settings.max_files, settings.max_files_bytes, self._reactor)
        # One that dies may have recorded something and told nobody.
        self._api = Service("api", self._spawn_api, lambda: self._loop.look(), self._reactor, self._clock)
        self._canaries = Canaries(settings.strict_without, self._reactor, self._clock, settings.data)
        self._isolation = self._new_isolation_watch()
        self._machine = self._new_machine()
        self._origin = Origin("local", _boot_id(), uuid.uuid4().hex)
        self._loop = self._new_loop()
        self._departure = Departure(settings, self._loop, self._stop, self._reactor, self._clock)

    def _new_isolation_watch(self) -> IsolationWatch:
        publish = Bulletin(self._settings.bulletin).publish
        return IsolationWatch(self._canaries.send, publish, self._reactor, self._clock)

    def _new_machine(self) -> Machine:
        settings = self._settings
        return Machine(
            *(settings.data, settings.orphan_timeout_seconds, self._our_pids, LogBook(settings.logs), self._collector),
            *(self._isolation.doubt, self._reactor, self._clock, settings.strict_without),
        )

    def _new_loop(self) -> Loop:
        settings = self._settings
        return Loop(
            self._store,
            self._machine,
            AgentRegistry(settings.agents, settings.policy),
            AgentDigests(self._clock),
            self._reactor,
            self._clock,
            self._origin,
            settings.max_running,
        )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or a wish to drain; then every run ends, or is stopped, and is recorded.

        At SIGHUP, start anew: see Handover.

        Raises:
            ConfigurationError: see above; nothing was started.
        """
        self._keeper.start()
        signals.on_signals(self._reactor, self._departure.on_stop_signal, self._restart)
        with _refusals_explained(self._settings.data):
            self._nudges = NudgeReceiver(self._settings.data)
            words = {STATE: self._state, DRAIN: self._drain}
            self._reception = Reception(self._settings.data, words, self._reactor, self._clock)
            self._isolation.start(self._canary)
        self._reactor.watch(self._nudges, self._on_nudge)
        try:
            self._take_over()
            self._machine.launcher.start()
            self._api.start()
            self._loop.run()
            if self._is_restarting:
                self._give_way()
                self._loop.run()
        except Superseded as error:
            # All that is here is somebody else's by now.
            _log.error("server given up", error=str(error))
            os._exit(1)
        self._end_services()

    def _take_over(self) -> None:
        """Go on with what another supervisor has left, and settle what is not there any more."""
        live = recovery.take_over(self._store, self._origin)
        ours = {attempt.key: attempt.progress_offset for attempt in live if attempt.origin == self._origin}
        held = self._machine.take_over(ours)
        keys, launcher = {memo.key for memo in held}, self._machine.launcher_name
        lost = recovery.lost(live, keys, launcher)
        if lost:
            # An end is not recorded while something lives.
            remains.kill_all({attempt.launcher or "" for attempt in lost} - {""}, {attempt.key for attempt in lost})
        settled = recovery.settle(self._store, self._clock, keys, launcher)
        self._loop.resume(held)
        if live:
            _log.info("runs of the server before", taken_over=len(held), **asdict(settled))
        if self._received and self._received.channel is not None:
            os.close(self._received.channel)

    def _restart(self) -> None:
        """Give way to the next program in this process, if it will be able to start."""
        if self._is_stopping or self._departure.begun:
            return
        if self._has_terminal and not os.isatty(0):
            self._departure.on_stop_signal()  # the signal says that the terminal is gone
            return
        try:
            self._load_anew()
        except ConfigurationError as error:
            _log.error("not restarted", error=str(error))
            self._lock.tell(f"not restarted {uuid.uuid4().hex} {error}")
            return
        self._is_restarting = True
        self._loop.leave()

    def _give_way(self) -> None:
        """Let the API answer what it has read, and start anew; return only if the server is to be stopped instead."""
        _log.info("restarting")
        service_manager.tell_reloading()
        self._stop_what_serves_others()
        self._wait_for_end([self._api])
        # A signal that has come is taken in now, all others by the next program.
        signals.put_off()
        self._reactor.wait(0)
        if self._is_restarting:
            channel = self._machine.launcher.channel_fileno()
            Handover(self._lock.fileno(), self._listener.fileno(), channel).give()
        signals.take_up()

    def _stop(self) -> None:
        self._is_restarting, self._is_stopping = False, True
        self._stop_what_serves_others()
        self._loop.shut_down(self._shutdown_grace_seconds)
        self._shutdown_grace_seconds = 0.0

    def _stop_what_serves_others(self) -> None:
        self._isolation.stop()
        self._canaries.stop()
        self._api.stop()

    def _state(self) -> dict[str, bool | int]:
        return {
            "draining": self._departure.begun,
            "launcher": self._machine.ready,
            "recording": self._loop.is_recording,
            "running": self._loop.running,
        }

    def _drain(self) -> dict[str, bool | int]:
        self._departure.drain()
        return self._state()

    def _on_nudge(self) -> None:
        self._nudges.drain()
        self._loop.look()

    def _service_pids(self) -> set[int]:
        services = (self._api, self._machine.launcher.service)
        return {service.pid for service in services if service.pid is not None}

    def _our_pids(self) -> set[int]:
        canary = self._canaries.pid
        return self._service_pids() | ({canary} if canary else set())

    def _spawn_api(self) -> subprocess.Popen[bytes]:
        ready_reader, ready_writer = os.pipe2(os.O_CLOEXEC)
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "api"),
                    self._settings.model_dump_json(),
                    *map(str, (self._listener.fileno(), ready_writer, self._started_at)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(self._listener.fileno(), ready_writer),
                start_new_session=True,
            )
        except OSError:
            os.close(ready_reader)
            raise
        finally:
            os.close(ready_writer)
        self._reactor.watch(ready_reader, lambda: self._on_api_ready(ready_reader))
        return process

    def _on_api_ready(self, ready_reader: int) -> None:
        """The API wrote a byte, or died before it could."""
        self._reactor.forget(ready_reader)
        if os.read(ready_reader, 1) and not self._ready:
            self._ready = True
            self._on_ready(listening.url(self._listener))
            self._lock.tell(self._origin.epoch)
        os.close(ready_reader)

    def _end_services(self) -> None:
        self._stop_what_serves_others()
        self._machine.launcher.stop()
        self._wait_for_end([self._api, self._machine.launcher.service])
        self._machine.launcher.close()
        self._listener.close()
        self._nudges.close()
        self._collector.close()
        self._keeper.close()
        self._lock.close()
        self._reception.close()
        self._reactor.close()

    def _wait_for_end(self, services: Sequence[Service]) -> None:
        """See processes end that were asked to; those that do not are killed."""
        deadline = self._clock.monotonic() + _SERVICES_STOP_SECONDS
        while any(service.pid is not None for service in services):
            left = deadline - self._clock.monotonic()
            if left <= 0:
                for service in services:
                    service.kill()
            self._reactor.wait(max(left, 0.1))


def _take_folder(settings: Settings, received: Handover | None) -> FileLock:
    """Return the lock of the data folder, which is ours."""
    with _refusals_explained(settings.data):
        for folder in (settings.data, settings.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(settings.lock, received.lock if received else None)
        lock.acquire(_PREDECESSOR_SECONDS)
    return lock


def _listen(settings: Settings, received: Handover | None) -> socket.socket:
    if received:
        return listening.inherit(received.listener, settings.host, settings.port)
    return listening.listen(settings.host, settings.port)


def _check_isolation(settings: Settings) -> Canary:
    remove_leavings(settings.data)
    canary = send_canary(settings.data)
    if not canary.healthy and "sandbox" not in settings.allow_degraded:
        raise ConfigurationError(
            f"cannot isolate agents: {canary.error}. What to change is told by: corral doctor. To start without"
            ' sandboxes, for agents of the tier "trusted" only, set allow_degraded = ["sandbox"]'
        )
    return canary.accepting(settings.strict_without)


@contextmanager
def _refusals_explained(data: Path) -> Iterator[None]:
    """Turn what the host refuses us in the data folder into an error for the operator."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot use {str(data)!r}: {error}") from error


def _allow_many_descriptors() -> None:
    """Raise our soft limit to the hard one: every live run takes five descriptors here and more in the launcher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _boot_id() -> str:
    """Return what tells this boot of the machine from all others. Source: random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
