"""What an agent can reach only if it is out of its sandbox: things on the host that tell when they are touched."""

import secrets
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECRET_NAME = "SELFTEST_SECRET"

_CODE = Path(__file__).with_name("hostile")

# For a text that was sent before the connection was found.
_READ_SECONDS = 1.0


class Traps:
    """A folder with a canary in it, two listening sockets, and a secret; a context that removes them.

    The folder and the canary are open to every user of the machine, as much on the host is: so that it is the sandbox
    that keeps agents from them.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self._token = secrets.token_hex(16)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._abstract_name = f"corral-selftest-{secrets.token_hex(4)}"
        self._abstract = socket.socket(socket.AF_UNIX)
        self._abstract.bind(f"\0{self._abstract_name}")
        self._abstract.listen()
        for listener in (self._tcp, self._abstract):
            listener.setblocking(False)
        self._heard = {"the TCP listener": b"", "the abstract Unix socket": b""}
        self.folder = Path(tempfile.mkdtemp(prefix="corral-selftest-"))
        self.folder.chmod(0o755)
        self.agents = self.folder / "agents"
        self.data = self.folder / "data"
        self._make_folder(self.agents)
        self._canary = self.folder / "canary"
        self._canary.write_text(self._token)
        self._canary.chmod(0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in (self._tcp, self._abstract):
            listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_agent(self, name: str, manifest: str) -> None:
        """Make the folder of an agent with the code of the probes; all may read it: as root, agents are other users."""
        folder = self.agents / name
        code = folder / _CODE.name
        for made in (folder, code):
            self._make_folder(made)
        texts = {code / source.name: source.read_text() for source in _CODE.glob("*.py")}
        for path, text in {**texts, folder / "agent.toml": manifest}.items():
            path.write_text(text)
            path.chmod(0o644)

    @property
    def places(self) -> dict[str, Any]:
        """Return what the probes are told to aim at."""
        return {
            "canary": str(self._canary),
            "data": str(self.data),
            "abstract": self._abstract_name,
            "ports": [self._tcp.getsockname()[1]],
            "secret_name": SECRET_NAME,
        }

    def sprung(self, mark: str, told: str) -> frozenset[str]:
        """Return the names of the traps that a probe has set off.

        Args:
            mark: what it writes wherever it gets. told: all that it has said.
        """
        self._listen()
        signs = {
            "the server's secret": self.secret in told,
            "the canary, by reading": self._token in told,
            "the canary, by writing": mark in self._canary.read_text(errors="replace"),
            **{name: mark.encode() in heard for name, heard in self._heard.items()},
        }
        return frozenset(name for name, seen in signs.items() if seen)

    def _listen(self) -> None:
        for name, listener in zip(self._heard, (self._tcp, self._abstract), strict=True):
            while True:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    break
                self._heard[name] += _read(connection)

    @staticmethod
    def _make_folder(folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o755)


def _read(connection: socket.socket) -> bytes:
    with connection:
        connection.settimeout(_READ_SECONDS)
        try:
            return connection.recv(64) + b"\n"
        except OSError:
            return b""
