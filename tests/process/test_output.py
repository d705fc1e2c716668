"""How an end is told: termination, error log, usage, limits that were hit, and what the agent printed."""

import signal
from datetime import datetime
from typing import Any

import pytest

from tests.helpers.agents import PYTHON, python_modes, result_of_new, run_new, write_agent
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

# -- the termination record -------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "result": (PYTHON, "def run(input): return {}", {"code": "EXITED_OK", "exit_code": 0}),
    "exception": (PYTHON, "def run(input): raise KeyError", {"code": "AGENT_ERROR", "exit_code": 1}),
    "exit code": (PYTHON, "import os\ndef run(input): os._exit(9)", {"code": "EXIT_NONZERO", "exit_code": 9}),
    "exit with a text": (PYTHON, "def run(input): exit('no')", {"code": "EXIT_NONZERO", "exit_code": 1}),
    "exit": (PYTHON, "def run(input): exit()", {"code": "NO_RESULT", "exit_code": 0}),
    "signal": (
        PYTHON,
        "import os\ndef run(input): os.kill(os.getpid(), 10)",
        {"code": "SIGNALED", "signal": signal.SIGUSR1},
    ),
    "timeout": (
        f"{PYTHON}\ntimeout_seconds = 0.1\ngrace_seconds = 0.1",
        "import time\ndef run(input): time.sleep(3600)",
        {"code": "WALL_TIME", "signal": signal.SIGTERM, "by": "limit", "limit": {"timeout_seconds": 0.1}},
    ),
    "launch": ('command = ["no-such-program"]', "", {"code": "LAUNCH_FAILED", "by": "host"}),
}


@pytest.mark.parametrize(("manifest", "code", "expected"), ENDS.values(), ids=ENDS)
def test_termination_says_why_by_whom_and_when(
    workshop: RunningServer, manifest: str, code: str, expected: dict[str, Any]
) -> None:
    execution = run_new(workshop, manifest, {"agent.py": code})
    termination = execution["termination"]
    message, observed, at = (termination.pop(name) for name in ("message", "observed", "at"))
    assert termination == {"exit_code": None, "signal": None, "limit": None, "by": "agent", **expected}
    assert message.strip()
    assert (observed is None) == (termination["limit"] is None)
    started, ended = (datetime.fromisoformat(execution[name]) for name in ("started_at", "completed_at"))
    assert started <= datetime.fromisoformat(at) <= ended


# -- the error log ----------------------------------------------------------------------------------------------------

FAILING = {
    "function": "def run(input):\n    return inner()\ndef inner():\n    return {}['key']",
    "async function": "async def run(input):\n    return await inner()\nasync def inner():\n    return {}['key']",
    "module": "def inner():\n    return {}['key']\ninner()",
    "imported module": "import helper",
    "callable object": "class Run:\n    def __call__(self, input):\n        return {}['key']\nrun = Run()",
}


@python_modes
@pytest.mark.parametrize("code", FAILING.values(), ids=FAILING)
def test_error_log_of_an_exception_is_its_traceback_from_the_agents_first_line_on(
    workshop: RunningServer, manifest: str, code: str
) -> None:
    execution = run_new(workshop, manifest, {"agent.py": code, "helper.py": "{}['key']"})
    first, second, *_, last = execution["error_log"].splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.startswith(f'  File "{workshop.agents}/')
    assert "/agent.py" in second
    assert last == "KeyError: 'key'"
    assert execution["termination"]["message"] == "The agent failed: KeyError: 'key'"


WORDS = {
    "a cause": ("raise ValueError('new') from KeyError('old')", ["KeyError: 'old'", "direct cause", "ValueError: new"]),
    "a group": ("raise ExceptionGroup('all', [ValueError('one')])", ["ExceptionGroup: all", "ValueError: one"]),
    "odd letters": ("raise ValueError('\\x00\\ud800é')", ["ValueError: \ufffd\\ud800é"]),
    "no words": ("raise type('E', (Exception,), {'__str__': None})", ["E: <exception str() failed>"]),
    "recursion": ("run(input)", ["RecursionError: maximum recursion depth"]),
    "interrupt": ("raise KeyboardInterrupt('mine')", ["KeyboardInterrupt: mine"]),
    "many words": ("raise ValueError('x' * 1_000_000 + 'end')", ["xend"]),
}


@pytest.mark.parametrize(("statement", "words"), WORDS.values(), ids=WORDS)
def test_error_log_of_any_exception_is_readable(workshop: RunningServer, statement: str, words: list[str]) -> None:
    execution = run_new(workshop, PYTHON, {"agent.py": f"def run(input):\n {statement}"})
    assert execution["termination"]["code"] == "AGENT_ERROR"
    assert [word for word in words if word not in execution["error_log"]] == []
    assert len(execution["error_log"]) <= 64 << 10
    assert len(execution["termination"]["message"]) < 2000


def test_error_log_of_any_other_end_is_a_sentence_and_the_end_of_stderr(workshop: RunningServer) -> None:
    script = "seq 100000 >&2; echo it broke >&2; exit 3"
    sentence, title, tail = run_new(workshop, f'command = ["sh", "-c", "{script}"]', {})["error_log"].split("\n", 2)
    assert sentence == "The agent exited with code 3."
    assert title == ""
    assert tail.startswith("The end of its stderr:\n")
    assert tail.endswith("99999\n100000\nit broke\n")
    assert len(tail) < 5000


def test_error_log_of_binary_stderr_is_a_text(workshop: RunningServer) -> None:
    script = r"printf 'a\\000\\377\\303' >&2; exit 1"
    error_log = run_new(workshop, f'command = ["sh", "-c", "{script}"]', {})["error_log"]
    assert error_log.endswith("\na\ufffd\ufffd\ufffd")


# -- usage ------------------------------------------------------------------------------------------------------------

USES = """
import os, time
def use():
    memory = bytearray(64 << 20)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
def run(input):
    if input["in a child"]:
        if os.fork() == 0:
            use()
            os._exit(0)
        os.wait()
    else:
        use()
    return {}
"""


@pytest.mark.parametrize("in_a_child", [False, True])
def test_usage_is_that_of_the_whole_tree(workshop: RunningServer, in_a_child: bool) -> None:
    usage = run_new(workshop, PYTHON, {"agent.py": USES}, **{"in a child": in_a_child})["usage"]
    assert 0.15 <= usage["user_cpu_seconds"] + usage["system_cpu_seconds"] <= usage["wall_seconds"] + 0.05
    assert 64 << 20 <= usage["peak_memory_bytes"] < 128 << 20


def test_usage_of_one_run_is_not_that_of_the_runs_before_it(workshop: RunningServer) -> None:
    for _ in range(2):
        run_new(workshop, PYTHON, {"agent.py": USES}, **{"in a child": True})
    usage = run_new(workshop, PYTHON, {"agent.py": "def run(input): return {}"})["usage"]
    assert usage["user_cpu_seconds"] + usage["system_cpu_seconds"] < 0.15
    assert usage["peak_memory_bytes"] < 64 << 20


# -- limits that the kernel holds -------------------------------------------------------------------------------------


def test_cpu_limit_ends_a_run_whichever_of_its_signals_are_ignored(workshop: RunningServer) -> None:
    manifest = f"{PYTHON}\ngrace_seconds = 60\nlimits.cpu_seconds = 1"
    ignore = "import signal\nfor name in {}: signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
    code = ignore + "def run(input):\n    while True:\n        pass"
    ends = {(): signal.SIGTERM, ("SIGTERM",): signal.SIGXCPU, ("SIGTERM", "SIGXCPU"): signal.SIGKILL}
    for number, ignored in enumerate(ends):
        write_agent(workshop.agents, f"spins-{number}", manifest, {"agent.py": code.format(ignored)})
    runs = [workshop.submit(f"spins-{number}") for number in range(len(ends))]
    for execution_id, number in zip(runs, ends.values(), strict=True):
        execution = workshop.wait_for_end(execution_id, seconds=60)
        termination = execution["termination"]
        assert (termination["code"], termination["signal"], termination["by"]) == ("CPU_TIME", number, "limit")
        assert termination["limit"] == {"cpu_seconds": 1}
        assert 1 <= termination["observed"]["cpu_seconds"] < 3
        words = "The agent and its processes used more than their limit of 1 seconds of CPU time."
        assert execution["error_log"] == words


@python_modes
def test_memory_limit_is_an_exception_of_python(workshop: RunningServer, manifest: str) -> None:
    code = "def run(input): return {'length': len(bytearray(input['bytes']))}"
    manifest += f"\nlimits.memory_bytes = {100 << 20}"
    assert result_of_new(workshop, manifest, {"agent.py": code}, bytes=10 << 20) == {"length": 10 << 20}
    execution = run_new(workshop, manifest, {"agent.py": code}, bytes=200 << 20)
    assert execution["error_log"].splitlines()[-1] == "MemoryError"


def test_file_size_limit_ends_a_command_and_is_an_exception_of_python(workshop: RunningServer) -> None:
    limit = "limits.file_size_bytes = 4096"
    command = """command = ["sh", "-c", 'exec dd if=/dev/zero of="$TMPDIR/file" bs=5000 count=1']"""
    termination = run_new(workshop, f"{command}\n{limit}", {})["termination"]
    assert (termination["code"], termination["by"], termination["signal"]) == ("FILE_SIZE", "limit", signal.SIGXFSZ)
    assert termination["limit"] == {"file_size_bytes": 4096}
    code = "import pathlib\ndef run(input, context): pathlib.Path(context.workdir, 'x').write_bytes(b'x' * 5000)"
    assert "File too large" in run_new(workshop, f"{PYTHON}\n{limit}", {"agent.py": code})["error_log"]


def test_open_files_limit_is_an_exception_of_python(workshop: RunningServer) -> None:
    code = "import os\ndef run(input):\n while os.dup(0) < input['most']: pass\n return {}"
    manifest = f"{PYTHON}\nlimits.open_files = 50"
    assert run_new(workshop, manifest, {"agent.py": code}, most=49)["status"] == "COMPLETED"
    assert "Too many open files" in run_new(workshop, manifest, {"agent.py": code}, most=50)["error_log"]


# -- what is printed --------------------------------------------------------------------------------------------------


def printed(server: RunningServer, execution: dict[str, Any], stream: str = "stdout") -> dict[int, str]:
    """Return all that is kept of a stream: {offset: text}."""
    parts: dict[int, str] = {}
    offset = 0
    while True:
        part = server.logs(execution["execution_id"], stream, offset=offset)
        if not part["text"]:
            assert part["next_offset"] == part["size"]
            return parts
        parts[part["offset"]] = part["text"]
        offset = part["next_offset"]


LOUD = """
import os
def run(input):
    for stream in (1, 2):
        os.write(stream, b"first\\n")
        for _ in range(input["megabytes"]):
            os.write(stream, b"x" * (1 << 20))
        os.write(stream, b"last\\n")
    return {"done": True}
"""


def test_output_beyond_its_cap_keeps_head_and_tail_and_the_agent_goes_on(workshop: RunningServer) -> None:
    execution = run_new(workshop, f"{PYTHON}\nlimits.log_bytes = 65536", {"agent.py": LOUD}, megabytes=25)
    assert execution["final_result"] == {"done": True}
    for stream in ("stdout", "stderr"):
        parts = printed(workshop, execution, stream)
        size = len("first\n") + (25 << 20) + len("last\n")
        assert parts[0].startswith("first\nxxx")
        assert max(parts) + len(parts[max(parts)]) == size
        assert parts[max(parts)].endswith("xxx" + "last\n")
        assert len(parts[0]) >= 16_384
        assert sum(map(len, parts.values())) - len(parts[0]) >= 16_384
        assert sum(map(len, parts.values())) <= 65_536
    files = [path for path in (workshop.data / "logs").rglob("*") if execution["execution_id"] in str(path)]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 2 * 65_536


def test_output_is_read_while_the_agent_runs(workshop: RunningServer) -> None:
    code = "import time\ndef run(input):\n print('hello')\n print('half', end='', flush=True)\n time.sleep(3600)"
    write_agent(workshop.agents, "talks", PYTHON, {"agent.py": code})
    execution_id = workshop.submit("talks")
    wait_until(lambda: workshop.logs(execution_id)["text"] == "hello\nhalf")
    assert not workshop.logs(execution_id)["ended"]
    workshop.cancel(execution_id)
    assert workshop.wait_for_end(execution_id)["status"] == "CANCELED"
    assert workshop.logs(execution_id)["text"] == "hello\nhalf"


SAID: dict[str, tuple[str, str]] = {
    "line": ("print('hé')", "hé\n"),
    "half a line": ("print('a', end='')", "a"),
    "half a line, then an exception": ("print('a', end=''); raise KeyError", "a"),
    "half a line, then an exit": ("print('a', end=''); exit(1)", "a"),
    "odd letters": ("print('\\ud800\\x00')", "\\ud800\x00\n"),
    "no text": ("import os; os.write(1, b'\\xff\\x00\\xc3')", "\ufffd\x00\ufffd"),
    "by a child": ("import os; os.system('echo child')", "child\n"),
    "by a thread": ("import threading; t = threading.Thread(target=print, args=(1,)); t.start(); t.join()", "1\n"),
}


@python_modes
@pytest.mark.parametrize(("statement", "text"), SAID.values(), ids=SAID)
def test_output_of_a_python_agent_is_all_there(
    workshop: RunningServer, manifest: str, statement: str, text: str
) -> None:
    execution = run_new(workshop, manifest, {"agent.py": f"def run(input):\n {statement}\n return {{}}"})
    assert "".join(printed(workshop, execution).values()) == text


CLOSING = {
    "descriptors": "import os; os.closerange(0, 3)",
    "streams": "sys.stdin.close(); sys.stdout.close(); sys.stderr.close()",
    "no streams": "sys.stdin = sys.stdout = sys.stderr = None",
    "streams of another kind": "sys.stdout = sys.stderr = object()",
    "replaced": "import os; os.dup2(os.open('/dev/null', os.O_RDWR), 1)",
}


@python_modes
@pytest.mark.parametrize("statement", CLOSING.values(), ids=CLOSING)
def test_result_counts_whatever_becomes_of_the_standard_streams(
    workshop: RunningServer, manifest: str, statement: str
) -> None:
    code = f"import sys\ndef run(input):\n {statement}\n return {{}}"
    assert run_new(workshop, manifest, {"agent.py": code})["status"] == "COMPLETED"


def test_closed_result_descriptor_of_a_python_agent_is_told(workshop: RunningServer) -> None:
    execution = run_new(workshop, PYTHON, {"agent.py": "import os\ndef run(input):\n os.close(3)\n return {}"})
    assert execution["termination"]["code"] == "EXIT_NONZERO"
    assert execution["error_log"].endswith("cannot write the result: Bad file descriptor\n")
