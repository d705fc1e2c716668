"""Becomes a command whose first process does not outlive ours: a chaos run that is killed leaves no server."""

import os
import sys

from runner.sandbox import prctl

if __name__ == "__main__":
    prctl.die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
