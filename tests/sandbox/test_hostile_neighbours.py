"""Attacks on those outside: the server, other runs, and what is shared with them."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ordinary_user
from tests.helpers.agents import write_agent
from tests.helpers.problems import check
from tests.helpers.server import RunningServer
from tests.helpers.siege import assert_nothing_is_left, attack, begin, end, submit


@pytest.fixture
def server(besieged: RunningServer) -> RunningServer:
    return besieged


# -- those who listen -------------------------------------------------------------------------------------------------


@pytest.fixture
def listeners(host_folder: Path) -> Iterator[list[socket.socket]]:
    """Sockets outside on which nobody must ever call: on the network, with a name that has no path, and with a path."""
    path = host_folder / "listener"
    places = [
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_UNIX, f"\0corral-test-{os.getpid()}"),
        (socket.AF_UNIX, str(path)),
    ]
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.socket(family, socket.SOCK_STREAM)) for family, _ in places]
        for listener, (_, address) in zip(made, places, strict=True):
            listener.bind(address)
            listener.listen()
        path.chmod(0o777)
        yield made
    path.unlink()


def test_nobody_outside_is_called(server: RunningServer, listeners: list[socket.socket]) -> None:
    api = ("127.0.0.1", server.http.base_url.port)
    addresses = [*(listener.getsockname() for listener in listeners), api, str(server.data / "launcher.sock")]
    families = ["AF_INET", "AF_UNIX", "AF_UNIX", "AF_INET", "AF_UNIX"]
    names = [address.decode().replace("\0", "@") if isinstance(address, bytes) else address for address in addresses]
    outcomes = attack(server, "knock", [list(pair) for pair in zip(families, names, strict=True)])
    assert outcomes == ["EAFNOSUPPORT", "ECONNREFUSED", "ENOENT", "EAFNOSUPPORT", "ENOENT"]
    assert select.select(listeners, [], [], 0)[0] == []


# -- other runs -------------------------------------------------------------------------------------------------------


def test_pipes_opened_anew_hold_nothing_of_another_run(server: RunningServer) -> None:
    other = begin(server, "chatter", "other")
    found = attack(server, "reopen", "mine")
    end(server, other)
    assert set(found.split("mine")) <= {""}
    assert_nothing_is_left(server)


def test_result_that_names_another_run_is_that_of_its_own(server: RunningServer) -> None:
    other = begin(server, "ignore_everything")
    own = submit(server, "pretend", other)
    assert server.wait_for_end(own)["final_result"] == {"outcome": other}
    for key in ("id", "execution_id"):
        frame = f'{{"result": {{}}, "{key}": "{other}"}}\n'
        assert server.wait_for_end(submit(server, "say", [[frame, 1]]))["termination"]["code"] == "RESULT_INVALID"
    assert (server.get(other)["status"], server.get(other)["final_result"]) == ("RUNNING", None)
    end(server, other)


# -- what the kernel counts by user -----------------------------------------------------------------------------------

TAKE_INOTIFY = "import ctypes; libc = ctypes.CDLL(None); print([libc.inotify_init() >= 0 for _ in range(3)])"


def as_user_of(server: RunningServer, code: str) -> str:
    """Run Python code as the server's user, with no more rights than that; return what it prints."""
    wrapper = ordinary_user.wrapper() if server.data.stat().st_uid == ordinary_user.UID else ()
    command = [*wrapper, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_inotify_that_a_run_has_taken_leaves_enough_for_others(server: RunningServer) -> None:
    execution_id = begin(server, "keep", "inotify")
    assert server.get(execution_id)["progress"]["got"] <= 16
    assert as_user_of(server, TAKE_INOTIFY) == str([True] * 3)
    end(server, execution_id)


def test_pipes_that_runs_have_taken_leave_enough_for_others(server: RunningServer) -> None:
    hogs = [begin(server, "keep", "hog_pipes") for _ in range(4)]
    taken = [server.get(execution_id)["progress"]["got"] for execution_id in hogs]
    assert sum(taken) > 32 << 20
    # More than the smallest pipe holds, both ways.
    text = "x" * 300_000
    assert server.run("ok", text=text)["final_result"] == {"echo": {"text": text}}
    assert attack(server, "flood", 1, 2) is None
    for execution_id in hogs:
        end(server, execution_id)
    assert_nothing_is_left(server)


# -- files that are shared --------------------------------------------------------------------------------------------


def test_agent_that_has_others_wait_for_its_files_is_refused(server: RunningServer) -> None:
    """With a lease an agent of the server's own user would hold up the loop, which reads agents' folders."""
    folder = server.agents / "hostile"
    execution_id = begin(server, "keep", "lease", "/agent/words.py", "/agent/agent.toml", "/usr/bin/env", "/work")
    assert set(server.get(execution_id)["progress"]["got"]) == {"EPERM"}
    for name in ("words.py", "agent.toml"):
        # What is leased cannot be opened without waiting.
        os.close(os.open(folder / name, os.O_RDWR | os.O_NONBLOCK))
    end(server, execution_id)


def test_lock_on_a_shared_file_is_seen_by_other_runs_as_the_document_says(server: RunningServer) -> None:
    assert attack(server, "lock", "/usr/bin/env") == "done"
    holder = begin(server, "keep", "lock", "/usr/bin/env")
    assert attack(server, "lock", "/usr/bin/env") == "EAGAIN"
    end(server, holder)
    assert attack(server, "lock", "/usr/bin/env") == "done"


def fingerprint(folder: Path) -> dict[str, tuple[object, bytes]]:
    """Return what there is to know of the files in a folder, but for when they were read."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        kept = tuple(status[:7]), status.st_nlink, status.st_mtime_ns, status.st_ctime_ns
        found[str(path)] = (kept, path.read_bytes() if path.is_file() else b"")
    return found


def test_agent_cannot_change_what_its_next_run_is(server: RunningServer) -> None:
    folder = server.agents / "hostile"
    before = fingerprint(folder)
    assert "done" not in attack(server, "tamper", "/agent")
    assert fingerprint(folder) == before


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = {
    "up": "../outside",
    "up from an agent": "ok/../../outside",
    "NUL": "ok\x00../outside",
    "from right to left": "\u202eko",
    "hidden letters": "o\u200bk",
    "10 kB": "../" * 3400 + "outside",
    "encoded": "..%2foutside",
}


def test_name_that_leads_out_of_the_agents_is_that_of_none(server: RunningServer) -> None:
    outside = write_agent(server.agents.parent, "outside", 'entrypoint = "agent:run"', {"agent.py": "def run(i): ..."})
    for name in (*NAMES.values(), str(outside), f"/..{outside}"):
        answer = server.http.post("/executions/run", json={"agent_id": name, "input": {}})
        check(answer, 422, "agent_id")
        assert len(answer.content) < 2000
    shutil.rmtree(outside)
