"""Its first attempt starts a daemon, in a session of its own, and never ends; the second one gives a result."""

import os
import signal


def run(input, context):
    if context.attempt > 1:
        return {"attempt": context.attempt, **input}
    daemon = os.fork()
    if daemon == 0:
        os.setsid()
    else:
        context.progress({"daemon": daemon})
    while True:
        signal.pause()
