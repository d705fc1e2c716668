"""One server per data folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.machine.lock import FileLock
from tests.helpers.processes import wait_for_exit

# Takes the lock, tells so, and holds it until its stdin ends.
HOLDER = """
import sys
from pathlib import Path
from supervisor.machine.lock import FileLock

lock = FileLock(Path(sys.argv[1]))
lock.acquire(0)
print("has it", flush=True)
sys.stdin.read()
"""

# The same, and a child holds it too; the holder dies at once and is not waited for.
HEIR = """
import os, subprocess, sys
from pathlib import Path
from supervisor.machine.lock import FileLock

lock = FileLock(Path(sys.argv[1]))
lock.acquire(0)
subprocess.Popen([sys.executable, "-c", "print('has it', flush=True); input()"], pass_fds=[lock.fileno()])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@contextmanager
def process(code: str, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock."""
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        yield holder


def test_lock_that_is_free_is_taken_and_names_our_pid(file: Path) -> None:
    file.write_text("99999999 and more")
    with closing(FileLock(file)) as lock:
        lock.acquire(0)
        assert file.read_text() == f"{os.getpid()}\n"


def test_lock_of_a_living_server_is_refused_at_once_and_the_pid_named(file: Path) -> None:
    with process(HOLDER, file) as holder, closing(FileLock(file)) as lock:
        with pytest.raises(ConfigurationError, match=f"the server with pid {holder.pid} is using it$"):
            lock.acquire(600)
        assert file.read_text() == f"{holder.pid}\n"


def test_lock_of_a_killed_server_is_free(file: Path) -> None:
    with process(HOLDER, file) as holder:
        holder.send_signal(signal.SIGKILL)
        wait_for_exit(holder.pid)
        with closing(FileLock(file)) as lock:
            lock.acquire(0)


def test_lock_that_a_dead_servers_child_holds_is_waited_for(file: Path) -> None:
    with process(HEIR, file) as dead:
        assert dead.stdin is not None
        dead.wait(20)
        with closing(FileLock(file)) as lock:
            with pytest.raises(ConfigurationError, match=f"pid {dead.pid} "):
                lock.acquire(0.05)
            dead.stdin.close()
            lock.acquire(20)
            assert file.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["", "no pid", "-1", "\x00\xff"])
def test_lock_held_by_nobody_knows_whom_is_refused(file: Path, content: str) -> None:
    file.write_bytes(content.encode("latin-1"))
    with closing(FileLock(file)) as lock, closing(FileLock(file)) as other:
        lock.acquire(0)
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(ConfigurationError, match=r"^cannot use "):
            other.acquire(600)


def test_lock_file_is_its_owners_alone(file: Path) -> None:
    FileLock(file).close()
    assert file.stat().st_mode & 0o777 == 0o600


def test_lock_is_free_after_close(file: Path) -> None:
    for _ in range(2):
        with closing(FileLock(file)) as lock:
            lock.acquire(0)


def test_lock_that_this_process_has_by_an_inherited_descriptor_is_not_taken_from_it(file: Path) -> None:
    with closing(FileLock(file)) as before:
        before.acquire(0)
        with closing(FileLock(file, os.dup(before.fileno()))) as lock:
            lock.acquire(0)
            lock.tell("news")
            assert file.read_text() == f"{os.getpid()}\nnews\n"
        with closing(FileLock(file)) as other:
            assert other.read() == (os.getpid(), "news")


def test_lock_with_the_inherited_descriptor_of_another_file_is_another_lock(file: Path) -> None:
    with process(HOLDER, file) as holder, (file.parent / "other").open("w") as other:
        lock = FileLock(file, os.dup(other.fileno()))
        with closing(lock), pytest.raises(ConfigurationError, match=f"pid {holder.pid} "):
            lock.acquire(0)


def test_lock_that_nobody_has_tells_nothing_and_is_not_taken_by_being_read(file: Path) -> None:
    with closing(FileLock(file)) as lock, closing(FileLock(file)) as other:
        assert lock.read() is None
        other.acquire(0)
        assert lock.read() == (os.getpid(), "")
