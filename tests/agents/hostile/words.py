"""Attacks by what an agent says: as its result, in its logs, in its errors."""

import os
import signal

import agent


def say(parts, then="exit"):
    """Write frames by hand: of each part of [text, times] the characters are bytes. then: "exit" or "hang"."""
    data = memoryview(b"".join(text.encode("latin-1") * times for text, times in parts))
    while data:
        data = data[os.write(3, data) :]
    if then == "hang":
        signal.pause()
    os._exit(0)


def flood(stream, megabytes, then="exit"):
    """Print much on the descriptor."""
    block = b"x" * (1 << 20)
    for _ in range(megabytes):
        data = memoryview(block)
        while data:
            data = data[os.write(stream, data) :]
    os.write(stream, b"end")
    if then == "hang":
        signal.pause()


def print_and_raise(text, times):
    """Print a text, of which each character is a byte, so often; tell it as progress, and fail with it."""
    for stream in (1, 2):
        for _ in range(times):
            os.write(stream, text.encode("latin-1"))
    agent.CONTEXT.progress({text: text})
    raise ValueError(text)


def pretend(execution_id):
    """Say that this is another run."""
    os.environ["CORRAL_EXECUTION_ID"] = agent.CONTEXT.execution_id = execution_id
    return execution_id
