"""The supervisor is killed: its runs go on, and the next one takes them over. Each ends once, with its own result."""

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.helpers import halves
from tests.helpers.agents import PYTHON, write_agent
from tests.helpers.command import started
from tests.helpers.halves import Half
from tests.helpers.named_pipes import Gate, Lifeline
from tests.helpers.processes import descendants, descriptors, lives, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    """The agents of the tests, and those that say half of everything."""
    shutil.copytree(AGENTS, tmp_path / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    halves.write_all(tmp_path / "agents")
    return tmp_path / "agents"


@contextmanager
def killed(server: RunningServer) -> Iterator[None]:
    """Kill a supervisor; what it has left is ended with the context, if nobody has taken it over and ended it."""
    try:
        server.kill()
        yield
    finally:
        server.stop()


# -- runs go on --------------------------------------------------------------------------------------------------------


def test_runs_of_a_supervisor_that_is_killed_twice_end_once_with_all_they_said(agents: Path, tmp_path: Path) -> None:
    data, witness = tmp_path / "data", tmp_path / "witness"
    first = RunningServer(data, agents=agents)
    # What the early ones still have to say fits into their pipes.
    early, late = (
        [
            Half(first, kind, name=f"{kind}-{size} ", size=size, witness=kind != "sandboxed" and str(witness))
            for kind in halves.KINDS
        ]
        for size in (60_000, 600_000)
    )
    launcher_pid = first.launcher_pid
    waiting = first.submit("ok", come="again")
    with killed(first):
        for half in early:
            half.go_on()
        # They are over when there is nobody to hear of it.
        wait_until(lambda: not any(lives(pid) for half in early for pid in half.pids))
        second = RunningServer(data, agents=agents)
        for half in early:
            half.check_end(second)
        with killed(second), RunningServer(data, agents=agents) as third:
            for half in late:
                assert third.get(half.execution_id)["status"] == "RUNNING"
                assert all(map(lives, half.pids))
                half.go_on()
                half.check_end(third)
            assert third.launcher_pid == launcher_pid
            assert third.wait_for_end(waiting)["final_result"] == {"echo": {"come": "again"}}
            assert sorted(witness.read_text().split()) == sorted(
                half.input["name"].strip() for half in (*early, *late) if half.kind != "sandboxed"
            )
            wait_until(lambda: not os.listdir(data / "work"))
            assert third.errors().count('"level": "error"') == 0


def test_fifty_runs_are_taken_over_and_no_descriptor_is_left(tmp_path: Path, gate: Gate) -> None:
    first = RunningServer(tmp_path / "data", "--max-running", "60")
    idle = descriptors(first.launcher_pid)
    executions = [first.submit("gated", gate=gate.path) for _ in range(25)]
    executions += [first.submit("clan") for _ in range(25)]
    for execution_id in executions[25:]:
        first.wait_for_progress(execution_id)
    runs = first.runs()
    with killed(first), RunningServer(tmp_path / "data", "--max-running", "60") as second:
        assert runs <= second.runs()
        assert [second.get(execution_id)["status"] for execution_id in executions] == ["RUNNING"] * 50
        for execution_id in executions[25:]:
            second.cancel(execution_id)
        gate.open()
        ends = [second.wait_for_end(execution_id)["status"] for execution_id in executions]
        assert ends == ["COMPLETED"] * 25 + ["CANCELED"] * 25
        wait_until(lambda: not second.runs())
        wait_until(lambda: descriptors(second.launcher_pid) <= idle + 40)  # those of inits that wait


# -- the moments at which it can die -----------------------------------------------------------------------------------

# The server, which kills itself at a place in its code as soon as there is a certain file; what follows in its command
# is the interpreter and "-m".
DYING = """
import os, sys
from supervisor import store
from supervisor.cli import commands
from supervisor.machine import launcher, machine

def die_at(owner, name, after=False):
    told = getattr(owner, name)
    def dying(*arguments, **named):
        armed = os.path.exists({armed!r})
        if after or not armed:
            answer = told(*arguments, **named)
        if armed:
            os.unlink({armed!r})
            os.kill(os.getpid(), 9)
        return answer
    setattr(owner, name, dying)

{moment}
sys.argv = sys.argv[3:]
commands.main()
"""

MOMENTS = {
    "before the claim is recorded": 'die_at(store.Transaction, "start_attempt", after=True)',
    "before the launch is sent": 'die_at(launcher.Launcher, "launch")',
    "when the launch is sent": 'die_at(launcher.Launcher, "launch", after=True)',
    "when it has started": 'die_at(machine.Machine, "_on_started")',
    "when it has said something": 'die_at(machine.Run, "hear")',
    "when progress is told": 'die_at(store.Transaction, "progress", after=True)',
    "when it is gone": 'die_at(machine.Machine, "_on_gone")',
    "when its files are kept": 'die_at(machine.Machine, "_tell")',
    "before its end is recorded": 'die_at(store.Transaction, "end", after=True)',
    "before it is released": 'die_at(machine.Machine, "release")',
}


QUICK = """
import os

def run(input, context):
    with open(input["witness"], "a") as witness:
        witness.write(input["moment"] + "\\n")
    with open(os.environ["CORRAL_WORKDIR"] + "/left", "w") as file:
        file.write("left")
    context.progress(1)
    print("printed")
    return input
"""


def test_run_ends_once_with_its_result_at_whatever_moment_the_supervisor_dies(tmp_path: Path) -> None:
    agents, armed, witness = (tmp_path / name for name in ("agents", "armed", "witness"))
    write_agent(agents, "quick", PYTHON, {"agent.py": QUICK})
    executions: dict[str, str] = {}
    for name, moment in MOMENTS.items():
        code = DYING.format(moment=moment, armed=str(armed))
        server = RunningServer(tmp_path / "data", agents=agents, wrapper=(sys.executable, "-c", code))
        for execution_id in executions.values():
            server.wait_for_end(execution_id)
        armed.touch()
        executions[name] = server.submit("quick", moment=name, witness=str(witness))
        wait_for_exit(server.process.pid)
        server.kill()
        assert '"level": "error"' not in server.errors()
    with RunningServer(tmp_path / "data", agents=agents) as server:
        for name, execution_id in executions.items():
            execution = server.wait_for_end(execution_id)
            assert execution["status"] == "COMPLETED", (name, execution)
            assert (execution["final_result"]["moment"], execution["attempt"]) == (name, 1)
            assert server.statuses(execution_id).count("COMPLETED") == 1
            assert server.events(execution_id, "progress") == [1]
            assert server.logs(execution_id)["text"] == "printed\n"
            assert server.file(execution_id, "left") == b"left"
        assert sorted(witness.read_text().splitlines()) == sorted(MOMENTS)
        wait_until(lambda: not server.runs())
        assert '"level": "error"' not in server.errors()


# -- what goes on with the runs ----------------------------------------------------------------------------------------


def test_deadline_that_passes_without_a_supervisor_is_kept_by_the_next_one(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    code = "import time\ndef run(input, context):\n context.progress(1)\n time.sleep(3600)"
    write_agent(agents, "late", "entrypoint = 'agent:run'\ntimeout_seconds = 2", {"agent.py": code})
    first = RunningServer(tmp_path / "data", agents=agents)
    execution_id = first.submit("late")
    first.wait_for_progress(execution_id)
    with killed(first), RunningServer(tmp_path / "data", agents=agents) as second:
        execution = second.wait_for_end(execution_id)
        assert execution["termination"]["code"] == "WALL_TIME"
        assert 2 <= execution["usage"]["wall_seconds"] < 10


def test_cancel_whose_ladder_has_begun_is_carried_out_by_the_next_one(tmp_path: Path) -> None:
    lifelines = [Lifeline(tmp_path / f"lifeline-{number}") for number in range(2)]
    gates = [Gate(tmp_path / f"gate-{number}") for number in range(2)]
    first = RunningServer(tmp_path / "data")
    late, stubborn = (
        first.submit("patient", lifeline=lifeline.path, gate=gate.path, result=result)
        for lifeline, gate, result in zip(lifelines, gates, ("after SIGTERM", ""), strict=True)
    )
    before = first.submit("clan")
    first.wait_for_progress(before)
    for lifeline, execution_id in zip(lifelines, (late, stubborn), strict=True):
        lifeline.wait_for("here")
        first.cancel(execution_id)
        lifeline.wait_for("asked")
    os.kill(first.process.pid, signal.SIGSTOP)
    first.cancel(before)  # nobody acts on it any more
    with killed(first), RunningServer(tmp_path / "data") as second:
        # The ladder begins anew, with the whole grace period.
        lifelines[1].wait_for("asked", 2)
        for gate in gates:
            gate.open()
        for execution_id in (late, stubborn, before):
            execution = second.wait_for_end(execution_id)
            # Also the one that has given its result, because that was after the first signal.
            assert (execution["status"], execution["final_result"]) == ("CANCELED", None)
        assert all(lifeline.ended() for lifeline in lifelines)
        assert second.get(before)["kill"]["survivors"] == 0
    for lifeline in lifelines:
        lifeline.close()


def test_run_that_ends_of_the_ladder_without_a_supervisor_ends_for_the_ladders_reason(
    tmp_path: Path, gate: Gate
) -> None:
    agents = tmp_path / "agents"
    code = (
        "import signal\ndef run(input, context):\n"
        " signal.signal(signal.SIGTERM, lambda *_: (context.progress('asked'), open(input['gate']), sys.exit(1)))\n"
        " while True: signal.pause()"
    )
    write_agent(
        agents, "late", f"{PYTHON}\ntimeout_seconds = 0.5\ngrace_seconds = 30", {"agent.py": f"import sys, {code[7:]}"}
    )
    first = RunningServer(tmp_path / "data", agents=agents)
    execution_id = first.submit("late", gate=gate.path)
    first.wait_for_progress(execution_id)
    runs = first.runs()
    with killed(first):
        gate.open()
        wait_until(lambda: not any(map(lives, runs)))
        with RunningServer(tmp_path / "data", agents=agents) as second:
            execution = second.wait_for_end(execution_id)
            assert execution["termination"]["code"] == "WALL_TIME"
            assert execution["termination"]["exit_code"] == 1


def test_run_without_a_row_is_ended(tmp_path: Path) -> None:
    first = RunningServer(tmp_path / "data")
    for agent in ("hideout", "clan"):
        first.wait_for_progress(first.submit(agent))
    runs = first.runs()
    with killed(first):
        with closing(sqlite3.connect(tmp_path / "data" / "corral.db")) as database, database:
            database.execute("DELETE FROM attempts")
            database.execute("DELETE FROM executions")
        with RunningServer(tmp_path / "data") as second:
            wait_until(lambda: not any(map(lives, runs)))
            assert second.run("ok")["status"] == "COMPLETED"
            wait_until(lambda: not os.listdir(tmp_path / "data" / "work"))


def test_server_that_is_stopped_before_it_has_taken_over_ends_the_runs(tmp_path: Path) -> None:
    first = RunningServer(tmp_path / "data")
    execution_id = first.submit("clan")
    first.wait_for_progress(execution_id)
    everybody = {*first.runs(), first.launcher_pid}
    with killed(first):
        with started("serve", "--port", "0", "--data", tmp_path / "data", "--agents", AGENTS) as second:
            lock = tmp_path / "data" / "lock"
            wait_until(lambda: lock.read_text().split() == [str(second.pid)])
            second.send_signal(signal.SIGTERM)
            wait_for_exit(second.pid)
            assert second.wait() == 0
        assert not any(map(lives, everybody))
    with RunningServer(tmp_path / "data") as third:
        assert third.get(execution_id)["termination"]["code"] == "STOPPED"


# -- when nobody comes, or somebody comes back -------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_runs_that_nobody_takes_over_in_time_end_with_their_launcher(tmp_path: Path, seconds: float) -> None:
    first = RunningServer(tmp_path / "data", orphan_timeout_seconds=seconds)
    executions = [first.submit(agent) for agent in ("hideout", "clan")]
    for execution_id in executions:
        first.wait_for_progress(execution_id)
    everybody = descendants(first.process.pid)
    with killed(first):
        for pid in everybody:
            wait_for_exit(pid, 5 + seconds)
    with RunningServer(tmp_path / "data") as second:
        for execution_id in executions:
            assert second.get(execution_id)["termination"]["code"] == "LOST"
        assert second.run("ok")["status"] == "COMPLETED"


def test_supervisor_that_was_only_stopped_records_nothing_when_it_comes_back(tmp_path: Path, gate: Gate) -> None:
    first = RunningServer(tmp_path / "data")
    execution_id = first.submit("gated", gate=gate.path)
    first.wait_for(execution_id, "RUNNING")
    os.kill(first.process.pid, signal.SIGSTOP)
    (tmp_path / "data" / "lock").unlink()  # it would keep the other one from starting
    with RunningServer(tmp_path / "data") as second:
        os.kill(first.process.pid, signal.SIGCONT)
        wait_for_exit(first.process.pid)
        assert first.stop() == 1
        gate.open()
        assert second.wait_for_end(execution_id)["status"] == "COMPLETED"
        assert second.run("ok")["status"] == "COMPLETED"
        assert second.statuses(execution_id) == ["PENDING", "RUNNING", "COMPLETED"]


# -- launchers ---------------------------------------------------------------------------------------------------------

OLD = """
import sys
from supervisor.cli import commands
from supervisor.machine.launcher import Launcher
Launcher._made_from = lambda self: "another version"
sys.argv = sys.argv[3:]
commands.main()
"""


def test_launcher_of_another_version_is_replaced_when_its_runs_are_over(tmp_path: Path, gate: Gate) -> None:
    first = RunningServer(tmp_path / "data", wrapper=(sys.executable, "-c", OLD))
    execution_id = first.submit("gated", gate=gate.path)
    first.wait_for(execution_id, "RUNNING")
    old = first.launcher_pid
    with killed(first), RunningServer(tmp_path / "data") as second:
        assert second.run("ok")["status"] == "COMPLETED"
        assert second.launcher_pid == old
        # They are there when the last run of the old one is released.
        waiting = [second.submit("trusted") for _ in range(30)]
        gate.open()
        assert second.wait_for_end(execution_id)["status"] == "COMPLETED"
        assert {second.wait_for_end(waits)["status"] for waits in waiting} == {"COMPLETED"}
        wait_for_exit(old)
        assert second.run("ok")["status"] == "COMPLETED"
        assert not second.errors().count("process died")


def test_launcher_that_does_not_answer_is_ended_and_its_runs_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunningServer(tmp_path / "data")
    execution_id = first.submit("clan")
    first.wait_for_progress(execution_id)
    runs = first.runs()
    os.kill(first.launcher_pid, signal.SIGSTOP)
    with killed(first), RunningServer(tmp_path / "data") as second:
        assert not any(map(lives, runs))
        assert second.get(execution_id)["termination"]["code"] == "LOST"
        assert second.run("ok")["status"] == "COMPLETED"


BECOMES_ANOTHER_PROGRAM = """
import os, signal

def run(input, context):
    reader, writer = os.pipe()  # which closes by exec(2)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", "600"])
        os._exit(0)
    os.wait()
    os.close(writer)
    os.read(reader, 1)
    context.progress("ready")
    signal.pause()
"""


def test_killed_launcher_that_was_taken_over_is_replaced_and_its_runs_are_lost(agents: Path, tmp_path: Path) -> None:
    write_agent(agents, "another", PYTHON, {"agent.py": BECOMES_ANOTHER_PROGRAM})
    first = RunningServer(tmp_path / "data", agents=agents)
    executions = [first.submit(agent) for agent in ("hideout", "clan", "another")]
    for execution_id in executions:
        first.wait_for_progress(execution_id)
    runs = first.runs()
    with killed(first), RunningServer(tmp_path / "data", agents=agents) as second:
        old = second.launcher_pid
        os.kill(old, signal.SIGKILL)
        for execution_id in executions:
            assert second.wait_for_end(execution_id)["termination"]["code"] == "LOST"
        assert not any(map(lives, runs)), "the end was recorded while something lived"
        assert second.run("ok")["status"] == "COMPLETED"
        assert second.launcher_pid != old
