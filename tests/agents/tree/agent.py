"""Process trees that are hard to stop; input["shape"] names one.

Every process has the lifeline open and, once it is as it is meant to be, says a word on it. None lives longer than
LIFETIME_SECONDS, whatever the server does.
"""

import contextlib
import os
import signal
import time

LIFETIME_SECONDS = 60
lifeline = -1


def run(input):
    global lifeline
    lifeline = os.open(input["lifeline"], os.O_WRONLY)
    SHAPES[input["shape"]]()
    return {"shape": input["shape"]}


def say(word):
    os.write(lifeline, f"{word}\n".encode())


def live():
    say("here")
    time.sleep(LIFETIME_SECONDS)
    os._exit(0)


def fork(*steps):
    """Fork a process that takes these steps."""
    pid = os.fork()
    if pid == 0:
        for step in steps:
            step()
        os._exit(0)
    return pid


def ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def obedient():
    fork(live)
    live()


def deaf():
    ignore_sigterm()
    live()


def deaf_child():
    fork(ignore_sigterm, live)
    live()


def sessions():
    fork(os.setsid, ignore_sigterm, lambda: fork(os.setsid, live), live)
    live()


def daemon():
    ignore_sigterm()
    os.waitpid(fork(os.setsid, lambda: fork(live)), 0)
    live()


def groups():
    ignore_sigterm()
    for _ in range(20):
        fork(os.setpgrp, lambda: fork(live), live)
    live()


def stop_itself():
    say("here")
    os.kill(os.getpid(), signal.SIGSTOP)
    live()


def stopped():
    fork(stop_itself)
    stop_itself()


def stop_again_and_again():
    """Stop on each SIGCONT too."""
    ignore_sigterm()
    signal.signal(signal.SIGCONT, lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
    stop_itself()


def chain(length=12):
    ignore_sigterm()
    if length > 1:
        fork(lambda: chain(length - 1))
    live()


def twenty_one():
    ignore_sigterm()
    os.waitpid(fork(os.setsid, lambda: fork(live)), 0)
    for _ in range(19):
        fork(live)
    live()


def replace_the_dead():
    """Fork again for each child that dies; each has a session of its own, which no signal to a group reaches."""
    ignore_sigterm()
    signal.signal(signal.SIGCHLD, lambda *_: reap_and(lambda: fork(os.setsid, live)))
    for _ in range(40):
        fork(os.setsid, live)
    say("here")
    end = time.monotonic() + LIFETIME_SECONDS
    while time.monotonic() < end:
        time.sleep(1)


def reap_and(act):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            act()


def bomb(depth=3):
    """Every process forks two more, down to the leaves, which end and are replaced."""
    ignore_sigterm()
    if depth == 3:
        say("here")
    end = time.monotonic() + LIFETIME_SECONDS
    for _ in range(2):
        fork(lambda: bomb(depth - 1) if depth > 1 else time.sleep(0.01))
    while time.monotonic() < end:
        os.waitpid(-1, 0)
        fork(lambda: bomb(depth - 1) if depth > 1 else time.sleep(0.01))


def hop():
    """Fork and exit, again and again: no pid is there for longer than a moment."""
    ignore_sigterm()
    say("here")
    end = time.monotonic() + LIFETIME_SECONDS
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)


def hop_between_sessions():
    ignore_sigterm()
    say("here")
    end = time.monotonic() + LIFETIME_SECONDS
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        os.setsid()


def hopper():
    fork(hop)
    live()


def session_hopper():
    fork(hop_between_sessions)
    live()


def leave_a_child():
    say("here")
    fork(live)


def leave_a_daemon():
    say("here")
    os.waitpid(fork(os.setsid, lambda: fork(ignore_sigterm, live)), 0)


def leave_a_hopper():
    say("here")
    fork(hop_between_sessions)


def fail_and_leave_a_child():
    leave_a_child()
    raise ValueError("no such city")


def kill_the_parent():
    """Whoever adopts the orphans of this tree is not told what they are."""
    os.waitpid(fork(os.setsid, lambda: fork(ignore_sigterm, live)), 0)
    fork(ignore_sigterm, live)
    say("here")
    os.kill(os.getppid(), signal.SIGKILL)
    live()


def kill_the_parent_on_sigterm():
    os.waitpid(fork(os.setsid, lambda: fork(ignore_sigterm, live)), 0)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGKILL))
    live()


def stop_the_parent():
    os.kill(os.getppid(), signal.SIGSTOP)
    live()


SHAPES = {
    shape.__name__: shape
    for shape in (
        obedient,
        deaf,
        deaf_child,
        sessions,
        daemon,
        groups,
        stopped,
        stop_again_and_again,
        chain,
        twenty_one,
        replace_the_dead,
        bomb,
        hopper,
        session_hopper,
        leave_a_child,
        leave_a_daemon,
        leave_a_hopper,
        fail_and_leave_a_child,
        kill_the_parent,
        kill_the_parent_on_sigterm,
        stop_the_parent,
    )
}
