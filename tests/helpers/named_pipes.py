"""Named pipes between a test and the processes of an agent, which open them when their input names them."""

import os
import select
from pathlib import Path

from tests.helpers.wait import wait_until


class Lifeline:
    """Held open by every process of a tree, which inherits it: it ends with the last of them, whoever they were.

    What they write on it are lines of text.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._said = bytearray()

    def wait_for(self, line: str, count: int = 1) -> None:
        """Wait until a line has been said so often. Raises AssertionError."""

        def said() -> bool:
            select.select([self._reader], [], [], 0.1)
            self._read()
            return self.lines.count(line) >= count

        wait_until(said)

    @property
    def lines(self) -> list[str]:
        """What has been read so far."""
        return self._said.decode().splitlines()

    def ended(self) -> bool:
        """Tell, at once, that no process holds it any more. Raises AssertionError: none ever said anything on it."""
        ended = self._read()
        assert self.lines
        return ended

    def close(self) -> None:
        os.close(self._reader)

    def _read(self) -> bool:
        try:
            while data := os.read(self._reader, 65536):
                self._said += data
        except BlockingIOError:
            return False
        return True


class Gate:
    """Somebody waits for it by opening it for reading."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)

    def open(self) -> None:
        """Let the one pass who waits or will soon wait. Raises AssertionError: nobody came."""
        wait_until(self._opened)

    def _opened(self) -> bool:
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True
