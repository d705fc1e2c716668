"""Calls an agent's Python entry point and writes its frames; the agent's side of the result pipe.

Runs inside the agent's world, in one of two ways: forked from the launcher, or started by file with the agent's own
interpreter (`python -I agent.py module:function folder`). Standard library only, Python 3.9 or newer.

stdin holds the input, one JSON object. The environment holds CORRAL_EXECUTION_ID, CORRAL_ATTEMPT, CORRAL_DEADLINE
(seconds since the epoch), CORRAL_WORKDIR and CORRAL_RESULT_FD. Frames, one JSON object per line:
    {"progress": any}                                  any number
    {"result": any}                                    once, when the entry point has returned
    {"error": {"message": text, "traceback": text}}    instead, when it has raised
    {"unencodable": text}                              instead, when what it returned is not JSON
"""

import faulthandler
import importlib
import inspect
import json
import os
import signal
import sys
import threading
import traceback
import types

_TRACEBACK_LIMIT = 64 * 1024
_MESSAGE_LIMIT = 1024


class Context:
    """What an entry point that takes a second argument is given.

    Attributes:
        execution_id: the execution's UUID, text.
        attempt: 1 for the first try, then 2 and so on.
        deadline: when the run will be stopped, in seconds since the epoch.
        workdir: path of a private directory, removed after the run.
    """

    def __init__(self, frames, environment):
        self._frames = frames
        self.execution_id = environment["CORRAL_EXECUTION_ID"]
        self.attempt = int(environment["CORRAL_ATTEMPT"])
        self.deadline = float(environment["CORRAL_DEADLINE"])
        self.workdir = environment["CORRAL_WORKDIR"]

    def progress(self, data):
        """Tell the client how far the run is. Args: data: any JSON value. Raises: TypeError: it is not JSON."""
        self._frames.write("progress", data)


class Frames:
    """The result pipe; whole lines only, from any thread."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, kind, value):
        line = memoryview(json.dumps({kind: value}).encode("ascii") + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]


def run_forked(entrypoint, folder):
    """Call the entry point in this process, a fork of the launcher; never returns."""
    _forget_the_launcher()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = _log_stream(1)
    sys.stderr = _log_stream(2)
    run(entrypoint, folder)


def run(entrypoint, folder):
    """Call the entry point; never returns.

    The run is over when the entry point returns: threads and exit handlers of the agent cannot prolong it, and those
    of the launcher, in a fork of it, must not run.
    """
    faulthandler.enable(file=2)
    code = _exit_code(entrypoint, folder)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


def _forget_the_launcher():
    """Take our modules out of the agent's sight: its own may have the same names."""
    for name in [name for name in sys.modules if name == "runner" or name.startswith("runner.")]:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = ["agent"]


def _log_stream(descriptor):
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _exit_code(entrypoint, folder):
    """Run the agent; return the exit status of its process."""
    try:
        return _call(entrypoint, folder)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        print(leaving.code, file=sys.stderr)
        return 1


def _call(entrypoint, folder):
    frames = Frames(int(os.environ["CORRAL_RESULT_FD"]))
    os.set_inheritable(frames._descriptor, False)
    value = _read_input()
    try:
        function = _load(entrypoint, folder)
        result = _invoke(function, value, Context(frames, os.environ))
    except SystemExit:
        raise
    except BaseException as error:
        frames.write("error", _describe(error))
        return 1
    try:
        frames.write("result", result)
    except (TypeError, ValueError, RecursionError) as error:
        frames.write("unencodable", f"{type(error).__name__}: {error}")
    return 0


def _read_input():
    """Read the input and leave stdin empty, so that a stray read() of the agent ends instead of waiting."""
    with open(0, "rb", closefd=False) as stream:
        value = json.loads(stream.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return value


def _load(entrypoint, folder):
    module_name, _, function_name = entrypoint.partition(":")
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    target = importlib.import_module(module_name)
    for name in function_name.split("."):
        target = getattr(target, name)
    return target


def _invoke(function, value, context):
    result = function(value, context) if _takes_context(function) else function(value)
    if not inspect.isawaitable(result):
        return result
    import asyncio

    async def finish():
        return await result

    return asyncio.run(finish())


def _takes_context(function):
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True


def _describe(error):
    """Turn an exception into a frame here, in the agent's process: its __str__ is the agent's code.

    The traceback starts at the first frame that is not the loader's.
    """
    trace = error.__traceback__
    while trace and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    return {"message": lines[-1].strip()[:_MESSAGE_LIMIT], "traceback": "".join(lines)[-_TRACEBACK_LIMIT:]}


def _is_ours(filename):
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


if __name__ == "__main__":
    for _stream in (sys.stdout, sys.stderr):
        _stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")
    run(sys.argv[1], sys.argv[2])
