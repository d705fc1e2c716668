"""Taking turns between processes."""

import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.turns import Turns
from tests.helpers.processes import wait_for_exit
from tests.helpers.wait import wait_until

HOLDER = """
import sys
from pathlib import Path
from supervisor.turns import Turns

with Turns(Path(sys.argv[1]), 20).take():
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_turn_is_waited_for_until_the_other_process_leaves_or_dies(tmp_path: Path, end: str) -> None:
    path = tmp_path / "turns"
    took = threading.Event()

    def take() -> None:
        with turns.take():
            took.set()

    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        closing(Turns(path, 20)) as turns,
    ):
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "has it\n"
        waiting = threading.Thread(target=take)
        waiting.start()
        assert not took.wait(0.05)
        if end == "leaves":
            other.stdin.close()
        else:
            other.send_signal(signal.SIGKILL)
        wait_for_exit(other.pid)
        waiting.join(20)
        assert took.is_set()


def test_turn_ends_with_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    with closing(Turns(path, 20)) as turns, closing(Turns(path, 20)) as other:
        with pytest.raises(ValueError, match="no"), turns.take():
            raise ValueError("no")
        with other.take():
            pass


def test_turn_that_does_not_come_is_given_up_and_the_next_one_comes(tmp_path: Path) -> None:
    path = tmp_path / "turns"
    threads = threading.active_count()
    took = threading.Event()

    def take() -> None:
        with turns.take():
            took.set()

    with closing(Turns(path, 1)) as turns, closing(Turns(path, 20)) as other:
        with other.take():
            for _ in range(2):
                with pytest.raises(TimeoutError, match="another process has been writing"), turns.take():
                    pass
            assert threading.active_count() == threads + 1
        wait_until(lambda: threading.active_count() == threads)
        # The place in line that nobody wanted any more has let go of the lock.
        with other.take():
            waiting = threading.Thread(target=take)
            waiting.start()
            wait_until(lambda: threading.active_count() == threads + 2)
            assert not took.is_set()
        waiting.join(20)
        assert took.is_set()
    wait_until(lambda: threading.active_count() == threads)
