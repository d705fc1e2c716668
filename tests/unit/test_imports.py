"""The rules of the layout, held over the syntax tree: who imports whom, who touches processes and SQL, what is told.

A rule is a function from one source file to its violations, each as (line, what is wrong). Every rule is applied to
all files of the three packages, and, to show that it can fail, to lines that break it and to lines that do not.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "supervisor", "runner")

# What each part may import of runner; a part is a package and what is below it, and the longest that matches counts.
RUNNER_MODULES = {
    "api": {"runner.sandbox.prctl"},
    "supervisor": {"runner.sandbox.prctl"},
    "supervisor.doctor": {f"runner.sandbox.{name}" for name in ("cgroup", "landlock", "namespaces")},
    "supervisor.machine": {"runner", "runner.profile", "runner.protocol", "runner.agent", "runner.sandbox.rlimits"},
}

_SPEAK_SQL = ("store", "transaction", "connections", "database", "inspection", "upkeep")
SQL_FILES = {f"supervisor/{name}.py" for name in _SPEAK_SQL}

# What files that speak no SQL may know of sqlite3.
SQLITE_FACTS = {"api/admin.py": {"sqlite3.sqlite_version"}}

# Whatever starts, finds, waits for or signals a process.
PROCESS_NAMES = (
    "psutil",
    "subprocess",
    "multiprocessing",
    "os.kill",
    "os.killpg",
    "os.fork*",
    "os.exec*",
    "os.spawn*",
    "os.posix_spawn*",
    "os.system",
    "os.popen",
    "os.wait*",
    "os.pidfd_open",
    "signal.pidfd_send_signal",
)
PROCESS_FOLDERS = ("supervisor/machine/", "runner/", "supervisor/selftest/hostile/")

# The supervisor spawns the API process itself, because it alone has the settings and the listening socket that the API
# is given; from then on the process belongs to machine.service.
# The selftest has a server of its own, which is no run of this one.
PROCESS_EXCEPTIONS = {
    "supervisor/server.py": {"subprocess"},
    "supervisor/selftest/private_server.py": {"subprocess", "psutil"},
    "supervisor/selftest/remains.py": {"psutil"},
}

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 50

# Their names are a protocol of Python's: everybody knows what they do.
UNDOCUMENTED = {"fileno", "close"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Violation = tuple[int, str]


@dataclass(frozen=True)
class Source:
    """One file. path: relative to the checkout."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield (line, module) for each import, wherever it stands; of ours, the module and not the name in it."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, module) for module in self._modules_of(node))

    def uses(self) -> Iterator[tuple[int, str]]:
        """Yield (line, dotted name) for each imported module and each name that is taken out of one."""
        bound = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    head = alias.name.partition(".")[0]
                    bound[alias.asname or head] = alias.name if alias.asname else head
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
                yield node.lineno, f"{bound[node.value.id]}.{node.attr}"

    def definitions(self) -> Iterator[Function | ast.ClassDef]:
        """Yield functions, classes and methods; not those inside of functions."""
        waiting: list[ast.stmt] = list(self.tree.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, Function | ast.ClassDef):
                yield node
            if isinstance(node, ast.ClassDef | ast.If | ast.Try):
                waiting += node.body

    def _modules_of(self, node: ast.ImportFrom) -> set[str]:
        folders = self.path.split("/")[: -node.level] if node.level else []
        base = ".".join([*folders, *filter(None, [node.module])])
        names = [f"{base}.{alias.name}" for alias in node.names]
        return {name if _is_our_module(name) else base for name in names}


def _is_our_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _touches_processes(name: str) -> bool:
    return any(fnmatchcase(name, pattern) or _is_in(name, pattern) for pattern in PROCESS_NAMES)


def _explains_itself(node: Function | ast.ClassDef) -> bool:
    is_property = any(
        isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list
    )
    return node.name in UNDOCUMENTED or (is_property and len(node.body) == 1)


Rule = Callable[[Source], Iterator[Violation]]


def api_is_nobodys(source: Source) -> Iterator[Violation]:
    """Nobody but api imports api."""
    for line, module in source.imports():
        if _is_in(module, "api") and not source.path.startswith("api/"):
            yield line, f"imports {module}; only api may"


def runner_stands_alone(source: Source) -> Iterator[Violation]:
    """The runner also lives in agents' own interpreters: it has the standard library and itself."""
    for line, module in source.imports():
        if source.path.startswith("runner/") and module.partition(".")[0] not in {*sys.stdlib_module_names, "runner"}:
            yield line, f"imports {module}; runner may import the standard library and runner"


def api_never_sees_the_machine(source: Source) -> Iterator[Violation]:
    """The API talks to the machine through the database alone."""
    for line, module in source.imports():
        if source.path.startswith("api/") and _is_in(module, "supervisor.machine"):
            yield line, f"imports {module}; api may import supervisor without its machine"


def runner_is_the_machines(source: Source) -> Iterator[Violation]:
    """Of runner, each part may know what RUNNER_MODULES says."""
    parts = [part for part in RUNNER_MODULES if _is_in(source.module, part)]
    if not parts:
        return
    part = max(parts, key=len)
    for line, module in source.imports():
        if _is_in(module, "runner") and module not in RUNNER_MODULES[part]:
            yield line, f"imports {module}; of runner, {part} may import {', '.join(sorted(RUNNER_MODULES[part]))}"


def sql_is_the_stores(source: Source) -> Iterator[Violation]:
    """SQL is spoken in SQL_FILES alone."""
    if source.path in SQL_FILES:
        return
    known = SQLITE_FACTS.get(source.path, set())
    for line, name in source.uses():
        if _is_in(name, "sqlite3") and name not in known and not (known and name == "sqlite3"):
            yield line, f"uses {name}; only {', '.join(sorted(SQL_FILES))} may"


def processes_are_the_machines(source: Source) -> Iterator[Violation]:
    """Processes are touched in PROCESS_FOLDERS alone."""
    if source.path.startswith(PROCESS_FOLDERS):
        return
    excepted = PROCESS_EXCEPTIONS.get(source.path, set())
    for line, name in source.uses():
        if _touches_processes(name) and name.partition(".")[0] not in excepted:
            yield line, f"uses {name}; only {', '.join(PROCESS_FOLDERS)} may"


def limits_are_the_agents(source: Source) -> Iterator[Violation]:
    """A manifest has only the limits that it says, and a request may have lowered them: Agent.limits are in effect."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("limits", "timeout_seconds"):
            holder = ast.unparse(node.value).rpartition(".")[2]
            if holder == "manifest":
                yield node.lineno, f"uses {node.attr} of a manifest; in effect are those of the agent"


def public_names_are_explained(source: Source) -> Iterator[Violation]:
    """What is public has a docstring; a property of one statement and UNDOCUMENTED names are told by their names."""
    if source.tree.body and not ast.get_docstring(source.tree):
        yield 1, "the module has no docstring"
    for node in source.definitions():
        if not (node.name.startswith("_") or ast.get_docstring(node) or _explains_itself(node)):
            yield node.lineno, f"{node.name} has no docstring"


def files_and_functions_are_short(source: Source) -> Iterator[Violation]:
    """A file has at most MAX_FILE_LINES, a function at most MAX_FUNCTION_LINES."""
    lines = len(source.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield lines, f"the file has {lines} lines; {MAX_FILE_LINES} are allowed"
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines; {MAX_FUNCTION_LINES} are allowed"


RULES: tuple[Rule, ...] = (
    api_is_nobodys,
    runner_stands_alone,
    api_never_sees_the_machine,
    runner_is_the_machines,
    sql_is_the_stores,
    processes_are_the_machines,
    limits_are_the_agents,
    public_names_are_explained,
    files_and_functions_are_short,
)


@pytest.mark.parametrize("rule", RULES)
def test_our_code_keeps(rule: Rule) -> None:
    violations = _violations(rule, _sources())
    assert not violations, "\n".join(["", *violations])


# The line is the one that the rule must name.
BROKEN: list[tuple[Rule, str, int, str]] = [
    (api_is_nobodys, "supervisor/loop.py", 1, "import api"),
    (api_is_nobodys, "supervisor/loop.py", 2, "def look():\n    from api.app import create_app"),
    (api_is_nobodys, "runner/init.py", 1, "from api import app as supervisor"),
    (api_is_nobodys, "runner/sandbox/prctl.py", 1, "from ...api import app"),
    (runner_stands_alone, "runner/init.py", 1, "import psutil"),
    (runner_stands_alone, "runner/init.py", 1, "import os, supervisor.clock"),
    (
        runner_stands_alone,
        "runner/sandbox/prctl.py",
        2,
        "try:\n    from structlog import get_logger\nexcept ImportError: ...",
    ),
    (api_never_sees_the_machine, "api/app.py", 1, "from supervisor import machine"),
    (api_never_sees_the_machine, "api/app.py", 1, "import supervisor.machine.lock"),
    (api_never_sees_the_machine, "api/app.py", 1, "from supervisor.machine.lock import FileLock"),
    (runner_is_the_machines, "api/app.py", 1, "from runner import protocol"),
    (runner_is_the_machines, "supervisor/loop.py", 1, "from runner.protocol import RESULT_FD"),
    (runner_is_the_machines, "supervisor/cli/commands.py", 1, "import runner"),
    (runner_is_the_machines, "supervisor/machine/run.py", 1, "from runner import forkserver"),
    (sql_is_the_stores, "supervisor/loop.py", 1, "import sqlite3"),
    (sql_is_the_stores, "supervisor/loop.py", 1, "from sqlite3 import connect"),
    (sql_is_the_stores, "api/admin.py", 2, "import sqlite3 as sql\nsql.connect('x')"),
    (processes_are_the_machines, "supervisor/loop.py", 1, "import psutil"),
    (processes_are_the_machines, "supervisor/loop.py", 2, "import os\nos.kill(1, 9)"),
    (processes_are_the_machines, "supervisor/loop.py", 2, "import os as system\nwaiting = system.waitid"),
    (processes_are_the_machines, "supervisor/loop.py", 1, "from os import fork"),
    (processes_are_the_machines, "supervisor/server.py", 2, "import os\nos.killpg(1, 9)"),
    (processes_are_the_machines, "api/app.py", 1, "from subprocess import run"),
    (processes_are_the_machines, "api/app.py", 1, "from signal import pidfd_send_signal"),
    (limits_are_the_agents, "supervisor/loop.py", 1, "cap = agent.manifest.limits.log_bytes"),
    (limits_are_the_agents, "supervisor/machine/run.py", 2, "manifest = agent.manifest\nmanifest.timeout_seconds"),
    (public_names_are_explained, "api/app.py", 1, "x = 1"),
    (public_names_are_explained, "api/app.py", 2, "'''M'''\ndef create():\n    return 1"),
    (public_names_are_explained, "api/app.py", 2, "'''M'''\nclass Item:\n    x = 1"),
    (public_names_are_explained, "api/app.py", 3, "'''M'''\nclass _Item:\n    async def get(self):\n        return 1"),
    (
        public_names_are_explained,
        "api/app.py",
        4,
        "'''M'''\nclass _A:\n    @property\n    def b(self):\n        c()\n        d()",
    ),
    (files_and_functions_are_short, "api/app.py", 351, "x = 1\n" * 351),
    (files_and_functions_are_short, "api/app.py", 2, "class A:\n  def _b(self):\n" + "    x = 1\n" * 50),
]


@pytest.mark.parametrize(("rule", "path", "line", "text"), BROKEN)
def test_rule_finds(rule: Rule, path: str, line: int, text: str) -> None:
    found = _violations(rule, [Source(path, text)])
    assert found
    assert all(violation.startswith(f"{path}:{line}: ") for violation in found)


KEPT: list[tuple[str, str]] = [
    ("api/__main__.py", "'''M'''\nfrom api.app import create_app\nfrom runner.sandbox import prctl"),
    ("api/admin.py", "'''M'''\nimport sqlite3\nimport os\nprint(sqlite3.sqlite_version, os.getppid())"),
    ("api/apis.py", "'''M'''\nimport apitools"),
    (
        "runner/init.py",
        "'''M'''\nfrom __future__ import annotations\nimport os\nfrom runner.sandbox import prctl\nos.fork()",
    ),
    ("runner/__init__.py", "# Empty on purpose."),
    ("supervisor/database.py", "'''M'''\nimport sqlite3\nsqlite3.connect('x')"),
    (
        "supervisor/machine/run.py",
        "'''M'''\nimport psutil\nfrom runner import agent, protocol\nfrom runner.protocol import GONE",
    ),
    (
        "supervisor/server.py",
        "'''M'''\nimport subprocess\nsubprocess.Popen('x')\nfrom runner.sandbox.prctl import become_subreaper",
    ),
    ("supervisor/loop.py", "'''M'''\nimport signal\nsignal.signal(15, None)\nself.os.kill(1)"),
    (
        "supervisor/loop.py",
        "'''M'''\nclass _A:\n    @property\n    def b(self): return 1\n    def close(self):\n        c()\n        d()",
    ),
    ("supervisor/loop.py", "'''M'''\nagent.limits.log_bytes + agent.limits.timeout_seconds"),
    ("supervisor/loop.py", "'''M'''\ndef _a():\n    def b():\n        return 1"),
    ("supervisor/loop.py", "'''M'''\ndef _a():\n" + "    x = 1\n" * 49),
]


@pytest.mark.parametrize(("path", "text"), KEPT)
def test_every_rule_accepts(path: str, text: str) -> None:
    assert not [violation for rule in RULES for violation in _violations(rule, [Source(path, text)])]


def test_every_exception_is_still_needed() -> None:
    used = {source.path: {name for _, name in source.uses()} for source in _sources()}
    for path, names in (*PROCESS_EXCEPTIONS.items(), *SQLITE_FACTS.items()):
        assert names <= used[path]


def _violations(rule: Rule, sources: Iterable[Source]) -> list[str]:
    return [f"{source.path}:{line}: {what}" for source in sources for line, what in sorted(rule(source))]


def _sources() -> Iterator[Source]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield Source(str(path.relative_to(ROOT)), path.read_text("utf-8"))
