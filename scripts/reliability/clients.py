"""The clients of a chaos run: each submits, looks and cancels as its random numbers tell, come what may."""

import http.client
import json
import random
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from scripts.reliability.entry import Entry
from scripts.reliability.ledger import Ledger
from scripts.reliability.mix import KINDS

_TIMEOUT_SECONDS = 20.0
_PAUSE_SECONDS = 0.02
_AGAIN_SECONDS = 0.1

# More of its executions than this do not wait or run at once.
_MOST_OPEN = 8

_ACTIONS = {"submit": 6, "submit again": 1, "look": 12, "look again": 2, "cancel": 1}


class NoAnswer(Exception):
    """The server died before it answered, or says that it cannot now."""


class Connection:
    """To wherever the server is now."""

    def __init__(self, url: Callable[[], str], ledger: Ledger) -> None:
        self._url = url
        self._ledger = ledger
        self._connection: http.client.HTTPConnection | None = None
        self._connected_to = ""

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, key: str = "") -> tuple[int, Any]:
        """Return status and body of an answer. Raises NoAnswer."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key:
            headers["Idempotency-Key"] = f'"{key}"'
        self.open()
        assert self._connection is not None
        connection = self._connection
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            code, content = answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            self._ledger.count_answer("none")
            raise NoAnswer(str(error)) from error
        self._ledger.count_answer(str(code))
        if code == 503:
            raise NoAnswer(content.get("detail", ""))
        return code, content

    def open(self) -> None:
        """Connect to the server if it is another one than before. Raises NoAnswer: nothing was sent."""
        url = self._url()
        if self._connection is not None and url == self._connected_to:
            return
        self.close()
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise NoAnswer(str(error)) from error
        self._connection, self._connected_to = connection, url

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None


class Client:
    """One thread."""

    def __init__(self, name: str, seed: str, url: Callable[[], str], ledger: Ledger) -> None:
        """Args: name: begins its nonces. url: returns the base URL of now."""
        self._name = name
        self._random = random.Random(seed)
        self._ledger = ledger
        self._connection = Connection(url, ledger)
        self._entries: list[Entry] = []
        self._unanswered: Entry | None = None
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._actions = {
            "submit": self._submit,
            "submit again": self._submit_again,
            "look": self._look,
            "look again": self._look_again,
            "cancel": self._cancel,
        }
        self.thread = threading.Thread(target=self._run, name=name)

    def close(self) -> None:
        """Submit nothing more; the thread ends when all of its executions have ended."""
        self._closing.set()

    def give_up(self) -> None:
        """End as soon as possible."""
        self._given_up.set()

    def look_at_all(self) -> None:
        """Read every execution once more; after the thread has ended, and while nobody is killed."""
        try:
            for entry in self._entries:
                self._read(entry)
        except NoAnswer as error:
            self._ledger.accuse(f"client {self._name} gets no answer, though nothing is killed any more: {error}")
        self._connection.close()

    def _run(self) -> None:
        while not self._given_up.is_set() and not (self._closing.is_set() and self._is_done()):
            try:
                self._act()
                self._given_up.wait(self._random.uniform(0, 2 * _PAUSE_SECONDS))
            except NoAnswer:
                self._given_up.wait(_AGAIN_SECONDS)
            except Exception as error:
                self._ledger.accuse(f"client {self._name} does not understand an answer: {error!r}")
        self._connection.close()

    def _is_done(self) -> bool:
        return self._unanswered is None and not self._open()

    def _open(self) -> list[Entry]:
        return [entry for entry in self._entries if not entry.ended]

    def _act(self) -> None:
        if self._unanswered:
            self._send(self._unanswered)
            return
        (action,) = self._random.choices(list(_ACTIONS), list(_ACTIONS.values()))
        self._actions[action]()

    def _submit(self) -> None:
        if self._closing.is_set() or len(self._open()) >= _MOST_OPEN:
            self._look()
            return
        (kind,) = self._random.choices(list(KINDS.values()), [kind.share for kind in KINDS.values()])
        self._send(Entry(f"{self._name}-{len(self._entries)}-{self._random.randrange(1 << 32):08x}", kind))

    def _submit_again(self) -> None:
        """Send one again that was answered, as if the answer had been lost on its way."""
        if self._entries:
            self._send(self._random.choice(self._entries))

    def _send(self, entry: Entry) -> None:
        """Send a submit, the same one again until it is answered: a client that got no answer cannot know."""
        self._unanswered = entry
        self._connection.open()
        self._ledger.send(entry)
        wanted = {"nonce": entry.nonce, "seconds": int(entry.nonce[-2:], 16) / 100}
        body = {"agent_id": entry.kind.name, "input": wanted}
        code, answer = self._connection.ask("POST", "/executions/run", body, key=entry.nonce)
        self._unanswered = None
        if code != 202:
            self._ledger.accuse(f"submit {entry.nonce} was answered {code}: {answer}")
            return
        if entry.execution_id is None:
            self._entries.append(entry)
        self._ledger.acknowledge(entry, answer["execution_id"])

    def _look(self) -> None:
        if found := self._open():
            self._read(self._random.choice(found))

    def _look_again(self) -> None:
        if self._entries:
            self._read(self._random.choice(self._entries))

    def _read(self, entry: Entry) -> None:
        code, body = self._connection.ask("GET", f"/executions/{entry.execution_id}")
        if code == 200:
            self._ledger.see(entry, body)
        else:
            self._ledger.accuse(
                f"execution {entry.execution_id} was acknowledged, and now the answer is {code}: {body}"
            )

    def _cancel(self) -> None:
        """Cancel one that has not ended, or, seldom, one that has."""
        found = self._entries if self._random.random() < 0.1 else self._open()
        if not found:
            return
        entry = self._random.choice(found)
        self._ledger.send_cancel(entry)
        code, answer = self._connection.ask("POST", f"/executions/{entry.execution_id}/cancel")
        self._ledger.cancel_answered(entry, code, answer.get("status", ""))
