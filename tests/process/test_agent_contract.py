"""What an agent may be: the promises of the manifest, kept over HTTP."""

import os
import shutil
import venv

import pytest

from tests.helpers.agents import PYTHON, SEARCH_PATH, python_modes, result_of_new, run_new, write_agent
from tests.helpers.server import RunningServer

# -- Python entry points ----------------------------------------------------------------------------------------------

# Entry point and code of agent.py; each answers whether it was given a context.
ENTRY_POINTS = {
    "input": ("agent:run", "def run(input): return {'context': False}", False),
    "input and context": ("agent:run", "def run(input, context): return {'context': bool(context.workdir)}", True),
    "context by default": ("agent:run", "def run(input, context=None): return {'context': bool(context)}", True),
    "any arguments": ("agent:run", "def run(*args): return {'context': len(args) > 1}", False),
    "more arguments": ("agent:run", "def run(input, *more): return {'context': bool(more)}", False),
    "keywords": ("agent:run", "def run(input, *, key=1, **more): return {'context': key != 1 or bool(more)}", False),
    "async": ("agent:run", "async def run(input): return {'context': False}", False),
    "async, context": ("agent:run", "async def run(input, context): return {'context': bool(context.workdir)}", True),
    "lambda": ("agent:run", "run = lambda input: {'context': False}", False),
    "class method": (
        "agent:Agent.run",
        "class Agent:\n @classmethod\n def run(cls, input): return {'context': False}",
        False,
    ),
    "static method": (
        "agent:Agent.run",
        "class Agent:\n @staticmethod\n def run(input, context): return {'context': bool(context.workdir)}",
        True,
    ),
    "object's method": (
        "agent:agent.run",
        "class Agent:\n def run(self, input): return {'context': False}\nagent = Agent()",
        False,
    ),
    "callable object": (
        "agent:agent",
        "class Agent:\n def __call__(self, input, context): return {'context': True}\nagent = Agent()",
        True,
    ),
    "async callable object": (
        "agent:agent",
        "class Agent:\n async def __call__(self, input): return {'context': False}\nagent = Agent()",
        False,
    ),
    "class": (
        "agent:Agent",
        "class Agent(dict):\n def __init__(self, input): super().__init__(context=False)",
        False,
    ),
    "method of any arguments": (
        "agent:agent.run",
        "class Agent:\n def run(self, *args): return {'context': len(args) > 1}\nagent = Agent()",
        False,
    ),
    "partial": (
        "agent:run",
        "import functools\nrun = functools.partial(lambda key, input: {'context': False}, 1)",
        False,
    ),
    "decorated": (
        "agent:run",
        "import functools\n"
        "def decorate(function):\n"
        " @functools.wraps(function)\n"
        " def wrapper(*args, **keywords): return function(*args, **keywords)\n"
        " return wrapper\n"
        "@decorate\ndef run(input): return {'context': False}",
        False,
    ),
    "decorated, context": (
        "agent:run",
        "import functools\n"
        "def decorate(function):\n"
        " @functools.wraps(function)\n"
        " def wrapper(*args, **keywords): return function(*args, **keywords)\n"
        " return wrapper\n"
        "@decorate\ndef run(input, context): return {'context': True}",
        True,
    ),
}


@pytest.mark.parametrize(("entrypoint", "code", "context"), ENTRY_POINTS.values(), ids=ENTRY_POINTS)
def test_entry_point_is_called_and_given_a_context_if_it_takes_one(
    workshop: RunningServer, entrypoint: str, code: str, context: bool
) -> None:
    assert result_of_new(workshop, f'entrypoint = "{entrypoint}"', {"agent.py": code}) == {"context": context}


UNUSABLE = {
    "no such module": ("missing:run", "", "ModuleNotFoundError: No module named 'missing'"),
    "no such function": ("agent:missing", "", "AttributeError: module 'agent' has no attribute 'missing'"),
    "not callable": ("agent:run", "run = 1", "TypeError: 'int' object is not callable"),
    "too few parameters": ("agent:run", "def run(): return {}", "TypeError: run() takes 0 positional arguments but 1"),
    "syntax": ("agent:run", "def run(input:\n", "SyntaxError: "),
}


@pytest.mark.parametrize(("entrypoint", "code", "error"), UNUSABLE.values(), ids=UNUSABLE)
def test_entry_point_that_cannot_be_called_fails_with_the_reason(
    workshop: RunningServer, entrypoint: str, code: str, error: str
) -> None:
    execution = run_new(workshop, f'entrypoint = "{entrypoint}"', {"agent.py": code})
    assert execution["termination"]["code"] == "AGENT_ERROR"
    assert error in execution["error_log"].splitlines()[-1]


# -- the agent's own modules ------------------------------------------------------------------------------------------

# Names of our modules, and of what these import.
OURS = [
    "runner",
    "agent",
    "protocol",
    "forkserver",
    "start",
    "enter",
    "init",
    "tree",
    "workdir",
    "supervisor",
    "api",
    "sandbox",
]


@python_modes
@pytest.mark.parametrize("name", OURS)
def test_module_named_like_one_of_ours_is_the_agents(workshop: RunningServer, manifest: str, name: str) -> None:
    manifest = manifest.replace("agent:run", f"{name}:run")
    files = {f"{name}.py": f"import {name}\nassert {name}.MINE\n".join(["MINE = True\n", "def run(input): return {}"])}
    assert result_of_new(workshop, manifest, files) == {}


@python_modes
def test_packages_and_helpers_in_the_folder_can_be_imported(workshop: RunningServer, manifest: str) -> None:
    files = {
        "package/__init__.py": "",
        "package/inner/__init__.py": "from .numbers_ import ONE",
        "package/inner/numbers_.py": "ONE = 1",
        "package/main.py": "from .inner import ONE\nfrom package import inner\nimport helper, json\n"
        "def run(input): return {'is': ONE + helper.TWO, 'json': json.loads('3')}",
        "helper.py": "TWO = 2",
        # Python looks for a standard module once; ours came first.
        "json.py": "raise ImportError('not the one that was asked for')",
    }
    assert result_of_new(workshop, manifest.replace("agent:run", "package.main:run"), files) == {"is": 3, "json": 3}


def test_nothing_of_the_server_can_be_imported(workshop: RunningServer) -> None:
    code = """
import importlib.util, sys
def run(input):
    return {"found": [name for name in input["names"] if name in sys.modules or importlib.util.find_spec(name)]}
"""
    names = ["runner", "supervisor", "api", "falcon", "pydantic", "psutil"]
    assert result_of_new(workshop, PYTHON, {"agent.py": code}, names=names) == {"found": []}


@python_modes
def test_folder_of_the_agent_stays_as_it_is(workshop: RunningServer, manifest: str) -> None:
    folder = write_agent(workshop.agents, "clean", manifest, {"agent.py": "import helper\nrun = dict", "helper.py": ""})
    assert workshop.run("clean")["status"] == "COMPLETED"
    assert sorted(os.listdir(folder)) == ["agent.py", "agent.toml", "helper.py"]
    shutil.rmtree(folder)


def test_exit_and_quit_are_there_as_in_every_python(workshop: RunningServer) -> None:
    execution = run_new(workshop, PYTHON, {"agent.py": "def run(input): exit(7)"})
    assert execution["termination"]["exit_code"] == 7


# -- processes and threads of the agent -------------------------------------------------------------------------------

# Functions that Python pickles by name, for other processes to import.
PARALLEL = """
import asyncio, concurrent.futures, multiprocessing, pickle, subprocess, sys, threading

def square(number):
    return number * number

def in_pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, [1, 2, 3])

def in_executor(executor):
    with executor(2) as pool:
        return list(pool.map(square, [1, 2, 3]))

async def in_loop():
    process = await asyncio.create_subprocess_exec("echo", "1 4 9", stdout=subprocess.PIPE)
    return [int(word) for word in (await process.communicate())[0].split()]

WAYS = {
    "fork": lambda: in_pool("fork"),
    "spawn": lambda: in_pool("spawn"),
    "processes": lambda: in_executor(concurrent.futures.ProcessPoolExecutor),
    "threads": lambda: in_executor(concurrent.futures.ThreadPoolExecutor),
    "shell": lambda: [int(word) for word in subprocess.check_output("echo 1 4 9", shell=True).split()],
    "python": lambda: eval(subprocess.check_output([sys.executable, "-c", "print([1, 4, 9])"])),
    "asyncio": lambda: asyncio.run(in_loop()),
    "pickle": lambda: [pickle.loads(pickle.dumps(square))(number) for number in [1, 2, 3]],
}

def run(input):
    return {"squares": WAYS[input["way"]]()}
"""


@pytest.mark.parametrize("way", ["fork", "spawn", "processes", "threads", "shell", "python", "asyncio", "pickle"])
def test_agent_may_work_in_parallel(workshop: RunningServer, way: str) -> None:
    assert result_of_new(workshop, PYTHON, {"agent.py": PARALLEL}, way=way) == {"squares": [1, 4, 9]}


LINGERING = {
    "a thread": "def run(input): threading.Thread(target=time.sleep, args=(3600,)).start(); return {}",
    "an exit handler": "def run(input): atexit.register(time.sleep, 3600); return {}",
    "an executor": "def run(input): ThreadPoolExecutor().submit(time.sleep, 3600); return {}",
    "a process": "def run(input): multiprocessing.Process(target=time.sleep, args=(3600,)).start(); return {}",
    "a thread of asyncio": "async def run(input):\n"
    " asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)\n await asyncio.sleep(0.01)\n return {}",
    "a task that cannot be canceled": "async def stay():\n while True:\n  try: await asyncio.sleep(3600)\n"
    "  except asyncio.CancelledError: pass\n"
    "async def run(input):\n asyncio.ensure_future(stay())\n await asyncio.sleep(0.01)\n return {}",
    "a thread, and an exception": "def run(input): threading.Thread(target=time.sleep, args=(3600,)).start(); exit(0)",
}


@pytest.mark.parametrize("code", LINGERING.values(), ids=LINGERING)
def test_run_is_over_when_the_entry_point_returns(workshop: RunningServer, code: str) -> None:
    imports = "import asyncio, atexit, multiprocessing, threading, time\nfrom concurrent.futures import *\n"
    execution = run_new(workshop, f"{PYTHON}\ntimeout_seconds = 10", {"agent.py": imports + code})
    assert execution["termination"]["code"] == ("NO_RESULT" if "exit(0)" in code else "EXITED_OK")


# -- commands ---------------------------------------------------------------------------------------------------------

NODE = """
const fs = require("fs");
const input = JSON.parse(fs.readFileSync(0));
fs.writeSync(Number(process.env.CORRAL_RESULT_FD), JSON.stringify({ result: { doubled: input.number * 2 } }) + "\\n");
"""

SHELL = """
cat >/dev/null
echo '{"result": {"doubled": 42}}' >&3
"""

COMMANDS = {
    "shell": ('command = ["sh", "agent.sh"]', {"agent.sh": SHELL}),
    "stdout": ('command = ["sh", "-c", "cat"]\nresult = "stdout"', {}),
    "arguments": ("command = ['printf', '{\"%s\": 42}', 'doubled']\nresult = 'stdout'", {}),
    "node": ('command = ["node", "agent.js"]', {"agent.js": NODE}),
    "relative": ('command = ["./bin/agent"]\nresult = "stdout"', {"bin/agent": "#!/bin/sh\ncat\n"}),
    "relative without a dot": ('command = ["bin/agent"]\nresult = "stdout"', {"bin/agent": "#!/bin/sh\ncat\n"}),
}


@pytest.mark.parametrize(("manifest", "files"), COMMANDS.values(), ids=COMMANDS)
def test_command_is_any_program(workshop: RunningServer, manifest: str, files: dict[str, str]) -> None:
    if "node" in manifest and not shutil.which("node", path=SEARCH_PATH):
        pytest.skip("there is no node")
    folder = write_agent(workshop.agents, "command", manifest, files)
    for path in files:
        (folder / path).chmod(0o755)
    result = workshop.run("command", number=21, doubled=42)["final_result"]
    shutil.rmtree(folder)
    assert result
    assert result["doubled"] == 42


UNSTARTABLE = {
    "no such program": ('command = ["no-such-program"]', "'no-such-program': No such file or directory"),
    "not executable": ('command = ["./agent.toml"]', "'./agent.toml': Permission denied"),
    "a folder": ('command = ["/"]', "'/': Permission denied"),
    "no such interpreter": (f'{PYTHON}\npython = ".venv/bin/python"', "/.venv/bin/python': No such file or directory"),
}


@pytest.mark.parametrize(("manifest", "reason"), UNSTARTABLE.values(), ids=UNSTARTABLE)
def test_command_that_cannot_be_started_is_a_failed_launch(workshop: RunningServer, manifest: str, reason: str) -> None:
    execution = run_new(workshop, manifest, {})
    assert execution["termination"]["code"] == "LAUNCH_FAILED"
    assert reason in execution["error_log"]


def test_own_interpreter_is_a_venv_with_its_own_packages(workshop: RunningServer) -> None:
    folder = write_agent(
        workshop.agents,
        "venv",
        f'{PYTHON}\npython = ".venv/bin/python"',
        {
            "agent.py": "import sys, installed, pickle\ndef run(input, context):\n context.progress(1)\n"
            " return {'prefix': sys.prefix, 'installed': installed.HERE, 'pickled': bool(pickle.dumps(run)),"
            " 'server': 'supervisor' in sys.modules or any('supervisor' in path for path in sys.path)}"
        },
    )
    venv.create(folder / ".venv", with_pip=False)
    (packages,) = folder.glob(".venv/lib/python*/site-packages")
    (packages / "installed.py").write_text("HERE = True")
    execution = workshop.run("venv")
    assert execution["final_result"] == {
        "prefix": str(folder / ".venv"),
        "installed": True,
        "pickled": True,
        "server": False,
    }
    assert execution["progress"] == 1


@python_modes
def test_input_of_any_size_is_no_hindrance_also_when_nobody_reads_it(workshop: RunningServer, manifest: str) -> None:
    text = "\N{GRINNING FACE}" * 220_000
    code = {"agent.py": "def run(input): return {'length': len(input['text'])}"}
    assert result_of_new(workshop, manifest, code, text=text) == {"length": 220_000}
    assert run_new(workshop, 'command = ["true"]', {}, text=text)["termination"]["code"] == "NO_RESULT"
