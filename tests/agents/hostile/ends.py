"""Attacks by the way in which an agent ends, or does not."""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time

import agent


def exit_at_once(code):
    os._exit(code)


def leave(code):
    sys.exit(code)


def read_at_zero():
    ctypes.string_at(0)


def abort():
    os.abort()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def close_the_result():
    os.close(3)
    os._exit(0)


def close_all():
    os.closerange(0, 3)


def dump_core():
    """Return whether a process that dies of a signal leaves an image of itself, and what is in its folder then."""
    pid = os.fork()
    if pid == 0:
        os.chdir("/work")
        os.abort()
    _, status = os.waitpid(pid, 0)
    return [os.WTERMSIG(status), os.WCOREDUMP(status), os.listdir("/work")]


def recurse():
    """Recurse until no memory is left."""
    sys.setrecursionlimit(1_000_000_000)
    recurse()


class Endless:
    def __repr__(self):
        return repr(self)


def recurse_in_c():
    """Recurse until no stack is left."""
    sys.setrecursionlimit(1_000_000_000)
    repr(Endless())


class Lingerer:
    def __del__(self):
        agent.spin()


def linger():
    """Have everything that could prolong the end of a Python program."""
    atexit.register(agent.spin)
    threading.Thread(target=time.sleep, args=(3600,)).start()
    threading.excepthook = sys.excepthook = lambda *_: agent.spin()
    agent.LINGERER = Lingerer()


class Speechless(Exception):
    def __str__(self):
        agent.spin()


def raise_what_has_no_end():
    raise Speechless


def raise_much(size):
    raise ValueError("x" * size + "end")


def end_at_the_deadline():
    """Exit when the server is to stop this."""
    deadline = agent.CONTEXT.deadline
    agent.CONTEXT.progress(deadline)
    time.sleep(max(0.0, deadline - time.time()))
