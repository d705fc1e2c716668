"""What the sandbox's look at itself finds where there is no sandbox, or only half of one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.sandbox import attest, namespaces
from tests.helpers.command import ROOT

# What the service manager of the tests has done already.
FILTERS = attest.count_filters()
GIVEN_UP = "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()

ELSEWHERE = dict.fromkeys(namespaces.FLAGS, "elsewhere:[1]")


def test_attest_in_a_plain_process_finds_no_sandbox() -> None:
    with pytest.raises(attest.NotIsolated, match="user namespace"):
        attest.attest(namespaces.identities(), FILTERS, (), ())


@pytest.mark.parametrize("name", namespaces.FLAGS)
def test_attest_names_the_one_namespace_that_is_the_hosts(name: str) -> None:
    host = ELSEWHERE | {name: namespaces.identities()[name]}
    with pytest.raises(attest.NotIsolated, match=f"the {name} namespace"):
        attest.attest(host, FILTERS, (), ())


def test_attest_demands_the_hosts_network_where_that_is_wanted() -> None:
    with pytest.raises(attest.NotIsolated, match="the net namespace is not that of the host"):
        attest.attest(ELSEWHERE, FILTERS, namespaces.shared("host"), ())
    with pytest.raises(attest.NotIsolated, match=r"no_capabilities|no_new_privs|seccomp"):
        attest.attest(ELSEWHERE | {"net": namespaces.identities()["net"]}, FILTERS, namespaces.shared("host"), ())


def test_attest_with_namespaces_alone_is_not_content() -> None:
    with pytest.raises(attest.NotIsolated, match=r"no_capabilities|no_new_privs|seccomp"):
        attest.attest(ELSEWHERE, FILTERS, (), ())


# Each is run in a process of its own, in which the first of these steps are taken; the next is then what is missed.
STEPS = {
    "no_capabilities": "kernel.forbid_new_capabilities(); kernel.keep_capabilities()",
    "no_new_privs": "prctl.forbid_new_privileges()",
    "seccomp": "seccomp.load(seccomp.build(network=False))",
}

SCRIPT = """
from runner.sandbox import attest, kernel, namespaces, prctl, seccomp
before = attest.count_filters() + {more}
{steps}
try:
    attest.attest(dict.fromkeys(namespaces.FLAGS, ""), before, (), ())
except attest.NotIsolated as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to drop")
@pytest.mark.parametrize(
    ("taken", "more", "missing"),
    [
        (0, 0, "no_capabilities: "),
        pytest.param(1, 0, "no_new_privs: ", marks=pytest.mark.skipif(GIVEN_UP, reason="the tests have given them up")),
        (2, 0, "seccomp: "),
        (3, 1, "seccomp: Seccomp_filters is "),
        (3, 0, "the mount "),
    ],
)
def test_attest_names_the_first_step_that_was_left_out(taken: int, more: int, missing: str) -> None:
    script = SCRIPT.format(steps="\n".join(list(STEPS.values())[:taken]), more=more)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(missing)


MOUNT = "22 27 0:21 / {place} {attributes} - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("mounts", "words"),
    [
        ({"/": "ro,nosuid,nodev"}, None),
        ({"/": "ro,nosuid,nodev", "/work": "rw,nosuid,nodev", "/dev/null": "rw,nosuid,noexec"}, None),
        ({"/": "rw,nosuid,nodev"}, "the mount / can be written"),
        ({"/": "ro,nosuid,nodev", "/usr": "rw,nosuid,nodev"}, "the mount /usr can be written"),
        ({"/": "ro,nosuid,nodev", "/work/x": "rw,nosuid,nodev"}, "the mount /work/x can be written"),
        ({"/": "ro,nodev"}, "the mount / is ro,nodev"),
        ({"/": "ro,nosuid,nodev", "/work": "rw,nodev"}, "the mount /work is rw,nodev"),
        ({"/": "ro,nosuid"}, "the mount / is ro,nosuid"),
        ({"/": "ro,nosuid,nodev", "/dev/null": "rw,nosuid"}, "the mount /dev/null is rw,nosuid"),
    ],
)
def test_mounts_must_be_read_only_and_without_privileged_files(
    mounts: Mapping[str, str], words: str | None, tmp_path: Path
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("".join(MOUNT.format(place=place, attributes=text) for place, text in mounts.items()))
    writable = {"/work", "/dev/null"}
    if words is None:
        assert list(attest.mount_layers(writable, str(table))) == ["read_only_root"]
    else:
        with pytest.raises(attest.NotIsolated) as raised:
            list(attest.mount_layers(writable, str(table)))
        assert str(raised.value) == words
