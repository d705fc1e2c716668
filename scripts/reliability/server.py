"""A server with a data folder of its own, that can be killed and started again."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_READY_SECONDS = 60.0
_STOP_SECONDS = 60.0


class ServerFailed(Exception):
    """It does not start, or does not stop."""


class Server:
    """`corral serve`. Only the thread that makes it may start it: the server ends with that thread."""

    def __init__(
        self, folder: Path, agents: Path, serve: tuple[str, ...] = ("supervisor.cli", "serve"), **settings: Any
    ) -> None:
        """Prepare; start() starts it.

        Args:
            folder: takes its data, its temporary files and its log. serve: the module that serves, and its arguments.
            settings: a value is passed as JSON.
        """
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.url = ""
        self._environment = _environment({"data": str(self.data), "agents": str(agents), "port": 0, **settings})
        self._environment["TMPDIR"] = str(self.temporary)
        self._serve = serve
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return before it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "scripts.reliability.bound", str(os.getpid())),
                    *(sys.executable, "-m", *self._serve),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                # Ctrl-C comes to the script alone, which then stops it.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it answers requests. Raises ServerFailed."""
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _READY_SECONDS)
        found = re.search(r"http://\S+", self._process.stdout.readline() if readable else "")
        if not found:
            raise ServerFailed(f"the server does not start: {self.last_words()}")
        self.url = found.group()

    def wait(self) -> int:
        """Wait for its end after a signal; return its exit code. Raises ServerFailed."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server does not end: {self.last_words()}") from None
        self._process.stdout.close()
        return code

    def stop(self) -> None:
        """Stop it with SIGTERM. Raises ServerFailed: it does not end, or not in peace."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self.wait()
        if code:
            raise ServerFailed(f"the server ended with exit code {code}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-3:])


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return ours, with these settings of Corral and no others."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return ours | {f"CORRAL_{name.upper()}": text for name, text in texts.items()}
