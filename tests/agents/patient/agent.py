"""Stays; after SIGTERM until its gate is opened. input["result"]: give one "at once" or "after SIGTERM"."""

import os
import signal


def run(input):
    lifeline = os.open(input["lifeline"], os.O_WRONLY)

    def say(word):
        os.write(lifeline, f"{word}\n".encode())

    def give_result():
        os.write(int(os.environ["CORRAL_RESULT_FD"]), b'{"result": {"given": true}}\n')

    def on_sigterm(*_):
        if input.get("result") == "after SIGTERM":
            give_result()
        say("asked")
        with open(input["gate"]):
            os._exit(0)

    signal.signal(signal.SIGTERM, on_sigterm)
    if input.get("result") == "at once":
        give_result()
        print("given")
    say("here")
    while True:
        signal.pause()
