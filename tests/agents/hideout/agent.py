"""Ignores SIGTERM, and so does its daemon: double-forked, in its own session, with no pipe of the run open."""

import os
import signal


def run(input, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            os.closerange(0, 256)
            sleep_for_ever()
        os._exit(0)
    os.wait()
    context.progress({"daemon": int(os.read(reader, 20))})
    sleep_for_ever()


def sleep_for_ever():
    while True:
        signal.pause()
