"""What an agent finds around it, and what becomes of what it leaves there."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from runner import protocol
from supervisor.unix_address import unix_address
from tests.helpers.agents import (
    COMMAND,
    OWN_PYTHON,
    PYTHON,
    SEARCH_PATH,
    python_modes,
    result_of_new,
    run_new,
    write_agent,
)
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

REPORT = """
import ctypes, os, resource

PR_GET_PDEATHSIG = 2

def report():
    death_signal = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(death_signal))
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    numbers = [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]
    return {
        "environment": dict(os.environ),
        "descriptors": {number: os.readlink(f"/proc/self/fd/{number}").partition(":")[0] for number in numbers},
        "stdin is at its end": os.read(0, 1) == b"",
        "folder": os.getcwd(),
        "own session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "umask": os.umask(0),
        "signal at the parent's death": death_signal.value,
        "no new privileges": int(status["NoNewPrivs"]),
        "ignored signals": int(status["SigIgn"], 16),
        "blocked signals": int(status["SigBlk"], 16),
        "oom_score_adj": int(open("/proc/self/oom_score_adj").read()),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "workdir mode": os.stat(os.environ["CORRAL_WORKDIR"]).st_mode,
    }
"""

REPORTERS = {
    "report.py": REPORT,
    "agent.py": "import report\ndef run(input): return report.report()",
    "main.py": "import json, os, report, sys\nassert json.load(sys.stdin) == {'a': 1}\n"
    "os.write(3, json.dumps({'result': report.report()}).encode() + b'\\n')",
}

# CPython ignores these two for itself.
IGNORED_BY_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1


@pytest.mark.parametrize("manifest", [PYTHON, OWN_PYTHON, COMMAND], ids=["forked", "own interpreter", "command"])
def test_surroundings_are_exactly_what_is_promised(workshop: RunningServer, manifest: str) -> None:
    write_agent(workshop.agents, "reporter", f"{manifest}\nlimits.open_files = 99\n[env]\nMODE = 'x'", REPORTERS)
    execution = workshop.run("reporter", a=1)
    assert execution["status"] == "COMPLETED", execution["error_log"]
    seen = execution["final_result"]
    workdir = seen["environment"]["CORRAL_WORKDIR"]
    deadline = float(seen["environment"].pop("CORRAL_DEADLINE"))
    assert abs(deadline - time.time() - 300) < 20
    assert seen == {
        "environment": {
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
            "HOME": workdir,
            "TMPDIR": workdir,
            "MODE": "x",
            "CORRAL_AGENT": "reporter",
            "CORRAL_ATTEMPT": "1",
            "CORRAL_EXECUTION_ID": execution["execution_id"],
            "CORRAL_RESULT_FD": "3",
            "CORRAL_WORKDIR": workdir,
        },
        "descriptors": {
            "0": "/memfd" if manifest is COMMAND else "/dev/null",
            **dict.fromkeys(["1", "2", "3"], "pipe"),
        },
        "stdin is at its end": True,
        "folder": str(workshop.agents / "reporter"),
        "own session": True,
        "umask": 0o077,
        "signal at the parent's death": signal.SIGKILL,
        "no new privileges": 1,
        "ignored signals": IGNORED_BY_PYTHON,
        "blocked signals": 0,
        "oom_score_adj": 500,
        "core": [1, 1],
        "open files": [99, 99],
        "workdir mode": stat.S_IFDIR | 0o700,
    }
    assert Path(workdir).is_relative_to(workshop.data)
    wait_until(lambda: not Path(workdir).exists())


def test_command_starts_with_every_signal_at_its_default(workshop: RunningServer) -> None:
    """A program in C, because Python and shells change some of them for themselves."""
    write_agent(workshop.agents, "signals", 'command = ["grep", "^Sig[BI]", "/proc/self/status"]')
    execution = workshop.run("signals")
    words = workshop.logs(execution["execution_id"])["text"].split()
    assert words == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_python_agent_is_interrupted_like_every_python(workshop: RunningServer) -> None:
    code = "import os, signal\ndef run(input): os.kill(os.getpid(), signal.SIGINT)"
    execution = run_new(workshop, PYTHON, {"agent.py": code})
    assert execution["error_log"].splitlines()[-1] == "KeyboardInterrupt"


@python_modes
def test_programs_of_a_python_agent_do_not_get_its_result_descriptor(workshop: RunningServer, manifest: str) -> None:
    code = "import os\ndef run(input): return {'status': os.system('echo hello >&3')}"
    assert result_of_new(workshop, manifest, {"agent.py": code})["status"]


def test_env_overrides_all_but_what_is_the_servers(workshop: RunningServer) -> None:
    env = {"PATH": "/bin", "LANG": "C", "HOME": "/nowhere", "TMPDIR": "/tmp"}
    lines = "\n".join(f'{name} = "{value}"' for name, value in env.items())
    seen = result_of_new(workshop, f"{PYTHON}\n[env]\n{lines}", REPORTERS)["environment"]
    assert {name: seen[name] for name in env} == env
    assert not {"TOKEN", "LC_ALL"} & set(seen)


def test_context_tells_who_when_and_where(workshop: RunningServer) -> None:
    code = """
import os
def run(input, context):
    open(os.path.join(context.workdir, "file"), "w").close()
    return {name: getattr(context, name) for name in ("execution_id", "attempt", "deadline", "workdir")}
"""
    started = time.time()
    execution = run_new(workshop, f"{PYTHON}\ntimeout_seconds = 1000.5", {"agent.py": code})
    seen = execution["final_result"]
    assert (seen["execution_id"], seen["attempt"]) == (execution["execution_id"], 1)
    assert started + 1000.5 <= seen["deadline"] + 0.01
    assert seen["deadline"] <= time.time() + 1000.5
    wait_until(lambda: not Path(seen["workdir"]).exists())


def test_launcher_listens_to_nobody_but_its_supervisor(workshop: RunningServer) -> None:
    path = workshop.data / "launcher.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with unix_address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(20)
        stranger.connect(address)
        protocol.send(stranger, {"do": protocol.END})
        assert stranger.recv(1) == b""
    assert run_new(workshop, PYTHON, REPORTERS)["status"] == "COMPLETED"


# -- the work directory -----------------------------------------------------------------------------------------------

# What an agent may leave in its work directory, which is then its current one.
LEFT = {
    "files": "open('file', 'w').write('x'); os.mkdir('a'); open('a/file', 'w').close()",
    "odd names": "[open(name, 'w').close() for name in ('-rf', ' ', '\\n', '*', b'\\xff')]",
    "nothing allowed": "os.makedirs('a/b/c'); [os.chmod(path, 0) for path in ('a/b/c', 'a/b', 'a', '.')]",
    "links out": "os.symlink(outside, 'link'); os.mkdir('a'); os.symlink(outside, 'a/link'); os.symlink('.', 'loop')",
    "a hard link out": "os.link(outside + '/precious', 'precious')",
    "a very deep tree": "[(os.mkdir('a' * 100), os.chdir('a' * 100)) for _ in range(1000)]",
    "a pipe and a socket": "os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('socket')",
    "no directory": "os.rmdir(workdir)",
    "a file in its place": "os.rmdir(workdir); open(workdir, 'w').close()",
    "a link in its place": "os.rmdir(workdir); os.symlink(outside, workdir)",
    "a process in it": "subprocess.Popen(['sleep', '3600'], start_new_session=True)",
}


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_work_directory_is_removed_whatever_is_left_in_it(workshop: RunningServer, tmp_path: Path, leave: str) -> None:
    (tmp_path / "precious").write_text("precious")
    code = f"""
import os, socket, subprocess
def run(input, context):
    outside, workdir = input["outside"], context.workdir
    os.chdir(workdir)
    {leave}
    return {{"workdir": workdir}}
"""
    workdir = Path(result_of_new(workshop, PYTHON, {"agent.py": code}, outside=str(tmp_path))["workdir"])
    wait_until(lambda: not os.path.lexists(workdir))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("chattr"), reason="needs root and chattr to make a file stay")
def test_result_stands_when_the_work_directory_cannot_be_removed(tmp_path: Path) -> None:
    code = """
import subprocess
def run(input, context):
    open(context.workdir + "/stays", "w").close()
    subprocess.run(["chattr", "+i", context.workdir + "/stays"], check=True)
    return {}
"""
    agents = tmp_path / "agents"
    write_agent(agents, "a", PYTHON, {"agent.py": code})
    with RunningServer(tmp_path / "data", agents=agents) as server:
        executions = [server.run("a") for _ in range(3)]
    left = list((tmp_path / "data" / "work").glob("*/stays"))
    subprocess.run(["chattr", "-i", *left], check=True)
    assert [execution["status"] for execution in executions] == ["COMPLETED"] * 3, executions
    assert len(left) == 3
