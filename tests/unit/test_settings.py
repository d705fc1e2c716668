"""Settings: flags over environment over file over defaults."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from supervisor.errors import ConfigurationError
from supervisor.limits import DEFAULTS, MAXIMA
from supervisor.settings import Settings, load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without any settings."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("CORRAL_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_settings_nothing_said_are_the_documented_defaults(folder: Path) -> None:
    settings = load({})
    assert (settings.host, settings.port, settings.http_threads) == ("127.0.0.1", 8001, 16)
    assert settings.max_running == 4 * (os.cpu_count() or 1)
    assert (settings.max_body_bytes, settings.shutdown_grace_seconds) == (1 << 20, 2.0)
    assert (settings.max_files, settings.max_files_bytes, settings.files) == (100, 16 << 20, settings.data / "files")
    assert settings.data == folder / "corral-data"
    assert (settings.agents / "weather" / "agent.toml").is_file()
    assert (settings.database, settings.logs) == (folder / "corral-data" / "corral.db", folder / "corral-data" / "logs")


def test_settings_flag_beats_environment_beats_file_beats_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load({}).port == 8001
    (folder / "corral.toml").write_text("port = 1")
    assert load({}).port == 1
    monkeypatch.setenv("CORRAL_PORT", "2")
    assert load({}).port == 2
    assert load({"port": 3}).port == 3
    assert load({"port": None}).port == 2


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HOST", "::1", "::1"),
        ("PORT", "0", 0),
        ("DATA", "/somewhere", Path("/somewhere")),
        ("AGENTS", "/else", Path("/else")),
        ("MAX_RUNNING", "7", 7),
        ("HTTP_THREADS", "8", 8),
        ("MAX_BODY_BYTES", "9", 9),
        ("MAX_FILES", "0", 0),
        ("MAX_FILES_BYTES", "1", 1),
        ("SHUTDOWN_GRACE_SECONDS", "0.5", 0.5),
    ],
)
def test_settings_each_can_be_set_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"CORRAL_{name}", text)
    assert getattr(load({}), name.lower()) == value


def test_settings_limits_that_are_not_said_are_built_in(folder: Path) -> None:
    settings = load({})
    assert (settings.default_limits, settings.max_limits) == (DEFAULTS, MAXIMA)
    (folder / "corral.toml").write_text("[default_limits]\nprocesses = 5\n[max_limits]\nlog_bytes = 2097152")
    settings = load({})
    assert settings.default_limits == DEFAULTS.model_copy(update={"processes": 5})
    assert settings.max_limits == MAXIMA.model_copy(update={"log_bytes": 2 << 20})
    assert (settings.policy.default_limits, settings.policy.max_limits) == (
        settings.default_limits,
        settings.max_limits,
    )


def test_settings_limit_may_be_raised_above_its_built_in_maximum(folder: Path) -> None:
    text = "max_limits.timeout_seconds = 604800\ndefault_limits.timeout_seconds = 604800"
    (folder / "corral.toml").write_text(text)
    settings = load({})
    assert settings.default_limits.timeout_seconds == settings.max_limits.timeout_seconds == 604800


def test_settings_built_in_default_is_lowered_to_the_maximum(folder: Path) -> None:
    (folder / "corral.toml").write_text("max_limits.timeout_seconds = 60\ndefault_limits.processes = 7")
    assert load({}).default_limits == DEFAULTS.model_copy(update={"timeout_seconds": 60, "processes": 7})


def test_settings_limits_in_the_environment_go_over_those_of_the_file_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "corral.toml").write_text("[max_limits]\nprocesses = 500\nopen_files = 2000")
    monkeypatch.setenv("CORRAL_MAX_LIMITS", '{"processes": 400}')
    maxima = load({}).max_limits
    assert (maxima.processes, maxima.open_files, maxima.log_bytes) == (400, 2000, MAXIMA.log_bytes)


def test_settings_relative_folders_are_those_of_the_working_directory(folder: Path) -> None:
    settings = load({"data": Path("d"), "agents": Path("a/b")})
    assert (settings.data, settings.agents) == (folder / "d", folder / "a" / "b")


def test_settings_named_file_is_read_in_place_of_the_default_one(folder: Path) -> None:
    (folder / "corral.toml").write_text("port = 1\nhttp_threads = 3")
    (folder / "other.toml").write_text("port = 2")
    settings = load({}, folder / "other.toml")
    assert (settings.port, settings.http_threads) == (2, 16)


WRONG = {
    "unknown key": ("prot = 8001", r"prot: "),
    "unknown table": ("[server]\nport = 1", r"server: "),
    "derived": ('database = "x"', r"database: "),
    "port above": ("port = 65536", r"port: "),
    "port below": ("port = -1", r"port: "),
    "port is a word": ('port = "http"', r"port: "),
    "host is a number": ("host = 1", r"host: "),
    "none may run": ("max_running = 0", r"max_running: "),
    "too many may run": ("max_running = 10001", r"max_running: "),
    "no threads": ("http_threads = 0", r"http_threads: "),
    "no body": ("max_body_bytes = 0", r"max_body_bytes: "),
    "grace below zero": ("shutdown_grace_seconds = -1", r"shutdown_grace_seconds: "),
    "grace is no number": ("shutdown_grace_seconds = nan", r"shutdown_grace_seconds: "),
    "several": ("port = -1\nprot = 1\nmax_running = 0", r"port: .*; max_running: .*; prot: "),
    "unknown limit": ("default_limits.memory = 1", r"default_limits\.memory: "),
    "unknown maximum": ("max_limits.memory = 1", r"max_limits\.memory: "),
    "default is a text": ('default_limits.processes = "many"', r"default_limits\.processes: "),
    "default below the least": ("default_limits.open_files = 15", r"default_limits\.open_files: .* 16"),
    "maximum below the least": ("max_limits.open_files = 15", r"max_limits\.open_files: .* 16"),
    "maximum above what there can be": (
        "max_limits.result_bytes = 8388609",
        "max_limits: result_bytes: 8388609 is above 8388608, the highest maximum there can be$",
    ),
    "no end of time": ("max_limits.timeout_seconds = inf", r"max_limits\.timeout_seconds: "),
    "limits are a number": ("max_limits = 1", "max_limits: "),
    "default above the maximum": (
        "default_limits.timeout_seconds = 61\nmax_limits.timeout_seconds = 60",
        r"default_limits: timeout_seconds: 61 is above 60, the maximum \(max_limits\)$",
    ),
    "defaults above built-in maxima": (
        "default_limits.timeout_seconds = 86401\ndefault_limits.processes = 4097",
        r"default_limits: processes: 4097 is above 4096, .*; timeout_seconds: 86401 is above 86400, ",
    ),
    "no TOML": ("port = ", r"Invalid value"),
    "same key twice": ("port = 1\nport = 2", r"overwrite"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_settings_file_with_a_mistake_is_refused_and_every_wrong_setting_named(
    folder: Path, text: str, words: str
) -> None:
    (folder / "corral.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=f"^cannot read settings: .*{words}"):
        load({})


def test_settings_file_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "corral.toml").write_bytes(b'host = "\xff"')
    with pytest.raises(ConfigurationError, match=r"^cannot read settings: "):
        load({})


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("PORT", ""), ("MAX_RUNNING", "1.5")])
def test_settings_bad_value_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CORRAL_{name}", value)
    with pytest.raises(ConfigurationError, match=f"^cannot read settings: {name.lower()}: "):
        load({})


def test_settings_bad_flag_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot read settings: max_running: "):
        load({"max_running": 0})


def test_settings_named_file_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^cannot read settings: there is no file '.*nowhere.toml'$"):
        load({}, folder / "nowhere.toml")


def test_settings_survive_the_way_to_the_api_process() -> None:
    limits = {"max_limits": {"timeout_seconds": 60}, "default_limits": {"processes": 3}}
    settings = load({"port": 0, "data": Path("é x"), **limits})
    assert settings.default_limits.timeout_seconds == 60
    assert Settings.model_validate_json(settings.model_dump_json()).model_dump() == settings.model_dump()


def test_settings_cannot_be_changed() -> None:
    settings = load({})
    with pytest.raises(ValidationError):
        settings.port = 1
