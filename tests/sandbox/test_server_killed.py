"""What becomes of sandboxed runs when the server does not live to end them."""

import os
import signal
from pathlib import Path

from tests.helpers.processes import descendants, wait_for_exit
from tests.helpers.server import RunningServer


def test_sandboxed_tree_does_not_outlive_supervisor_and_launcher_killed_together(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data") as server:
        server.wait_for_progress(server.submit("hostile", attack="fork_bomb"))
        assert len(server.runs()) > 2
        everybody = descendants(server.process.pid)
        launcher_pid = server.launcher_pid
        os.kill(launcher_pid, signal.SIGSTOP)
        server.process.kill()
        os.kill(launcher_pid, signal.SIGKILL)
        for pid in everybody:
            wait_for_exit(pid, 5.0)
