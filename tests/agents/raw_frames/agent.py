"""Writes its frames by hand, as the input says: what a careless library might do.

frames: texts, of which each character is one byte; a number stands for so many x.
"""

import fcntl
import os
import time

RESULT_FD = int(os.environ["CORRAL_RESULT_FD"])


def run(input):
    fcntl.fcntl(RESULT_FD, fcntl.F_SETPIPE_SZ, input.get("pipe_bytes", 65_536))
    parts = ("x" * part if isinstance(part, int) else part for part in input["frames"])
    data = memoryview("".join(parts).encode("latin-1") * input.get("times", 1))
    while data:
        data = data[os.write(RESULT_FD, data) :]
    if input.get("close"):
        os.close(RESULT_FD)
    time.sleep(input.get("hang", 0))
    os._exit(input.get("exit", 0))
