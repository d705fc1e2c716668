"""The account of a chaos run, kept outside the server: what it has promised to whom, and each promise it has broken.

In memory, and each entry also at the end of a file, so that an account of a run that was cut short is still there.
"""

import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from scripts.reliability import family, rules
from scripts.reliability.entry import FINAL, Entry
from scripts.reliability.rules import Kill

_MICROSECONDS = 1_000_000


class Ledger:
    """May be called from any thread. violations: a sentence each. answers: how many, by status; "none" for none."""

    def __init__(self, file: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self.kills: list[Kill] = []
        self.violations: list[str] = []
        self.answers: Counter[str] = Counter()
        self._witnessed: dict[str, Counter[int]] = defaultdict(Counter)
        self._pids: dict[str, set[int]] = defaultdict(set)
        self._lock = threading.Lock()
        self._lines = file.open("a", buffering=1)

    def close(self) -> None:
        self._lines.close()

    def send(self, entry: Entry) -> None:
        """A submit is about to be sent, for the first time or again."""
        with self._lock:
            self.entries[entry.nonce] = entry
            entry.sent += 1
            self._write("send", nonce=entry.nonce, agent=entry.kind.name)

    def acknowledge(self, entry: Entry, execution_id: str) -> None:
        """A submit was answered with 202."""
        with self._lock:
            self._hold(entry, rules.acknowledged(entry, execution_id))
            entry.execution_id = execution_id
            self._write("acknowledge", nonce=entry.nonce, execution=execution_id)

    def send_cancel(self, entry: Entry) -> None:
        """A cancel is about to be sent."""
        with self._lock:
            entry.cancel_sent = True
            self._write("cancel", execution=entry.execution_id)

    def cancel_answered(self, entry: Entry, code: int, status: str) -> None:
        """A cancel was answered: 202, it is being stopped; 200, it had ended, and how."""
        with self._lock:
            self._write("cancel answered", execution=entry.execution_id, code=code, status=status)
            self._hold(entry, rules.answer_to_cancel(entry, code, status))
            if code == 202:
                entry.cancel_promised = True
            else:
                entry.told = status.upper()

    def see(self, entry: Entry, body: dict[str, Any]) -> None:
        """An execution was read."""
        with self._lock:
            if entry.seen is None or entry.seen["status"] != body["status"]:
                self._write("see", execution=entry.execution_id, status=body["status"], end=body["termination"])
            self._hold(entry, rules.reading(entry, body))
            if body["status"] in FINAL and not entry.ended:
                self._hold(entry, rules.end(entry, body, self.kills))
                self._hold(entry, self._survivors(entry, body))
            entry.seen = body

    def kill(self, victim: str, pid: int) -> None:
        """A process is about to be killed."""
        with self._lock:
            self.kills.append(Kill(victim, int(time.time() * _MICROSECONDS)))
            self._write("kill", victim=victim, pid=pid)

    def witness(self, what: str, execution_id: str, attempt: int, pid: int) -> None:
        """A process of an agent has told that the agent runs, or that it stays. Args: see Witness."""
        with self._lock:
            self._pids[execution_id].add(pid)
            if what == "runs":
                self._witnessed[execution_id][attempt] += 1
            self._write(what, execution=execution_id, attempt=attempt, pid=pid)

    def count_answer(self, code: str) -> None:
        """A request was answered, or not."""
        with self._lock:
            self.answers[code] += 1

    def accuse(self, sentence: str) -> None:
        """A promise was broken that has nothing to do with one execution."""
        with self._lock:
            self._note(sentence)

    def balance(self, recorded: dict[str, list[str]]) -> None:
        """Compare with what is recorded in the end. Args: recorded: {nonce: execution ids}."""
        with self._lock:
            for nonce in recorded.keys() - self.entries.keys():
                self._note(f"executions {recorded[nonce]} of a submit that was never sent: {nonce}")
            for entry in self.entries.values():
                self._hold(entry, rules.recorded(entry, recorded.get(entry.nonce, [])))
                if entry.execution_id:
                    self._hold(entry, rules.ran(entry, self._witnessed[entry.execution_id]))
                    if not entry.ended:
                        self._note(f"execution {entry.execution_id} has not ended: {entry.seen}")

    def _survivors(self, entry: Entry, body: dict[str, Any]) -> list[str]:
        """Look for processes of a trusted agent, which sees its pids as we do: none lives when its end is recorded."""
        if entry.kind.tier != "trusted":
            return []
        ended = rules.microseconds(body["completed_at"]) / _MICROSECONDS
        pids = self._pids[body["execution_id"]]
        return [f"process {pid} of it lives after its end" for pid in pids if family.is_older(pid, ended)]

    def _hold(self, entry: Entry, sentences: list[str]) -> None:
        for sentence in sentences:
            self._note(f"execution {entry.execution_id or entry.nonce} of agent {entry.kind.name}: {sentence}")

    def _note(self, sentence: str) -> None:
        self._write("violation", sentence=sentence)
        self.violations.append(sentence)

    def _write(self, what: str, **details: Any) -> None:
        self._lines.write(json.dumps({"at": round(time.time(), 6), "what": what, **details}) + "\n")
