"""What a disk holds when the power goes: copies of a server's database, and of a whole file system below it.

Two files that are copied while others write are no state of a disk, in neither order: between the two copies a
checkpoint may take pages from the log into the database. The database, if it is the first, lacks them, and the log may
have begun anew; if it is the last, it has pages that the copy of the log does not know of. So all who write are stopped
first, at whatever instant. The copy is what they had written; it has also what a disk would not have yet: see Disk.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

DATABASE, LOG = "corral.db", "corral.db-wal"

# Large enough for ext4 with a journal.
_DISK_BYTES = 64 << 20


@contextmanager
def all_writers_stopped(server: RunningServer) -> Iterator[None]:
    """Stop supervisor and API wherever they are; system calls that are under way are done first."""
    writers = (server.process.pid, server.api_pid)
    for pid in writers:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all(_is_stopped(pid) for pid in writers))
        yield
    finally:
        for pid in writers:
            os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Tell whether no thread of a process runs. Source: proc(5), /proc/pid/stat."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def copy_database(data: Path, to: Path) -> None:
    """Copy what a disk has of it: not the -shm file, which is rebuilt, and is memory as long as it is used."""
    to.mkdir(mode=0o700)
    for name in (DATABASE, LOG):
        shutil.copyfile(data / name, to / name)


def executions(data: Path) -> dict[str, str]:
    """Open a database as a server after the power cut does; return {execution id: status}.

    Raises AssertionError: it is damaged.
    """
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT id, status FROM executions"))


class Load:
    """Clients that submit without a pause; a context that ends them. acknowledged: ids, in the order of the answers."""

    def __init__(self, server: RunningServer, *bodies: dict[str, object]) -> None:
        """Args: bodies: of the submits; one client for each."""
        self.acknowledged: list[str] = []
        self._url = server.url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._submit, args=(body,)) for body in bodies]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Wait until so many more are acknowledged."""
        count = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= count)

    def _submit(self, body: dict[str, object]) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while not self._over.is_set():
                answer = http.post("/executions/run", json=body)
                assert answer.status_code == 202, answer.text
                self.acknowledged.append(answer.json()["execution_id"])


class Disk:
    """A file system in a file: the file has what was written to the disk, and not what the kernel still has in memory.

    Nothing is written but what fsync(2) asks for: the kernel writes by itself after 30 seconds (vm.rst,
    dirty_expire_centisecs), and ext4 commits its journal after the time that it was mounted with (ext4(5)).
    """

    def __init__(self, image: Path, folder: Path) -> None:
        """Args: image: the file. folder: an empty one, where it is mounted."""
        self._image = image
        self.folder = folder

    @classmethod
    def new(cls, image: Path, folder: Path) -> "Disk":
        """Make an empty one. Raises OSError, CalledProcessError: it cannot be made here."""
        with image.open("wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        return cls(image, folder)

    def __enter__(self) -> "Disk":
        """Raises CalledProcessError: it cannot be mounted here."""
        self.folder.mkdir(exist_ok=True)
        command = ["mount", "-o", "loop,commit=300", str(self._image), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.folder], check=True)

    def cut_power(self, image: Path, folder: Path) -> "Disk":
        """Return the disk as it is found after the power was cut now. Args: see the constructor."""
        shutil.copyfile(self._image, image)
        return Disk(image, folder)
