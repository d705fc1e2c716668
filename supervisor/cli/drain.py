"""`corral drain`."""

from pathlib import Path
from typing import Annotated

import typer

from supervisor.control import DRAIN, conversation
from supervisor.settings import load

# A supervisor that lives answers in milliseconds.
_PATIENCE_SECONDS = 10.0


def drain(
    data: Annotated[Path | None, typer.Option(help="Data folder of the server.")] = None,
    config: Annotated[
        Path | None, typer.Option(envvar="CORRAL_CONFIG", help="Settings file; default: corral.toml.")
    ] = None,
) -> None:
    """Have a server launch nothing more and end when its runs have ended; wait for that.

    What waits in the queue is kept for the next start. The server's setting drain_timeout_seconds bounds the time. To
    leave with Ctrl-C does not call it off.
    """
    with conversation(load({"data": data}, config).data, _PATIENCE_SECONDS) as server:
        running = server.ask(DRAIN)["running"]
        print(f"The server launches nothing more. Runs that it waits for: {running}", flush=True)
        server.wait_for_end()
    print("The server has ended.")
