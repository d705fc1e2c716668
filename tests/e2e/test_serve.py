"""`corral serve` from its start to its end: settings, the ready line, refusals, SIGTERM."""

import fcntl
import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from supervisor import listening
from supervisor.errors import ConfigurationError
from supervisor.settings import load
from tests.helpers.command import corral, ready_line, started, url_in
from tests.helpers.processes import descendants, lives, wait_for_exit
from tests.helpers.server import AGENTS, RunningServer
from tests.helpers.wait import wait_until

MANIFEST = 'command = ["true"]'

Way = Callable[[Path, dict[str, str]], tuple[list[str], dict[str, str]]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


# -- settings ----------------------------------------------------------------------------------------------------------


def as_flags(_folder: Path, settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)], {}


def as_environment(_folder: Path, settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    return [], {f"CORRAL_{name.upper()}": value for name, value in settings.items()}


def as_file(folder: Path, settings: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    lines = [f"{name} = {value if value.isdigit() else repr(value)}" for name, value in settings.items()]
    (folder / "my.toml").write_text("\n".join(lines))
    return ["--config", "my.toml"], {}


@pytest.mark.parametrize("way", [as_flags, as_environment, as_file])
def test_every_setting_given_one_way_is_used(way: Way, tmp_path: Path) -> None:
    settings = {"host": "127.0.0.2", "port": "0", "data": "relative/data", "agents": str(AGENTS), "max_running": "1"}
    arguments, extra = way(tmp_path, settings)
    extra["CORRAL_TRUSTED_AGENTS"] = '["sleeper"]'
    with started("serve", *arguments, cwd=tmp_path, **extra) as process:
        url = url_in(ready_line(process))
        assert re.fullmatch(r"http://127\.0\.0\.2:\d+", url)
        assert (tmp_path / "relative" / "data" / "corral.db").exists()
        with httpx.Client(base_url=url) as client:
            first, second = (submit(client, "sleeper") for _ in range(2))
            wait_until(lambda: client.get(f"/executions/{first}").json()["progress"])
            assert client.get(f"/executions/{second}").json()["status"] == "PENDING"


def submit(client: httpx.Client, agent: str) -> str:
    answer = client.post("/executions/run", json={"agent_id": agent})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


@pytest.mark.parametrize(
    ("flag", "variable", "file", "expected"),
    [(1, 2, 3, 1), (None, 2, 3, 2), (None, None, 3, 3), (1, None, 3, 1), (1, 2, None, 1), (None, None, None, 8001)],
)
def test_flag_beats_environment_beats_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: int | None,
    variable: int | None,
    file: int | None,
    expected: int,
) -> None:
    (tmp_path / "corral.toml").write_text(f"port = {file}" if file else "")
    monkeypatch.chdir(tmp_path)
    if variable:
        monkeypatch.setenv("CORRAL_PORT", str(variable))
    assert load({"port": flag}).port == expected


def test_settings_file_named_in_the_environment_is_used_in_place_of_the_default_one(tmp_path: Path) -> None:
    for name in ("corral", "other"):
        (tmp_path / name / f"agent-of-{name}").mkdir(parents=True)
        (tmp_path / name / f"agent-of-{name}" / "agent.toml").write_text(MANIFEST)
        (tmp_path / f"{name}.toml").write_text(f'agents = "{name}"')
    assert corral("agents", cwd=tmp_path).stdout.startswith("agent-of-corral ")
    assert corral("agents", cwd=tmp_path, CORRAL_CONFIG="other.toml").stdout.startswith("agent-of-other ")


# -- the ready line ----------------------------------------------------------------------------------------------------


def curl_in(line: str) -> str:
    return line.partition("Try: ")[2].strip()


def test_ready_line_with_the_default_agents_has_a_curl_that_runs_one(data: Path) -> None:
    with started("serve", "--port", "0", "--data", data) as process:
        line = ready_line(process)
        answer = subprocess.run(
            ["sh", "-c", f"curl -sS --noproxy '*' {curl_in(line).removeprefix('curl ')}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert '"status": "QUEUED"' in answer.stdout, answer
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.read() == ""  # exactly one line


@pytest.mark.parametrize(
    ("manifest", "expected"), [(MANIFEST, '"status": "QUEUED"'), ("", '"status": "ok"')], ids=["agent", "no agent"]
)
def test_ready_line_with_other_agents_has_a_curl_that_works_too(
    data: Path, tmp_path: Path, manifest: str, expected: str
) -> None:
    (tmp_path / "agents" / "only").mkdir(parents=True)
    (tmp_path / "agents" / "only" / "agent.toml").write_text(manifest)
    with started("serve", "--port", "0", "--data", data, "--agents", tmp_path / "agents") as process:
        command = curl_in(ready_line(process))
        answer = subprocess.run(
            ["sh", "-c", f"{command} -sS --noproxy '*'"], capture_output=True, text=True, check=True
        )
        assert expected in answer.stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_loopback_host_gives_a_url_that_leads_to_it(host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with listening.listen(host, 0) as listener:
        place = httpx.URL(listening.url(listener))
        with socket.create_connection((place.host, place.port)):
            assert listener.accept()[0].close() is None


# -- refusals ----------------------------------------------------------------------------------------------------------


def assert_refused(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr, nothing on stdout, exit code 1."""
    assert answer.returncode == 1, answer
    assert answer.stdout == ""
    assert re.fullmatch(r"corral: cannot .*\n", answer.stderr), answer.stderr
    for word in words:
        assert word in answer.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_host_beyond_loopback_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        listening.listen(host, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("max_running", "0"),
        ("data", os.fsdecode(b"not-\xff-text")),
        ("agents", os.fsdecode(b"not-\xff-text")),
    ],
)
def test_value_that_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^cannot read settings: {name}: "):
        load({name: value})


@pytest.mark.parametrize(
    ("text", "word"), [("prot = 1", "prot"), ("port =", "Invalid"), ("port = 'x'", "port"), ("[port]\na = 1", "port")]
)
def test_settings_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=word):
        load({}, tmp_path / "my.toml")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0"),
        (["--agents", "file"], "file"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--data", "file/below"], "file/below"),
        (["--data", "locked"], "lock"),
        (["--data", "no-file"], "database"),
    ],
    ids=" ".join,
)
def test_start_that_cannot_be_is_one_line_and_exit_code_1(tmp_path: Path, arguments: list[str], word: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked" / "lock").mkdir(parents=True)
    (tmp_path / "no-file" / "corral.db").mkdir(parents=True)
    assert_refused(corral("serve", "--port", "0", *arguments, cwd=tmp_path), word)


def test_port_in_use_is_refused(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert_refused(corral("serve", "--port", port, "--data", data), port, "in use")


def test_data_folder_with_a_file_that_is_no_database_is_refused_and_left_as_it_is(data: Path) -> None:
    data.mkdir()
    (data / "corral.db").write_text("my only copy" * 100)
    assert_refused(corral("serve", "--port", "0", "--data", data), "not a database")
    assert (data / "corral.db").read_text() == "my only copy" * 100
    assert not list(data.glob("*.sock"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_folder_that_is_not_ours_to_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert_refused(corral("serve", "--port", "0", "--data", tmp_path / "locked" / "data"), "Permission denied")
    assert_refused(corral("serve", "--port", "0", "--data", tmp_path / "locked"), "Permission denied")


def test_second_server_on_a_data_folder_is_refused_with_the_pid_and_the_first_is_unharmed(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(data)
    with RunningServer(data) as server:
        running = server.submit("sleeper")
        server.wait_for(running, "RUNNING")
        for folder in (data, tmp_path / "alias"):
            assert_refused(corral("serve", "--port", "0", "--data", folder), f"pid {server.process.pid} ")
        assert server.get(running)["status"] == "RUNNING"
        assert server.run("ok", still="here")["final_result"] == {"echo": {"still": "here"}}


# -- the data folder ---------------------------------------------------------------------------------------------------


def test_data_folder_with_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    data = tmp_path.joinpath(*["a-long-name-" * 10] * 2, "ein Ordner für Daten")
    data.parent.mkdir(parents=True)
    with RunningServer(data) as server:
        assert server.run("ok")["status"] == "COMPLETED"


def test_everything_in_the_data_folder_is_private_even_if_the_folder_is_not(data: Path) -> None:
    data.mkdir(mode=0o755)
    with RunningServer(data) as server:
        server.run("ok")
        server.wait_for(server.submit("sleeper"), "RUNNING")
        made = [path for path in data.rglob("*") if "root" not in path.parts[len(data.parts) :]]
        assert (data / "corral-skeleton" / "root").is_dir(), "the folder around it is what keeps it private"
        assert {"corral.db", "corral.db-wal", "launcher.sock", "nudge.sock"} <= {path.name for path in made}
        assert [path for path in made if path.lstat().st_mode & 0o077] == []


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_stops_and_records_all_runs_and_leaves_nothing(data: Path, number: signal.Signals) -> None:
    with RunningServer(data, "--max-running", "2") as server:
        running = [server.submit("hideout"), server.submit("sleeper")]
        for execution in running:
            wait_until(lambda execution=execution: server.get(execution)["progress"])
        waiting = server.submit("ok", come="again")
        everybody = descendants(server.process.pid)
        server.process.send_signal(number)
        wait_for_exit(server.process.pid, 6.0)
        assert not [pid for pid in everybody if lives(pid)]
        assert server.stop() == 0
        assert not list(data.glob("*.sock"))
        assert os.listdir(data / "work") == []
    with RunningServer(data) as server:
        for execution in map(server.get, running):
            assert execution["status"] == "FAILED"
            assert execution["termination"]["code"] == "STOPPED"
            assert execution["kill"]["survivors"] == 0
            assert execution["error_log"]
        assert server.get(running[0])["kill"]["method"] == "kill"
        assert server.get(running[0])["kill"]["killed"] == 2
        assert server.get(running[1])["kill"]["method"] == "terminate"
        assert server.wait_for_end(waiting)["final_result"] == {"echo": {"come": "again"}}


def test_second_stop_signal_cuts_the_grace_period(data: Path, tmp_path: Path) -> None:
    (tmp_path / "patient.toml").write_text("shutdown_grace_seconds = 60")
    with RunningServer(data, "--config", str(tmp_path / "patient.toml")) as server:
        execution = server.submit("hideout")
        daemon = wait_until(lambda: server.get(execution)["progress"])["daemon"]
        api = server.api_pid
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(api)  # the first signal was taken in
        assert lives(server.process.pid)
        assert lives(daemon)
        server.process.send_signal(signal.SIGTERM)
        wait_for_exit(server.process.pid, 6.0)
        assert not lives(daemon)
        assert server.stop() == 0


def test_stop_signal_while_the_server_waits_for_its_predecessor_ends_it(data: Path) -> None:
    data.mkdir()
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    (data / "lock").write_text(ended)
    with (data / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with started("serve", "--port", "0", "--data", data, "--agents", AGENTS) as process:
            wait_until(lambda: has_open(process.pid, data / "lock"))
            process.send_signal(signal.SIGINT)
            wait_for_exit(process.pid, 3.0)
            assert process.wait() == 0
            assert process.communicate() == ("", "")


def test_stop_signal_before_the_server_is_ready_ends_it_and_leaves_nothing(data: Path) -> None:
    with started("serve", "--port", "0", "--data", data, "--agents", AGENTS) as process:
        wait_until((data / "launcher.sock").exists)
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        wait_for_exit(process.pid, 5.0)
        assert process.wait() == 0
        assert process.communicate()[1] == ""
    assert not [pid for pid in below if lives(pid)]
    assert not list(data.glob("*.sock"))


def has_open(pid: int, path: Path) -> bool:
    try:
        return str(path) in {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False


def post_alone(url: str) -> httpx.Response:
    with httpx.Client(base_url=url, timeout=30) as client:
        return client.post("/executions/run", json={"agent_id": "ok"})


def unread_bytes(url: str) -> list[int]:
    """Return for each connection to a server how much of what was sent it has not read. Source: proc(5), net/tcp."""
    port = f":{int(url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(port) and row[3] == "01"]


def test_clients_that_wait_for_an_answer_get_it_when_the_server_stops(data: Path) -> None:
    clients = 24  # more than there are threads
    with RunningServer(data) as server, ThreadPoolExecutor(clients) as pool:
        with (data / "corral.turns").open() as turns:
            fcntl.flock(turns, fcntl.LOCK_EX)
            answers = [pool.submit(post_alone, server.url) for _ in range(clients)]
            wait_until(lambda: unread_bytes(server.url) == [0] * clients)
            launcher = server.launcher_pid
            server.process.send_signal(signal.SIGTERM)
            wait_for_exit(launcher)  # the API was told to stop before the launcher
            fcntl.flock(turns, fcntl.LOCK_UN)
        assert [answer.result(20).status_code for answer in answers] == [202] * clients
        ids = [answer.result().json()["execution_id"] for answer in answers]
        assert server.stop() == 0
    with sqlite3.connect(data / "corral.db") as database:
        recorded = {row[0] for row in database.execute("SELECT id FROM executions")}
    assert recorded >= set(ids)
