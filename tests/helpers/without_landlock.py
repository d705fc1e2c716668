"""A world whose kernel has no Landlock: a filter says so. Run with a command, becomes that command."""

import errno
import os
import struct
import sys

from runner.sandbox import prctl, seccomp

# The commands that are to live in that world are the arguments of this one.
WRAPPER = (sys.executable, "-m", "tests.helpers.without_landlock")

# Source: seccomp(2), linux/bpf_common.h: load the number of the call; if it is landlock_create_ruleset(2), ENOSYS.
_PROGRAM = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 444),
        (0x06, 0, 0, 0x00050000 | errno.ENOSYS),
        (0x06, 0, 0, 0x7FFF0000),
    )
)

if __name__ == "__main__":
    prctl.forbid_new_privileges()
    seccomp.load(_PROGRAM)
    os.execvp(sys.argv[1], sys.argv[1:])
