"""Ends badly, in the way that input["how"] names."""

import ctypes
import os
import signal
import sys


def run(input):
    print("a word before the end", file=sys.stderr)
    WAYS[input["how"]]()
    return {}


def recurse():
    recurse()


class Endless:
    def __repr__(self):
        return repr(self)


def overflow_the_stack():
    sys.setrecursionlimit(1 << 30)
    repr(Endless())


def fail():
    raise ValueError("no such city")


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no word about it")


def fail_without_words():
    raise Unspeakable


def interrupt():
    raise KeyboardInterrupt


WAYS = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "_exit 0": lambda: os._exit(0),
    "_exit 3": lambda: os._exit(3),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL to its group": lambda: os.killpg(0, signal.SIGKILL),
    "recursion": recurse,
    "stack overflow": overflow_the_stack,
    "exception": fail,
    "exception without words": fail_without_words,
    "interrupt": interrupt,
    "sys.exit()": sys.exit,
    "sys.exit(7)": lambda: sys.exit(7),
    "sys.exit(text)": lambda: sys.exit("I have had enough"),
    "no descriptors": lambda: os.closerange(0, 1000),
    "no result pipe": lambda: os.close(int(os.environ["CORRAL_RESULT_FD"])),
    "no stdout": lambda: setattr(sys, "stdout", None),
}
