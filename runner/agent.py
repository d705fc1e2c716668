"""Calls an agent's Python entry point and writes its frames; the agent's side of the result pipe.

Runs inside the agent's world, in one of two ways: forked from the launcher, or started by file with the agent's own
interpreter (`python -I agent.py module:function folder`). Standard library only, Python 3.9 or newer.

stdin holds the input, one JSON object. The environment holds CORRAL_EXECUTION_ID, CORRAL_ATTEMPT, CORRAL_DEADLINE
(seconds since the epoch), CORRAL_WORKDIR and CORRAL_RESULT_FD. Frames, one JSON object per line:
    {"progress": any}                                  any number
    {"result": any}                                    once, when the entry point has returned
    {"error": {"message": text, "traceback": text}}    instead, when it has raised; for an exception that a limit brings
                                                       about, also "limit": its name
    {"unencodable": text}                              instead, when what it returned is not JSON
"""

from __future__ import annotations

import builtins
import errno
import faulthandler
import importlib
import json
import os
import sys
import traceback
import types
from _imp import is_frozen
from _thread import RLock
from importlib.machinery import ModuleSpec, SourceFileLoader, all_suffixes

# In place of the one in typing, which an agent's own interpreter would need some milliseconds to load.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn, TextIO

_TRACEBACK_LIMIT = 64 * 1024
_MESSAGE_LIMIT = 1024

# Between the loader and the code of an async agent.
_ASYNCIO_FOLDER = os.path.join(os.path.dirname(traceback.__file__), "asyncio", "")

# What an operating system that refuses something for a limit's sake says.
_LIMITS_BEHIND_ERRORS = {errno.EFBIG: "file_size_bytes", errno.EAGAIN: "processes"}

_READ_BYTES = 64 << 10

# What may follow the name of a module in the name of its file, or of the folder of a package.
_FORMS = ("", *all_suffixes())

_decoder = json.JSONDecoder()
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

# Modules that are out of sight.
_STILL_IN_USE: list[types.ModuleType] = []


class Context:
    """What an entry point that takes a second argument is given.

    Attributes:
        execution_id: the execution's UUID, text.
        attempt: 1 for the first try, then 2 and so on.
        deadline: when the run will be stopped, in seconds since the epoch.
        workdir: path of a private directory, removed after the run.
    """

    def __init__(self, frames: Frames, environment: Mapping[str, str]) -> None:
        self._frames = frames
        self.execution_id = environment["CORRAL_EXECUTION_ID"]
        self.attempt = int(environment["CORRAL_ATTEMPT"])
        self.deadline = float(environment["CORRAL_DEADLINE"])
        self.workdir = environment["CORRAL_WORKDIR"]

    def progress(self, data: object) -> None:
        """Tell the client how far the run is; after the end of the run nothing is told.

        Args: data: any JSON value. Raises: TypeError, ValueError, RecursionError: it is not JSON.
        """
        self._frames.write("progress", data)


class Frames:
    """The result pipe; whole lines only, from any thread and from signal handlers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = RLock()
        self._ended = False

    def write(self, kind: str, value: object) -> None:
        """Write one frame; the first one that is not progress is the last.

        Raises:
            TypeError, ValueError, RecursionError: value is not JSON; nothing is written.
            OSError: the agent has closed the pipe.
        """
        line = memoryview(_encode({kind: value}).encode() + b"\n")
        with self._lock:
            if self._ended:
                return
            self._ended = kind != "progress"
            while line:
                line = line[os.write(self._descriptor, line) :]


def prepare() -> None:
    """Make this process fit to run an agent, or to be forked by those that do."""
    for stream in (sys.stdout, sys.stderr):
        _log_by_lines(stream)
    _get_out_of_sight()
    _add_what_site_adds()
    faulthandler.enable()
    sys.dont_write_bytecode = True
    sys.argv = ["agent"]


def run(entrypoint: str, folder: str) -> NoReturn:
    """Call the entry point; never returns.

    The run is over when the entry point returns: threads and exit handlers of the agent cannot prolong it, and those
    of the launcher, in a fork of it, must not run.
    """
    code = 1
    try:
        code = _exit_code(entrypoint, folder)
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
    finally:
        os._exit(code)


def _log_by_lines(stream: Any) -> None:
    stream.reconfigure(line_buffering=True, encoding="utf-8", errors="backslashreplace")


def _get_out_of_sight() -> None:
    """Take our modules out of the agent's sight: its own may have the same names."""
    ours = [name for name in sys.modules if name == "runner" or name.startswith("runner.")]
    _STILL_IN_USE.extend(sys.modules.pop(name) for name in ours)
    _STILL_IN_USE.append(sys.modules["__main__"])
    sys.modules["__main__"] = types.ModuleType("__main__")


def _add_what_site_adds() -> None:
    """Add the two functions that every program expects. The launcher runs without the site module, which has them."""
    vars(builtins).setdefault("exit", sys.exit)
    vars(builtins).setdefault("quit", sys.exit)


def _flush(stream: TextIO) -> None:
    """Write out what a stream holds. The agent may have closed it, or put something else in its place."""
    try:
        stream.flush()
    except Exception:
        return


def _exit_code(entrypoint: str, folder: str) -> int:
    """Run the agent; return the exit status of its process."""
    try:
        return _call(entrypoint, folder)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        print(leaving.code, file=sys.stderr)
        return 1


def _call(entrypoint: str, folder: str) -> int:
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
    except OSError as error:
        print(f"cannot write the result: {error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:  # of any kind: encoding may call methods of the agent's own classes
        frames.write("unencodable", _summary(error))
    return 0


def _read_input() -> object:
    """Read the input and leave stdin empty, so that a stray read() of the agent ends instead of waiting."""
    value, _ = _decoder.raw_decode(_read_all(0).decode())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return value


def _read_all(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, _READ_BYTES), b""))


def _load(entrypoint: str, folder: str) -> Any:
    module_name, _, function_name = entrypoint.partition(":")
    sys.path.insert(0, folder)
    is_plain = _is_plain_file(module_name, folder)
    target: Any = _import_file(module_name, folder) if is_plain else importlib.import_module(module_name)
    for name in function_name.split("."):
        target = getattr(target, name)
    return target


def _is_plain_file(name: str, folder: str) -> bool:
    """Tell whether a module can be nothing but its one file of source in the folder: no package, nothing compiled."""
    if name in sys.modules or name in sys.builtin_module_names or is_frozen(name):
        return False
    there = os.listdir(folder)
    forms = {name + suffix for suffix in _FORMS}
    return forms.intersection(there) == {f"{name}.py"} and "__pycache__" not in there


def _import_file(name: str, folder: str) -> types.ModuleType:
    """Import a plain file; importlib.import_module() tries so much else that it takes twice as long."""
    path = f"{folder}/{name}.py"
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        source = _read_all(descriptor)
    finally:
        os.close(descriptor)
    module = types.ModuleType(name)
    module.__loader__ = loader = SourceFileLoader(name, path)
    module.__spec__ = spec = ModuleSpec(name, loader, origin=path)
    spec.has_location = True
    module.__package__, module.__file__ = "", path
    sys.modules[name] = module
    exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    return module


def _invoke(function: Callable[..., object], value: object, context: Context) -> object:
    result = function(value, context) if _takes_context(function) else function(value)
    if not hasattr(result, "__await__"):
        return result
    import asyncio  # here, because it takes longer to load than most agents run

    async def finish() -> object:
        return await result

    # Not asyncio.run(): that waits, before it returns, for threads and tasks which the agent has left behind.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(finish())


def _takes_context(function: Callable[..., object]) -> bool:
    """Tell whether a callable names a second positional parameter; one that takes whatever comes asks for nothing."""
    if isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__"):
        return function.__code__.co_argcount > 1
    import inspect  # here, because a plain function does not need it

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters) > 1


def _describe(error: BaseException) -> dict[str, str]:
    """Turn an exception into a frame here, in the agent's process: its __str__ is the agent's code.

    The traceback starts at the first frame that is not the loader's.
    """
    limit = _limit_behind(error)
    if limit == "memory_bytes":
        traceback.clear_frames(error.__traceback__)  # to tell of it takes some of the memory that they hold
    trace = error.__traceback__
    while trace and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    described = {"message": _summary(error), "traceback": _encodable("".join(lines)[-_TRACEBACK_LIMIT:])}
    return {**described, "limit": limit} if limit else described


def _limit_behind(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "memory_bytes"
    return _LIMITS_BEHIND_ERRORS.get(error.errno or 0) if isinstance(error, OSError) else None


def _summary(error: BaseException) -> str:
    """Return what names the error: not the place of a SyntaxError, which is before it, nor the notes after it."""
    lines = traceback.format_exception_only(type(error), error)
    named = next((line for line in lines if not line.startswith(" ")), lines[-1])
    return _encodable(named.strip()[:_MESSAGE_LIMIT])


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _is_ours(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith(("<frozen importlib", _ASYNCIO_FOLDER))


if __name__ == "__main__":
    _, *arguments = sys.argv  # prepare() hides them from the agent
    prepare()
    run(*arguments)
