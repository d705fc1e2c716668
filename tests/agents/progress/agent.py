"""Tells its progress in ways that are not the usual one: from threads, from a signal handler, and too late."""

import signal
import sys
import threading
import time


class SlowLog:
    """Takes its time between the result and the end of the process."""

    def flush(self):
        time.sleep(0.1)


def until_the_end(context):
    while True:
        context.progress("still here")


def in_a_handler(context):
    signal.signal(signal.SIGALRM, lambda *_: context.progress("in a handler"))
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    for _ in range(5000):
        context.progress("in a loop")
    signal.setitimer(signal.ITIMER_REAL, 0)


def large_ones(context, letter):
    for _ in range(20):
        context.progress(letter * 60_000)


def run(input, context):
    way = input["way"]
    if way == "a daemon thread":
        threading.Thread(target=until_the_end, args=(context,), daemon=True).start()
        sys.stdout = SlowLog()
    elif way == "a handler":
        in_a_handler(context)
    elif way == "threads":
        threads = [threading.Thread(target=large_ones, args=(context, letter)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif way == "not JSON":
        context.progress({input["not"]: {"set": {1}, "NaN": float("nan"), "surrogate": "\ud800"}[input["not"]]})
    return {}
