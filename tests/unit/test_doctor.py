"""What the doctor says of settings of the machine that keep it from having sandboxes."""

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import doctor
from supervisor.doctor import Check, Report
from supervisor.isolation import Canary

ROOT = os.geteuid() == 0


@pytest.mark.parametrize(
    ("check", "file", "text", "bad"),
    [
        (doctor._max_user_namespaces, "user/max_user_namespaces", "0\n", True),
        (doctor._max_user_namespaces, "user/max_user_namespaces", "15000\n", False),
        # For root these say nothing.
        (doctor._unprivileged_namespaces, "kernel/unprivileged_userns_clone", "0\n", not ROOT),
        (doctor._unprivileged_namespaces, "kernel/unprivileged_userns_clone", "1\n", False),
        (doctor._apparmor, "kernel/apparmor_restrict_unprivileged_userns", "1\n", not ROOT),
        (doctor._apparmor, "kernel/apparmor_restrict_unprivileged_userns", "0\n", False),
    ],
)
def test_setting_that_forbids_sandboxes_is_found_with_what_to_do(
    check: Callable[[], Check], file: str, text: str, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    monkeypatch.setattr(doctor, "_SYSCTL", tmp_path)
    found = check()
    assert found.found == text.strip()
    assert found.name.replace(".", "/") == file
    assert (found.advice is not None) is bad


@pytest.mark.parametrize("check", [doctor._max_user_namespaces, doctor._unprivileged_namespaces, doctor._apparmor])
def test_setting_that_a_kernel_does_not_have_is_nothing_wrong(
    check: Callable[[], Check], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_SYSCTL", tmp_path)
    assert (check().found, check().advice) == ("not there", None)


@pytest.mark.parametrize(
    ("release", "good"),
    [
        ("5.12.0", True),
        ("5.11.22-generic", False),
        ("4.19", False),
        ("6.1.0-18-amd64", True),
        ("10.0", True),
        ("5.4-rc12", False),
        ("6", False),
        ("unheard of", False),
    ],
)
def test_kernel_must_be_new_enough(release: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    check = doctor._kernel()
    assert check.found == release
    assert (check.advice is None) is good


@pytest.mark.parametrize(("machine", "good"), [("x86_64", True), ("aarch64", True), ("riscv64", False), ("", False)])
def test_architecture_must_have_a_filter(machine: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert (doctor._architecture().advice is None) is good


@pytest.mark.parametrize(
    ("canary", "healthy"),
    [
        (Canary(("seccomp",)), True),
        (Canary(("seccomp",), "it hung"), False),
        (Canary(error="no namespaces"), False),
        (Canary(error=""), False),
        (Canary(), False),
    ],
)
def test_machine_is_healthy_only_if_the_canary_told_its_layers_and_no_error(canary: Canary, healthy: bool) -> None:
    assert canary.healthy is healthy
    advice = Check("kernel", "1.0", "use a newer one")
    assert Report(canary, (advice,)).healthy is healthy


def test_what_is_amiss_is_bad_only_where_there_is_no_sandbox_and_it_can_be_the_reason() -> None:
    sound, needed, useful = Check("a", "b"), Check("a", "b", "c"), Check("a", "b", "c", needed=False)
    grades = {
        canary.healthy: [Report(canary, ()).grade(check) for check in (sound, needed, useful)]
        for canary in (Canary(("seccomp",)), Canary(error="no"))
    }
    assert grades == {True: ["ok", "note", "note"], False: ["ok", "BAD", "note"]}


@pytest.mark.parametrize(
    ("table", "good"),
    [
        ("         0          0 4294967295\n", True),
        ("0 0 1\n", not ROOT),
        ("0 100000 65536\n", not ROOT),
        ("0 0 65536\n1879100000 1879100000 100000\n", True),
        ("0 0 65536\n1879100000 1879100000 99999\n", not ROOT),
    ],
)
def test_root_must_have_the_ids_of_sandboxes(
    table: str, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "uid_map").write_text(table)
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    check = doctor._user_map()
    assert (check.advice is None) is good
    assert good or "PrivateUsers=no" in (check.advice or "")


@pytest.mark.parametrize(("mode", "good"), [(0, True), (2, False)])
def test_filter_of_somebody_else_is_found(
    mode: int, good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text(f"NoNewPrivs:\t1\nSeccomp:\t{mode}\nSeccomp_filters:\t1\n")
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    check = doctor._seccomp()
    assert (check.advice is None) is good
    assert good or "RestrictNamespaces=no" in (check.advice or "")


def test_container_is_found_by_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("container", raising=False)
    monkeypatch.setattr(doctor, "_CONTAINER_MARKS", (tmp_path / "mark",))
    assert doctor._container().advice is None
    (tmp_path / "mark").touch()
    found = doctor._container()
    assert str(tmp_path / "mark") in found.found
    assert found.advice
    (tmp_path / "mark").unlink()
    monkeypatch.setenv("container", "lxc")
    assert doctor._container().advice


def test_version_of_landlock_is_a_number_or_not_there() -> None:
    assert re.fullmatch(r"version [1-9]\d*|not there", doctor._landlock().found)
