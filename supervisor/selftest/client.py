"""A client of the server under test, like any other: over HTTP."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 10.0


class RequestFailed(Exception):
    """There was no answer, or not the one that was asked for."""


class Client:
    """Talks to one server, over one connection."""

    def __init__(self, url: str) -> None:
        """Args: url: base URL."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS)

    @property
    def port(self) -> int:
        return self._connection.port

    def close(self) -> None:
        self._connection.close()

    def submit(self, agent: str, input: dict[str, Any]) -> str:
        """Submit an execution; return its id. Raises RequestFailed."""
        return str(self._ask("POST", "/executions/run", {"agent_id": agent, "input": input})["execution_id"])

    def get(self, execution_id: str) -> dict[str, Any]:
        """Return an execution. Raises RequestFailed."""
        return self._ask("GET", f"/executions/{execution_id}")

    def cancel(self, execution_id: str) -> None:
        """Ask for the end of an execution. Raises RequestFailed."""
        self._ask("POST", f"/executions/{execution_id}/cancel")

    def log(self, execution_id: str) -> str:
        """Return what was kept of the stdout of an execution that has ended. Raises RequestFailed."""
        texts = []
        offset, size = 0, 1
        while offset < size:
            part = self._ask("GET", f"/executions/{execution_id}/logs?limit={1 << 20}&offset={offset}")
            texts.append(part["text"])
            offset, size = part["next_offset"], part["size"]
        return "".join(texts)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = self._connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The next request opens a new one.
            self._connection.close()
            raise RequestFailed(f"{method} {path}: {error}") from error
        if answer.status >= 300:
            raise RequestFailed(f"{method} {path}: {answer.status} {found.get('detail')}")
        return found
