"""The process of the server under test: that of `corral serve`, but with settings that are given, and bound to its
parent: where the selftest is killed, its server does not stay.
"""

import sys

from runner.sandbox import prctl
from supervisor import operator_log
from supervisor.errors import CorralError
from supervisor.selftest import interruption
from supervisor.server import Server
from supervisor.settings import Settings


def main(settings_json: str, parent_pid: str) -> None:
    """Serve until SIGTERM; print the base URL when requests are answered. Args: parent_pid: of the selftest."""
    prctl.die_with_parent(int(parent_pid))
    interruption.let_through()
    operator_log.configure()
    try:
        Server(Settings.model_validate_json(settings_json), lambda url: print(url, flush=True)).run()
    except CorralError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
