"""The agents: manifests, and the folder of all agents as it is on disk now."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.agents import Agent, AgentRegistry, read_agent
from supervisor.errors import AgentBroken, AgentUnknown
from supervisor.limits import CORES
from supervisor.states import Cause

COMMAND = 'command = ["true"]\n'
ENTRYPOINT = 'entrypoint = "agent:run"\n'
SOME_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def write(root: Path, folder: str, manifest: str | bytes = COMMAND) -> Path:
    """Write an agent's folder and return it."""
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    text = manifest.encode() if isinstance(manifest, str) else manifest
    (path / "agent.toml").write_bytes(text)
    return path


def read(root: Path, manifest: str | bytes) -> Agent:
    return read_agent(write(root, "agent", manifest))


# -- one manifest ------------------------------------------------------------------------------------------------------


def test_manifest_least_there_can_be_has_documented_defaults(tmp_path: Path) -> None:
    manifest = read(tmp_path, ENTRYPOINT).manifest
    assert manifest.name == "agent"
    assert (manifest.entrypoint, manifest.command, manifest.python, manifest.result) == (
        "agent:run",
        None,
        None,
        "frames",
    )
    assert (manifest.description, manifest.priority, manifest.concurrency) == ("", 50, None)
    assert (manifest.grace_seconds, manifest.env) == (5, {})
    assert read(tmp_path, ENTRYPOINT).limits.model_dump() == {
        "timeout_seconds": 300,
        "cpu_seconds": 600,
        "cpus": CORES,
        "memory_bytes": 512 << 20,
        "file_size_bytes": 1 << 30,
        "processes": 128,
        "disk_bytes": 64 << 20,
        "open_files": 1024,
        "result_bytes": 1 << 20,
        "log_bytes": 1 << 20,
    }


def test_manifest_with_everything_is_taken_as_it_is(tmp_path: Path) -> None:
    agent = read(
        tmp_path,
        f"""
        name = "Weather-2.0_x"
        id = "{SOME_ID.upper()}"
        description = "Says é"
        entrypoint = "package.module:Class.run"
        python = ".venv/bin/python"
        priority = 100
        concurrency = 1
        timeout_seconds = 0.5
        grace_seconds = 0
        [limits]
        cpu_seconds = 1
        memory_bytes = 16777216
        file_size_bytes = 0
        open_files = 16
        result_bytes = 2
        log_bytes = 4096
        [env]
        NAME = "value=with\\nall"
        _lower1 = ""
        [retry]
        max_attempts = 5
        backoff_seconds = 0
        backoff_max_seconds = 86400
        on = ["STOPPED", "MEMORY"]
        """,
    )
    assert (agent.name, agent.id) == ("Weather-2.0_x", SOME_ID)
    assert agent.manifest.entrypoint == "package.module:Class.run"
    assert (agent.limits.timeout_seconds, agent.manifest.grace_seconds) == (0.5, 0)
    assert agent.manifest.env == {"NAME": "value=with\nall", "_lower1": ""}
    assert (agent.limits.file_size_bytes, agent.limits.disk_bytes) == (0, 64 << 20)
    assert (agent.manifest.retry.max_attempts, agent.manifest.retry.on) == (5, (Cause.STOPPED, Cause.MEMORY))


def test_manifest_with_a_command_keeps_each_word(tmp_path: Path) -> None:
    manifest = read(tmp_path, 'command = ["node", "", "a b", "é"]\nresult = "stdout"').manifest
    assert (manifest.command, manifest.result) == (("node", "", "a b", "é"), "stdout")


BROKEN = {
    "empty": ("", "exactly one of entrypoint and command"),
    "both": (COMMAND + ENTRYPOINT, "exactly one of entrypoint and command"),
    "no TOML": ("command = [", "cannot read agent.toml"),
    "not UTF-8": (b'description = "\xff"', "cannot read agent.toml"),
    "nested too deep": (f"x = {'[' * 20_000}", "cannot read agent.toml"),
    "same key twice": (COMMAND * 2, "cannot read agent.toml"),
    "unknown key": (COMMAND + "timeout = 5", "timeout: "),
    "unknown limit": (COMMAND + "[limits]\nmemory = 5", "limits.memory: "),
    "unknown table": (COMMAND + "[retries]\n", "retries: "),
    "limits are a number": (COMMAND + "limits = 5", "limits: "),
    "name is empty": (COMMAND + 'name = ""', "name: "),
    "name too long": (COMMAND + f'name = "{"a" * 65}"', "name: "),
    "name with a slash": (COMMAND + 'name = "../a"', "name: "),
    "name begins with a dot": (COMMAND + 'name = ".a"', "name: "),
    "name with a space": (COMMAND + 'name = "a b"', "name: "),
    "name ends with a newline": (COMMAND + 'name = "a\\n"', "name: "),
    "name is a number": (COMMAND + "name = 5", "name: "),
    "id is no UUID": (COMMAND + 'id = "weather"', "id: "),
    "id is a number": (COMMAND + "id = 5", "id: "),
    "description too long": (COMMAND + f'description = "{"a" * 2001}"', "description: "),
    "entrypoint without a function": ('entrypoint = "agent"', "entrypoint: "),
    "entrypoint is a file": ('entrypoint = "agent.py:run()"', "entrypoint: "),
    "entrypoint with a path": ('entrypoint = "../agent:run"', "entrypoint: "),
    "command is a text": ('command = "true"', "command: "),
    "command is empty": ("command = []", "command: "),
    "command of numbers": ("command = [1]", "command.0: "),
    "command with a NUL": ('command = ["a\\u0000"]', "command.0: "),
    "command of too many words": (f"command = {['a'] * 1001}", "command: "),
    "command without a program": ('command = ["", "a"]', "command: the program's name is empty"),
    "command and env too large": (f"command = {['a' * 32_768] * 3}", "over 64 KiB"),
    "python for a command": (COMMAND + 'python = "python3"', "python goes with entrypoint"),
    "python is empty": (ENTRYPOINT + 'python = ""', "python: "),
    "stdout of an entrypoint": (ENTRYPOINT + 'result = "stdout"', 'result = "stdout" goes with command'),
    "unknown kind of result": (COMMAND + 'result = "file"', "result: "),
    "priority below": (COMMAND + "priority = -1", "priority: "),
    "priority above": (COMMAND + "priority = 101", "priority: "),
    "priority is no integer": (COMMAND + "priority = 5.0", "priority: "),
    "priority is true": (COMMAND + "priority = true", "priority: "),
    "no concurrency": (COMMAND + "concurrency = 0", "concurrency: "),
    "too much concurrency": (COMMAND + "concurrency = 10001", "concurrency: "),
    "no time": (COMMAND + "timeout_seconds = 0", "timeout_seconds: "),
    "time without end": (COMMAND + "timeout_seconds = inf", "timeout_seconds: "),
    "time is no number": (COMMAND + "timeout_seconds = nan", "timeout_seconds: "),
    "time is a text": (COMMAND + 'timeout_seconds = "60"', "timeout_seconds: "),
    "time is true": (COMMAND + "timeout_seconds = true", "timeout_seconds: "),
    "grace below zero": (COMMAND + "grace_seconds = -1", "grace_seconds: "),
    "grace over an hour": (COMMAND + "grace_seconds = 3601", "grace_seconds: "),
    "grace is no number": (COMMAND + "grace_seconds = nan", "grace_seconds: "),
    "grace is a text": (COMMAND + 'grace_seconds = "5"', "grace_seconds: "),
    "no CPU time": (COMMAND + "[limits]\ncpu_seconds = 0", "limits.cpu_seconds: "),
    "no cores": (COMMAND + "[limits]\ncpus = 0", "limits.cpus: "),
    "less than a tenth of a core": (COMMAND + "[limits]\ncpus = 0.09", "limits.cpus: "),
    "cores are a text": (COMMAND + "[limits]\ncpus = 'all'", "limits.cpus: "),
    "CPU time is a fraction": (COMMAND + "[limits]\ncpu_seconds = 0.5", "limits.cpu_seconds: "),
    "too little memory": (COMMAND + "[limits]\nmemory_bytes = 16777215", "limits.memory_bytes: "),
    "file size below zero": (COMMAND + "[limits]\nfile_size_bytes = -1", "limits.file_size_bytes: "),
    "too few open files": (COMMAND + "[limits]\nopen_files = 15", "limits.open_files: "),
    "no room for a result": (COMMAND + "[limits]\nresult_bytes = 1", "limits.result_bytes: "),
    "no room for a log": (COMMAND + "[limits]\nlog_bytes = 4095", "limits.log_bytes: "),
    "no attempt": (COMMAND + "[retry]\nmax_attempts = 0", "retry.max_attempts: "),
    "too many attempts": (COMMAND + "[retry]\nmax_attempts = 101", "retry.max_attempts: "),
    "retry without a number of attempts": (COMMAND + '[retry]\non = ["LOST"]', "retry: max_attempts is needed"),
    "backoff below zero": (COMMAND + "[retry]\nmax_attempts = 2\nbackoff_seconds = -1", "retry.backoff_seconds: "),
    "backoff without end": (COMMAND + "[retry]\nmax_attempts = 2\nbackoff_max_seconds = inf", "backoff_max_seconds: "),
    "retry on an unknown code": (COMMAND + '[retry]\nmax_attempts = 2\non = ["LOST", "OOM"]', "retry.on.1: 'OOM' is"),
    "retry of what is done": (COMMAND + '[retry]\nmax_attempts = 2\non = ["EXITED_OK"]', "retry.on.0: 'EXITED_OK' is"),
    "retry of what was canceled": (COMMAND + '[retry]\nmax_attempts = 2\non = ["CANCELED"]', "retry.on.0: 'CANCELED'"),
    "retry on one code": (COMMAND + '[retry]\nmax_attempts = 2\non = "LOST"', "retry.on: "),
    "unknown key of retry": (COMMAND + "[retry]\nmax_attempts = 2\njitter = 1", "retry.jitter: "),
    "env name with a dash": (COMMAND + '[env]\n"A-B" = ""', "env.A-B."),
    "env name is empty": (COMMAND + '[env]\n"" = ""', "env."),
    "env value with a NUL": (COMMAND + '[env]\nA = "\\u0000"', "env.A: "),
    "env value is a number": (COMMAND + "[env]\nA = 1", "env.A: "),
    "env name is the server's": (COMMAND + '[env]\nCORRAL_A = ""', "names that begin with CORRAL_ are the server's"),
}


@pytest.mark.parametrize(("manifest", "words"), BROKEN.values(), ids=BROKEN)
def test_manifest_that_breaks_a_rule_is_refused_in_words_that_name_the_place(
    tmp_path: Path, manifest: str | bytes, words: str
) -> None:
    with pytest.raises(AgentBroken) as refused:
        read(tmp_path, manifest)
    assert words in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_manifest_with_several_mistakes_names_all(tmp_path: Path) -> None:
    with pytest.raises(AgentBroken, match=r"name: .*; priority: .*; env\.A: "):
        read(tmp_path, COMMAND + 'name = "/"\npriority = 101\n[env]\nA = 1')


def test_manifest_id_follows_from_the_name_alone_and_never_changes(tmp_path: Path) -> None:
    by_folder = read_agent(write(tmp_path, "weather"))
    by_name = read_agent(write(tmp_path, "other", COMMAND + 'name = "weather"\npriority = 1'))
    assert by_folder.id == by_name.id == "b6a2acd5-82bd-59c3-91bb-90c163e79709"
    assert read_agent(write(tmp_path, "Weather")).id != by_folder.id


def test_manifest_folder_name_that_is_no_name_needs_a_name_in_the_manifest(tmp_path: Path) -> None:
    folder = os.fsdecode(b"\xff not a name")
    with pytest.raises(AgentBroken):
        read_agent(write(tmp_path, folder))
    assert read_agent(write(tmp_path, folder, COMMAND + 'name = "a"')).name == "a"


# -- the registry ------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "agents"
    path.mkdir()
    return path


@pytest.fixture
def registry(root: Path) -> AgentRegistry:
    return AgentRegistry(root)


def listed(registry: AgentRegistry) -> dict[str, bool]:
    """Return, for each folder that is listed, whether it is an agent that can be used."""
    return {entry.folder.name: entry.agent is not None for entry in registry.entries()}


def test_find_takes_the_id_and_the_name(root: Path, registry: AgentRegistry) -> None:
    write(root, "folder", COMMAND + f'name = "name"\nid = "{SOME_ID}"')
    assert registry.find("name") == registry.find(SOME_ID)
    with pytest.raises(AgentUnknown):
        registry.find("folder")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../agents/a", "a/", "\x00", "a\x00", "*", "A", "é" * 10_000, "\ud800"]
)
def test_find_what_no_manifest_says_is_unknown(root: Path, registry: AgentRegistry, name: str) -> None:
    write(root, "a")
    with pytest.raises(AgentUnknown) as unknown:
        registry.find(name)
    assert len(str(unknown.value)) < 1000
    assert str(unknown.value).isprintable()


def test_find_new_changed_and_removed_folders_are_seen_at_once(root: Path, registry: AgentRegistry) -> None:
    with pytest.raises(AgentUnknown):
        registry.find("a")
    write(root, "a", COMMAND + "priority = 10")
    assert registry.find("a").manifest.priority == 10
    write(root, "a", COMMAND + "priority = 11")
    assert registry.find("a").manifest.priority == 11
    write(root, "a", COMMAND + 'name = "b"')
    with pytest.raises(AgentUnknown):
        registry.find("a")
    assert registry.find("b").folder == root / "a"
    write(root, "a", "broken")
    with pytest.raises(AgentBroken):
        registry.find("a")
    with pytest.raises(AgentUnknown):
        registry.find("b")
    write(root, "a")
    assert registry.find("a").name == "a"
    shutil.rmtree(root / "a")
    with pytest.raises(AgentUnknown):
        registry.find("a")


def test_find_manifest_replaced_by_a_rename_is_seen_at_once(root: Path, registry: AgentRegistry) -> None:
    write(root, "a", COMMAND + "priority = 10")
    assert registry.find("a").manifest.priority == 10
    other = write(root.parent, "new", COMMAND + "priority = 11") / "agent.toml"
    status = (root / "a" / "agent.toml").stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(root / "a" / "agent.toml")
    assert registry.find("a").manifest.priority == 11


def test_find_folder_of_all_agents_that_is_not_there_yet_has_none(tmp_path: Path) -> None:
    registry = AgentRegistry(tmp_path / "agents")
    assert registry.entries() == []
    write(tmp_path / "agents", "a")
    assert registry.find("a").name == "a"


def test_entries_are_in_the_order_of_folders_and_leave_out_what_has_no_manifest(
    root: Path, registry: AgentRegistry
) -> None:
    for name in ("c", "a", "b"):
        write(root, name)
    (root / "empty").mkdir()
    (root / "file").write_text("")
    (root / "link").symlink_to(root / "nowhere")
    assert list(listed(registry)) == ["a", "b", "c"]


def fifo(manifest: Path) -> None:
    os.mkfifo(manifest)


def folder(manifest: Path) -> None:
    manifest.mkdir()


def too_long_a_link(manifest: Path) -> None:
    manifest.symlink_to("x" * 300)


def endless(manifest: Path) -> None:
    manifest.symlink_to("/dev/zero")


def link_to_itself(manifest: Path) -> None:
    manifest.symlink_to(manifest)


def large(manifest: Path) -> None:
    manifest.write_bytes(b"#" * (2 << 20))


@pytest.mark.parametrize("make", [fifo, folder, too_long_a_link, endless, link_to_itself, large])
def test_manifest_that_is_no_readable_file_is_listed_as_broken_and_stops_nobody(
    root: Path, registry: AgentRegistry, make: Callable[[Path], None]
) -> None:
    for name in ("a", "z"):
        write(root, name)
    (root / "b").mkdir()
    make(root / "b" / "agent.toml")
    assert listed(registry) == {"a": True, "b": False, "z": True}
    with pytest.raises(AgentBroken, match=r"^cannot use agent 'b': cannot read agent.toml: "):
        registry.find("b")
    assert registry.find("z").name == "z"


def test_broken_manifest_is_listed_with_its_error_and_stops_nobody(root: Path, registry: AgentRegistry) -> None:
    for name, manifest in (("a", COMMAND), ("b", "nonsense"), ("c", COMMAND), ("d", "x = " + "[" * 20_000)):
        write(root, name, manifest)
    assert listed(registry) == {"a": True, "b": False, "c": True, "d": False}
    (error,) = [entry.error for entry in registry.entries() if entry.folder.name == "b"]
    assert error is not None
    assert error.startswith("cannot read agent.toml: ")
    with pytest.raises(AgentBroken, match=r"^cannot use agent 'b': cannot read agent.toml: "):
        registry.find("b")
    assert registry.find("c").name == "c"


@pytest.mark.parametrize(
    "second",
    ['name = "a"', 'name = "a"\nid = "' + SOME_ID + '"', f'id = "{SOME_ID}"', f'name = "{SOME_ID}"'],
    ids=["name", "name, other id", "id", "name is the other's id"],
)
def test_second_agent_of_a_name_or_id_is_broken_until_the_first_is_gone(
    root: Path, registry: AgentRegistry, second: str
) -> None:
    write(root, "a", COMMAND + ("" if second == 'name = "a"' else f'id = "{SOME_ID}"'))
    write(root, "b", COMMAND + second)
    assert listed(registry) == {"a": True, "b": False}
    assert registry.find("a").folder == root / "a"
    with pytest.raises(AgentBroken, match=r"its name or id is also that of 'a'$"):
        registry.find("b")
    shutil.rmtree(root / "a")
    assert listed(registry) == {"b": True}
    assert registry.find(registry.entries()[0].agent.name).folder == root / "b"  # type: ignore[union-attr]


def test_second_agent_of_a_name_is_found_by_its_folder_as_soon_as_the_first_is_gone(
    root: Path, registry: AgentRegistry
) -> None:
    write(root, "a", COMMAND + 'name = "x"')
    write(root, "b", COMMAND + f'name = "b"\nid = "{registry.find("x").id}"')
    with pytest.raises(AgentBroken):
        registry.find("b")
    shutil.rmtree(root / "a")
    assert registry.find("b").folder == root / "b"


def test_broken_folder_does_not_keep_its_name_from_a_sound_agent(root: Path, registry: AgentRegistry) -> None:
    write(root, "a", "nonsense")
    write(root, "b", COMMAND + 'name = "a"')
    write(root, "c", COMMAND + 'name = "a"')
    write(root, "d", COMMAND + 'name = "c"')
    assert listed(registry) == {"a": False, "b": True, "c": False, "d": True}
    assert registry.find("a").folder == root / "b"
    assert registry.find("c").folder == root / "d"
