"""`python -m supervisor.cli`: the same as the command `corral`."""

from supervisor.cli import main

main()
