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

HOLDER = """
import sys
from pathlib import Path
from supervisor.turns import Turns

with Turns(Path(sys.argv[1])).take():
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
        closing(Turns(path)) as turns,
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
    with closing(Turns(tmp_path / "turns")) as turns, closing(Turns(tmp_path / "turns")) as other:
        with pytest.raises(ValueError, match="no"), turns.take():
            raise ValueError("no")
        with other.take():
            pass
