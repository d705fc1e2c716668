"""The supervisor process: puts the parts together, serves until it is told to stop, and leaves nothing behind."""

import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from runner.sandbox import prctl
from supervisor import listening, recovery
from supervisor.agent_digest import AgentDigests
from supervisor.agents import AgentRegistry
from supervisor.clock import Clock
from supervisor.control import DRAIN, STATE
from supervisor.departure import Departure
from supervisor.errors import ConfigurationError
from supervisor.isolation import Bulletin, Canary
from supervisor.isolation_watch import IsolationWatch
from supervisor.keeper import Keeper
from supervisor.logs import LogBook
from supervisor.loop import Loop
from supervisor.machine.canary import Canaries, remove_leavings, send_canary
from supervisor.machine.collector import Collector
from supervisor.machine.lock import FileLock
from supervisor.machine.machine import Machine
from supervisor.machine.reactor import Reactor
from supervisor.machine.service import Service
from supervisor.machine.signals import leave_on_stop_signal, on_stop_signal
from supervisor.models import Origin
from supervisor.nudge import NudgeReceiver
from supervisor.reception import Reception
from supervisor.settings import Settings
from supervisor.store import Store

# A launcher without its supervisor kills its runs and exits in milliseconds; on a loaded machine it may take longer.
_PREDECESSOR_SECONDS = 15.0

# For the requests under way, which take milliseconds, and for the launcher to see that nothing is left.
_SERVICES_STOP_SECONDS = 3.0

# The loop has other things to do than to wait for an API process that somebody has stopped in the middle of a write.
_WRITE_PATIENCE_SECONDS = 1.0

_log = structlog.get_logger()


class Server:
    """Everything behind one data folder: the loop, and the two processes it keeps alive."""

    def __init__(self, settings: Settings, on_ready: Callable[[str], None]) -> None:
        """Take the data folder into use.

        Args:
            on_ready: called once, with the base URL, when requests are answered.
        Raises:
            ConfigurationError: the settings cannot be used on this machine now.
        """
        leave_on_stop_signal()
        # What is made in the data folder is for us alone, also where the folder was made by somebody else.
        os.umask(0o077)
        self._settings = settings
        self._on_ready = on_ready
        self._shutdown_grace_seconds = settings.shutdown_grace_seconds
        self._clock = Clock()
        self._ready = False
        self._started_at = self._clock.now()
        if not settings.agents.is_dir():
            raise ConfigurationError(f"cannot read agents: there is no folder {str(settings.agents)!r}")
        with _refusals_explained(settings.data):
            for folder in (settings.data, settings.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FileLock(settings.lock)
            self._lock.acquire(_PREDECESSOR_SECONDS)
            remove_leavings(settings.data)
        self._canary = _check_isolation(settings)
        self._listener = listening.listen(settings.host, settings.port)
        prctl.become_subreaper()
        _allow_many_descriptors()
        self._reactor = Reactor(self._clock)
        with _refusals_explained(settings.data):
            store = Store(settings.database, self._clock, _WRITE_PATIENCE_SECONDS)
            self._keeper = Keeper(settings, self._clock)
            self._collector = Collector(settings.files, settings.max_files, settings.max_files_bytes, self._reactor)
        # One that dies may have recorded something and told nobody.
        self._api = Service("api", self._spawn_api, lambda: self._loop.look(), self._reactor, self._clock)
        self._canaries = Canaries(settings.strict_without, self._reactor, self._clock, settings.data)
        publish = Bulletin(settings.bulletin).publish
        self._isolation = IsolationWatch(self._canaries.send, publish, self._reactor, self._clock)
        self._machine = self._new_machine()
        _settle_lost(store, self._clock)
        self._loop = Loop(
            store,
            self._machine,
            AgentRegistry(settings.agents, settings.policy),
            AgentDigests(self._clock),
            LogBook(settings.logs),
            self._reactor,
            self._clock,
            Origin("local", _boot_id(), uuid.uuid4().hex),
            settings.max_running,
        )
        self._departure = Departure(settings, self._loop, self._stop, self._reactor, self._clock)

    def _new_machine(self) -> Machine:
        data, without = self._settings.data, self._settings.strict_without
        return Machine(
            *(data, self._lock.fileno(), self._our_pids, self._collector, self._isolation.doubt),
            *(self._reactor, self._clock, without),
        )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or a wish to drain; then every run ends, or is stopped, and is recorded.

        Raises:
            ConfigurationError: see above; nothing was started.
        """
        on_stop_signal(self._reactor, self._departure.on_stop_signal)
        with _refusals_explained(self._settings.data):
            self._nudges = NudgeReceiver(self._settings.data)
            words = {STATE: self._state, DRAIN: self._drain}
            self._reception = Reception(self._settings.data, words, self._reactor, self._clock)
            self._isolation.start(self._canary)
        self._reactor.watch(self._nudges, self._on_nudge)
        self._machine.launcher.start()
        self._api.start()
        self._keeper.start()
        self._loop.run()
        self._end_services()

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

    def _stop(self) -> None:
        self._stop_what_serves_others()
        self._loop.shut_down(self._shutdown_grace_seconds)
        self._shutdown_grace_seconds = 0.0

    def _stop_what_serves_others(self) -> None:
        self._isolation.stop()
        self._canaries.stop()
        self._api.stop()

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
        os.close(ready_reader)

    def _end_services(self) -> None:
        self._stop_what_serves_others()
        self._machine.launcher.stop()
        deadline = self._clock.monotonic() + _SERVICES_STOP_SECONDS
        while self._service_pids():
            left = deadline - self._clock.monotonic()
            if left <= 0:
                self._api.kill()
                self._machine.launcher.service.kill()
            self._reactor.wait(max(left, 0.1))
        self._machine.launcher.close()
        self._listener.close()
        self._nudges.close()
        self._collector.close()
        self._keeper.close()
        self._lock.close()
        self._reception.close()
        self._reactor.close()


def _settle_lost(store: Store, clock: Clock) -> None:
    lost = recovery.settle_lost(store, clock)
    if lost:
        _log.warning("runs of a killed server recorded as lost", executions=lost)


def _check_isolation(settings: Settings) -> Canary:
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
