"""Every way an agent can behave in a chaos run; each is an entry point of its own. The first thing is to tell of it."""

import hashlib
import json
import os
import signal
import sys
import time


def _answer(input):
    """Tell the witness that this attempt is under way, and return what only the agent of this input can know."""
    _tell("runs")
    return {"nonce": input["nonce"], "digest": hashlib.sha256(input["nonce"].encode()).hexdigest()}


def _tell(what):
    """Tell the witness. A short write to a pipe is not mixed with others. Source: pipe(7), PIPE_BUF."""
    line = f"{what} {os.environ['CORRAL_EXECUTION_ID']} {os.environ['CORRAL_ATTEMPT']} {os.getpid()}\n"
    with open(os.environ["WITNESS"], "wb", buffering=0) as witness:
        witness.write(line.encode())


def _sleep():
    time.sleep(600)


def _become_another_program():
    os.execv("/bin/sleep", ["sleep", "600"])


def _leave_a_grandchild(go_on=_sleep):
    """Leave a process that is detached, ignores SIGTERM and has no end. Args: go_on: what it does."""
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            _tell("stays")
            go_on()
        os._exit(0)


def quick(input):
    return _answer(input)


def slow(input, context):
    answer = _answer(input)
    _leave_a_grandchild()
    for step in range(4):
        context.progress({"step": step})
        time.sleep(input["seconds"] / 4)
    return answer


def large(input):
    answer = _answer(input)
    return {**answer, "filler": answer["digest"] * 5000}


def floods_logs(input):
    answer = _answer(input)
    for stream in (sys.stdout, sys.stderr):
        for number in range(20_000):
            print(number, "x" * 90, file=stream)
    return answer


def floods_progress(input, context):
    answer = _answer(input)
    for number in range(2000):
        context.progress({"number": number})
    return answer


def floods_result(input):
    return {**_answer(input), "filler": "x" * (2 << 20)}


def forks(input):
    answer = _answer(input)
    for go_on in (_sleep, _become_another_program) * 2:
        _leave_a_grandchild(go_on)
    return answer


def keeps(input, context):
    answer = _answer(input)
    with open(os.path.join(context.workdir, "answer.json"), "w") as file:
        json.dump(answer, file)
    return answer


def fails(input):
    _answer(input)
    raise RuntimeError(input["nonce"])


def exits(input):
    _answer(input)
    os._exit(3)


def says_nothing(input):
    _answer(input)
    os._exit(0)


def crashes(input):
    _answer(input)
    os.kill(os.getpid(), signal.SIGSEGV)
    signal.pause()


def stubborn(input):
    """Ignore SIGTERM, with a child that does so too, until the time is up."""
    _answer(input)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.fork()
    time.sleep(600)
