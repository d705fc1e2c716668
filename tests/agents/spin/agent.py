"""Uses CPU time and memory: itself, in a child, or in a daemon that it does not wait for."""

import os
import time


def run(input):
    done_reader, done_writer = os.pipe()
    forks = {"itself": 0, "child": 1, "daemon": 2}[input["who"]]
    if fork(forks, done_writer):
        os.close(done_writer)
        os.read(done_reader, 1)
        if input["who"] == "child":
            os.wait()
    return {}


def fork(times, done):
    """Work in a process so many forks away. Returns false if that is this process."""
    if times == 0:
        work()
        return False
    if os.fork() == 0:
        fork(times - 1, done)
        os._exit(0)
    return True


def work():
    memory = b"x" * (64 << 20)
    while time.process_time() < 0.3:
        memory.count(b"y", 0, 100_000)
