"""Attacks by processes: by many of them, and by such as are hard to end."""

import contextlib
import os
import signal

import agent


def endure(count):
    """Send so many signals, of every kind that there is, to process 1."""
    numbers = sorted(signal.valid_signals())
    return sorted({agent.attempt(os.kill, 1, numbers[index % len(numbers)]) for index in range(count)})


def crowd(count):
    """Be so many processes, each in a session of its own, and replace each that dies."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(count - 1):
        fork_waiting()
    agent.CONTEXT.progress("ready")
    while True:
        os.wait()
        with contextlib.suppress(BlockingIOError):
            fork_waiting()


def fork_waiting():
    if os.fork() == 0:
        os.setsid()
        signal.pause()


def stopped_tree(count):
    """Be a chain of processes that have all stopped themselves."""
    for _ in range(count - 1):
        if os.fork():
            break
        os.setsid()
    else:
        agent.CONTEXT.progress("ready")
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_in_vfork():
    """Wait in vfork(2), which no signal but SIGKILL ends, for a child that never executes anything.

    mov eax, 58; syscall; test eax, eax; jz child; ret; child: mov eax, 34; syscall; jmp child
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    agent.CONTEXT.progress("ready")
    agent.jump_into("b83a000000" + "0f05" + "85c0" + "7401" + "c3" + "b822000000" + "0f05" + "ebf7")
