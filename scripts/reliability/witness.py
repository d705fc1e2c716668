"""The witness: a named pipe that agents of every tier can write to, and that no death of a process can make forget."""

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

_LOOK_SECONDS = 0.1


class Witness:
    """Passes on what agents tell. A context that listens."""

    def __init__(self, pipe: Path, tell: Callable[[str, str, int, int], None]) -> None:
        """Make the pipe, writable for the users that sandboxes have.

        Args:
            tell: takes "runs" or "stays", execution id, attempt, and the pid, as the process itself sees it.
        """
        pipe.parent.mkdir()
        os.mkfifo(pipe)
        for path, mode in ((pipe.parent, 0o755), (pipe, 0o666)):
            path.chmod(mode)
        # Open for writing too: so it never ends, and no agent waits to open it.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._tell = tell
        self._rest = b""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="witness")

    def __enter__(self) -> "Witness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop when all is read that was written."""
        self._over.set()
        self._thread.join()
        os.close(self._pipe)

    def _listen(self) -> None:
        while True:
            over = self._over.is_set()
            if select.select([self._pipe], [], [], _LOOK_SECONDS)[0]:
                self._take(os.read(self._pipe, 65536))
            elif over:
                return

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            what, execution_id, attempt, pid = line.decode().split()
            self._tell(what, execution_id, int(attempt), int(pid))
