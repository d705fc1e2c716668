"""Has daemons and works on; they have sessions of their own, are deaf to signals and have no pipe of the run open."""

import os
import signal


def run(input, context):
    ready, tell = os.pipe()
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(tell, b"x")
                os.closerange(0, 256)
                sleep_for_ever()
            os._exit(0)
        os.wait()
        os.read(ready, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory = bytearray(32 << 20)
    memory[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * (len(memory) // os.sysconf("SC_PAGE_SIZE"))
    while os.times().user < 0.1:
        pass
    context.progress("ready")
    if input.get("until") != "end":
        sleep_for_ever()
    return {}


def sleep_for_ever():
    while True:
        signal.pause()
