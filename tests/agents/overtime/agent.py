"""Does not end in time. After SIGTERM it does what input["then"] says: "clean up" and exit, or "go on"."""

import os
import signal
import time


def run(input):
    lifeline = os.open(input["lifeline"], os.O_WRONLY)

    def on_sigterm(*_):
        os.write(lifeline, b"asked\n")
        if input["then"] == "clean up":
            os.write(int(os.environ["CORRAL_RESULT_FD"]), b'{"result": {}}\n')
            os.write(lifeline, b"clean\n")
            os._exit(0)

    signal.signal(signal.SIGTERM, on_sigterm)
    os.write(lifeline, b"here\n")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(60)
