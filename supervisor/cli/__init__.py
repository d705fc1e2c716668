"""The command `corral`."""

from supervisor.cli.commands import main

__all__ = ["main"]
