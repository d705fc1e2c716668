"""Never ends by itself. It ignores SIGTERM, and so do its children, one of them a detached daemon: try to cancel it.

    run ─┬─ child 1 ── grandchild
         ├─ child 2
         └─ child 3
    daemon             in its own session, its parent gone

Six processes, all asleep.
"""

import os
import signal


def run(input):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spawn("child 1", parent_of_grandchild)
    spawn("child 2", sleep_for_ever)
    spawn("child 3", sleep_for_ever)
    os.waitpid(spawn("a starter, who soon leaves", detach), 0)
    say("the agent itself is here to stay")
    sleep_for_ever()


def spawn(name, work):
    """Fork a process that ignores SIGTERM, as its parent does, and that ends when its work does."""
    pid = os.fork()
    if pid == 0:
        say(f"{name} has started")
        work()
        os._exit(0)
    return pid


def parent_of_grandchild():
    spawn("grandchild", sleep_for_ever)
    sleep_for_ever()


def detach():
    os.setsid()
    spawn("daemon", sleep_for_ever)


def sleep_for_ever():
    while True:
        signal.pause()


def say(text):
    print(f"{text}, pid {os.getpid()}", flush=True)
