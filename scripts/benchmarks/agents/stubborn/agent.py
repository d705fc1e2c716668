import os
import signal


def run(input, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(20):
        if os.fork() == 0:
            if number == 0:
                os.setsid()
            signal.pause()
    context.progress({"processes": 21})
    signal.pause()
