"""Every way in which a sandboxed run can come to its end by itself or by a limit, and the one cause that is told of it.

On a server with control groups, if this machine has them for us, and on servers that have none.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import without_groups
from tests.helpers.agents import write_agent
from tests.helpers.server import RunningServer
from tests.helpers.wait import patience, wait_until

MEGABYTE = 1 << 20

# Whatever comes to another end must be done within it.
CPU_SECONDS = math.ceil(patience(1))

CODE = """
import ctypes, os, resource, signal, sys, threading, time

def run(input):
    return globals()[input["how"]]() or {}

def spin(seconds):
    while time.process_time() < seconds:
        pass

def in_children(count, work):
    for _ in range(count):
        if os.fork() == 0:
            work()
            os._exit(0)
    for _ in range(count):
        os.wait()

def segfault():
    ctypes.string_at(0)

def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)

def send_itself_the_signal_of_a_cpu_limit():
    os.kill(os.getpid(), signal.SIGXCPU)

def send_itself_the_signal_of_a_file_limit():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGXFSZ)

def exit_with_3():
    sys.exit(3)

def exit_without_a_result():
    os._exit(0)

def raise_an_exception():
    raise ValueError("no such city")

def raise_what_no_memory_raises():
    raise MemoryError

def sleep():
    time.sleep(60)

def spin_for_ever():
    spin(60)

def spin_in_children():
    in_children(8, lambda: spin(CPU_SECONDS / 2))

def spin_in_children_one_after_the_other():
    for _ in range(8):
        in_children(1, lambda: spin(CPU_SECONDS / 2))

def spin_deaf_to_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spin(60)

def fail_of_a_child_that_spins():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        spin(60)
    sys.exit(os.wait()[1] != 0)

def eat_memory():
    held = []
    while True:
        held.append(b"x" * (1 << 20))

def eat_memory_in_children():
    in_children(12, lambda: (b"x" * (20 << 20), time.sleep(60)))

def fork_until_refused():
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)

def fork_until_refused_and_exit_with_3():
    try:
        fork_until_refused()
    except BlockingIOError:
        os._exit(3)

def fork_and_fail_for_another_reason():
    for _ in range(15):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    raise ValueError("no such city")

def fork_until_refused_and_complete():
    try:
        fork_until_refused()
    except BlockingIOError:
        return {"refused": True}

def start_threads_until_refused():
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

def write_too_large_a_file():
    with open("/work/file", "wb") as file:
        file.write(bytes(2 << 20))

def write_too_large_a_file_like_other_programs():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    write_too_large_a_file()

def write_too_large_a_file_and_complete():
    try:
        write_too_large_a_file()
    except OSError:
        return {"refused": True}

def fill_the_disk():
    for number in range(100):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(1 << 20))
"""

LIMITS = f"""
[limits]
cpu_seconds = {CPU_SECONDS}
memory_bytes = 134217728
processes = 16
file_size_bytes = 1048576
disk_bytes = 8388608
"""
MANIFEST = f'entrypoint = "agent:run"\ntimeout_seconds = {patience(30)}\ngrace_seconds = 10\n{LIMITS}'
HASTY = f'entrypoint = "agent:run"\ntimeout_seconds = 0.5\ngrace_seconds = 0.1\n{LIMITS}'


@dataclass
class End:
    """What is to be told. observed: {name: (at least, at most)}."""

    code: str
    by: str = "agent"
    limit: dict[str, float] | None = None
    observed: dict[str, tuple[float, float]] = field(default_factory=dict)
    signal: int | None = None
    exit_code: int | None = None
    error_log: str = ""
    status: str = "FAILED"


CPU = End("CPU_TIME", "limit", {"cpu_seconds": CPU_SECONDS}, {"cpu_seconds": (CPU_SECONDS, 4 * CPU_SECONDS)})
FILE = End("FILE_SIZE", "limit", {"file_size_bytes": MEGABYTE})
MEMORY = End("MEMORY", "limit", {"memory_bytes": 128 * MEGABYTE}, {"peak_memory_bytes": (110e6, 600e6)})
DONE = End("EXITED_OK", exit_code=0, status="COMPLETED")


def processes(name: str, least: int, most: int, **how: Any) -> End:
    return End("PROCESSES", "limit", {"processes": 16}, {name: (least, most)}, **how)


# With control groups; in parentheses a second end, where there are none.
ENDS: dict[str, End | tuple[End, End]] = {
    "segfault": End("SIGNALED", signal=11),
    "kill_itself": End("SIGNALED", signal=9),
    "send_itself_the_signal_of_a_cpu_limit": End("SIGNALED", signal=24),
    "exit_with_3": End("EXIT_NONZERO", exit_code=3),
    "exit_without_a_result": End("NO_RESULT", exit_code=0),
    "raise_an_exception": End("AGENT_ERROR", exit_code=1, error_log="no such city"),
    "raise_what_no_memory_raises": (
        End("AGENT_ERROR", exit_code=1),
        End("MEMORY", "limit", {"memory_bytes": 128 * MEGABYTE}, {"peak_memory_bytes": (1e6, 100e6)}, exit_code=1),
    ),
    "spin_for_ever": CPU,
    "spin_in_children": CPU,
    "spin_in_children_one_after_the_other": CPU,
    "spin_deaf_to_sigterm": CPU,
    "fail_of_a_child_that_spins": CPU,
    "eat_memory": MEMORY,
    "eat_memory_in_children": MEMORY,
    "fork_until_refused": (
        processes("refused_processes", 1, 1, exit_code=1, error_log="Resource temporarily unavailable"),
        processes("processes", 16, 16, exit_code=1, error_log="Resource temporarily unavailable"),
    ),
    "fork_until_refused_and_exit_with_3": (
        processes("refused_processes", 1, 1, exit_code=3),
        processes("processes", 16, 16, exit_code=3),
    ),
    "fork_and_fail_for_another_reason": End("AGENT_ERROR", exit_code=1, error_log="no such city"),
    "fork_until_refused_and_complete": DONE,
    "start_threads_until_refused": (
        processes("refused_processes", 1, 1, exit_code=1, error_log="can't start new thread"),
        End("AGENT_ERROR", exit_code=1, error_log="can't start new thread"),
    ),
    "send_itself_the_signal_of_a_file_limit": FILE,
    "write_too_large_a_file": End(**{**vars(FILE), "exit_code": 1, "error_log": "File too large"}),
    "write_too_large_a_file_like_other_programs": End(**{**vars(FILE), "signal": 25}),
    "write_too_large_a_file_and_complete": DONE,
    "fill_the_disk": End("AGENT_ERROR", exit_code=1, error_log="No space left on device"),
}


@pytest.fixture(scope="module", params=["as we are", *without_groups.WHO])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with two agents of all these ends, of which one has little time."""
    if request.param != "as we are":
        with without_groups.server(request.param) as running:
            write_agents(running.agents)
            yield running
        return
    agents = tmp_path_factory.mktemp("ends") / "agents"
    agents.mkdir()
    write_agents(agents)
    with RunningServer(agents.parent / "data", agents=agents) as running:
        running.http.get("/admin/health")  # its connection stays open, and is nothing that a test leaves
        yield running


def write_agents(agents: Path) -> None:
    for name, manifest in (("ends", MANIFEST), ("ends-soon", HASTY)):
        write_agent(agents, name, manifest, {"agent.py": f"CPU_SECONDS = {CPU_SECONDS}\n{CODE}"})


@pytest.mark.parametrize("how", ENDS)
def test_end_has_exactly_its_cause(place: RunningServer, how: str) -> None:
    execution = place.wait_for_end(place.submit("ends", how=how), seconds=40)
    expected = ENDS[how]
    if isinstance(expected, tuple):
        expected = expected["cgroup" in execution["isolation"]["missing"]]
    check(execution, expected)
    wait_until(lambda: not place.runs())


def test_end_by_time_is_told_as_that(place: RunningServer) -> None:
    check(
        place.run("ends-soon", how="sleep"),
        End("WALL_TIME", "limit", {"timeout_seconds": 0.5}, {"wall_seconds": (0.5, 10.0)}, signal=15),
    )


def check(execution: dict[str, Any], expected: End) -> None:
    termination = execution["termination"]
    told = (execution["status"], termination["code"], termination["by"], termination["limit"])
    assert told == (expected.status, expected.code, expected.by, expected.limit), execution
    observed = termination["observed"] or {}
    assert observed.keys() == expected.observed.keys()
    for name, (least, most) in expected.observed.items():
        assert least <= observed[name] <= most, execution
    if expected.signal or expected.exit_code is not None:
        assert (termination["signal"], termination["exit_code"]) == (expected.signal, expected.exit_code)
    assert expected.error_log in (execution["error_log"] or "")
