"""The adversary of a chaos run: kills processes of the server at random moments, and starts it again."""

import random
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from scripts.reliability import family
from scripts.reliability.ledger import Ledger
from scripts.reliability.server import Server

# How often each is the victim, of so many in all. "hangup" is the supervisor too, but only told to start anew.
_SHARES = {"agent": 7, "init": 4, "api": 3, "launcher": 3, "supervisor": 2, "both": 1, "everything": 1, "hangup": 2}

# Between two kills: mostly long enough for runs to begin, seldom so short that it meets what the last one has begun.
_MEAN_PAUSE_SECONDS = 0.3

# A server that was killed stays away for some time, at most so long.
_ABSENCE_SECONDS = 0.5

# From the death of one of supervisor and launcher to that of the other, if both are to die, at most.
_BETWEEN_BOTH_SECONDS = 0.1

# Of the servers that are started again so many are killed within this time, when they are hardly ready.
_KILLED_AT_START = 0.25
_START_SECONDS = 1.5

_ANSWER_SECONDS = 30.0


class Adversary:
    """slowest: {victim: the longest time in seconds from its death, or from the new start, to an answer of the API}."""

    def __init__(self, server: Server, seed: str, ledger: Ledger) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._ledger = ledger
        self.restarts = 0
        self.slowest: dict[str, float] = {}
        self.launcher_pids: set[int] = set()
        self._ways: dict[str, Callable[[], bool]] = {
            "agent": lambda: self._kill_one("agent", self._below_launcher(family.agents)),
            "init": lambda: self._kill_one("init", self._below_launcher(family.inits)),
            "api": lambda: self._kill_service("api"),
            "launcher": lambda: self._kill_service("launcher"),
            "supervisor": self._kill_supervisor,
            "both": self._kill_supervisor_and_launcher,
            "everything": self._kill_everything,
            "hangup": lambda: self._kill("hangup", self._server.pid, signal.SIGHUP),
        }

    def rage(self, seconds: float) -> None:
        """Kill for so long, and each victim once at least. Raises ServerFailed: the server does not start again."""
        until = time.monotonic() + seconds
        wanted = self._random.sample(list(_SHARES), len(_SHARES))
        while wanted or time.monotonic() < until:
            self._pause(self._random.expovariate(1 / _MEAN_PAUSE_SECONDS))
            (victim,) = wanted[:1] or self._random.choices(list(_SHARES), list(_SHARES.values()))
            self.note_launcher()
            if self._ways[victim]():
                self._measure(victim)
                wanted = wanted[1:]
            family.reap(but=self._server.pid)

    def note_launcher(self) -> None:
        """Remember the launcher of now: what it may leave has its pid in its name."""
        if launcher := family.services(self._server.pid).get("launcher"):
            self.launcher_pids.add(launcher)

    def _below_launcher(self, find: Callable[[int], list[int]]) -> list[int]:
        launcher = family.services(self._server.pid).get("launcher")
        return find(launcher) if launcher else []

    def _kill_one(self, victim: str, pids: list[int]) -> bool:
        return bool(pids) and self._kill(victim, self._random.choice(sorted(pids)))

    def _kill_service(self, name: str) -> bool:
        pid = family.services(self._server.pid).get(name)
        return pid is not None and self._kill(name, pid)

    def _kill_supervisor(self) -> bool:
        """Kill it while its launcher lives, which is to see to the runs, also to those that die meanwhile."""
        if "launcher" not in family.services(self._server.pid):
            return False
        if not self._kill("supervisor", self._server.pid):
            return False
        self._server.wait()
        for victim in self._random.sample(["agent", "init"], self._random.randrange(3)):
            self._ways[victim]()
        self._pause(self._random.uniform(0, _ABSENCE_SECONDS))
        self._restart()
        return True

    def _kill_supervisor_and_launcher(self) -> bool:
        """Kill one soon after the other, in either order: the second one is in the middle of seeing to it."""
        launcher = family.services(self._server.pid).get("launcher")
        if launcher is None:
            return False
        pids = self._random.sample([self._server.pid, launcher], 2)
        if not self._kill("both", pids[0]):
            return False
        self._pause(self._random.uniform(0, _BETWEEN_BOTH_SECONDS))
        self._kill("both", pids[1])
        self._server.wait()
        self._restart()
        return True

    def _kill_everything(self) -> bool:
        self._ledger.kill("everything", self._server.pid)
        family.kill_all(_ANSWER_SECONDS)
        self._server.wait()
        self._restart()
        return True

    def _restart(self) -> None:
        while True:
            family.reap(but=None)
            self.restarts += 1
            self._server.start()
            if self._random.random() >= _KILLED_AT_START:
                break
            self._pause(self._random.uniform(0, _START_SECONDS))
            self._kill("supervisor", self._server.pid)
            self._server.wait()
        self._started_at = time.monotonic()
        self._server.wait_until_ready()
        self.note_launcher()

    def _kill(self, victim: str, pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
        self._ledger.kill(victim, pid)
        return family.send(pid, number)

    def _measure(self, victim: str) -> None:
        began = time.monotonic()
        if victim in ("supervisor", "both", "everything"):
            began = self._started_at
        while not self._answers():
            if time.monotonic() - began > _ANSWER_SECONDS:
                self._ledger.accuse(f"no answer {_ANSWER_SECONDS:g} seconds after the death of the {victim}")
                return
            self._pause(0.01)
        self.slowest[victim] = max(self.slowest.get(victim, 0.0), time.monotonic() - began)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._server.url}/admin/health", timeout=_ANSWER_SECONDS) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: TID251 - the moment is to be a random one
