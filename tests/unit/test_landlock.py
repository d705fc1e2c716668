"""The rules of Landlock for each version of it, and what they do on this kernel."""

import json
import os
import struct
import subprocess
import sys
from typing import Any

import pytest

from runner import strict
from runner.sandbox import landlock
from supervisor.settings import Settings
from tests.helpers.command import ROOT

# Source: samples/landlock/sandboxer.c of the kernel: for each ABI what it can forbid, of files, of TCP, of scopes.
FORBIDDEN = {
    1: (0x1FFF,),
    2: (0x3FFF,),
    3: (0x7FFF,),
    4: (0x7FFF, 0x3),
    5: (0xFFFF, 0x3),
    6: (0xFFFF, 0x3, 0x3),
    7: (0xFFFF, 0x3, 0x3),
    8: (0xFFFF, 0x3, 0x3),
}


@pytest.mark.parametrize("version", FORBIDDEN)
def test_ruleset_forbids_all_that_a_version_can_forbid(version: int) -> None:
    ruleset = landlock.ruleset(version)
    assert struct.unpack(f"={len(FORBIDDEN[version])}Q", ruleset) == FORBIDDEN[version]


@pytest.mark.parametrize(
    ("names", "version", "bits"),
    [
        (["read_file"], 1, 0x4),
        (["execute", "read_file", "read_dir"], 7, 0xD),
        (["refer"], 1, 0),
        (["refer"], 2, 0x2000),
        (["read_file", "write_file", "ioctl_dev"], 4, 0x6),
        (["read_file", "write_file", "ioctl_dev"], 5, 0x8006),
        ([], 7, 0),
    ],
)
def test_mask_has_the_bits_that_a_version_knows(names: list[str], version: int, bits: int) -> None:
    assert landlock.mask(names, landlock.FILES, version) == bits


@pytest.mark.parametrize("version", FORBIDDEN)
def test_devices_are_made_nowhere_and_private_places_have_all_else(version: int) -> None:
    rights = landlock.mask(landlock._WRITE, landlock.FILES, version)
    made = landlock.mask(["make_char", "make_block"], landlock.FILES, version)
    assert rights | made == FORBIDDEN[version][0]
    assert not rights & made


def test_needs_of_the_tier_are_what_the_setting_names() -> None:
    (choices,) = Settings.model_fields["allow_degraded"].annotation.__args__  # type: ignore[union-attr]
    assert set(choices.__args__) == {"sandbox", *(f"strict.{need}" for need in strict.NEEDS)}


# -- on this kernel ---------------------------------------------------------------------------------------------------

# Each is run in a process of its own, which may do as root what a sandbox may do with its first process.
SCRIPT = """
import json, os, socket, sys
from runner.sandbox import landlock, prctl

def attempt(action):
    try:
        action()
    except OSError as error:
        return error.errno
    return 0

def look():
    return {name: attempt(action) for name, action in {
        "read": lambda: open("/etc/passwd").close(),
        "list by a descriptor from before": lambda: os.listdir(outside),
        "write": lambda: open(f"{private}/a/file", "w").close(),
        "write elsewhere": lambda: open(f"{other}/file", "w").close(),
        "move": lambda: os.rename(f"{private}/a/file", f"{private}/b/file"),
        "truncate elsewhere": lambda: os.truncate(f"{other}/there", 0),
        "make a device": lambda: os.mknod(f"{private}/device", 0o20600, 0),
        "bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
        "signal": lambda: os.kill(1, 0),
        "write to a device": lambda: open("/dev/null", "w").write("x"),
    }.items()}

private, other = sys.argv[2:]
version = int(sys.argv[1])
outside = os.open(other, os.O_RDONLY)
prctl.forbid_new_privileges()
landlock.abi = lambda: version
if version < 0:
    landlock.abi = lambda: 7
    landlock._restrict = lambda *_: None
try:
    layers = landlock.confine([private], ["/dev/null"])
except landlock.NotIsolated as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"layers": layers, "found": look()}))
"""


def confine(version: int, tmp_path: Any) -> dict[str, Any]:
    if os.geteuid() != 0:
        pytest.skip("only root may signal process 1 outside of a sandbox")
    if landlock.abi() < version:
        pytest.skip("this kernel does not have that version of Landlock")
    private, other = tmp_path / "private", tmp_path / "other"
    for folder in (private / "a", private / "b", other):
        folder.mkdir(parents=True)
    (other / "there").write_text("text")
    command = [sys.executable, "-c", SCRIPT, str(version), str(private), str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    return dict(json.loads(done.stdout))


LAYERS = {"landlock": 1, "landlock_tcp": 4, "landlock_scopes": 6}

# What is refused, from which version on, with which error. What only an older one refuses: "move".
REFUSED = {
    "write elsewhere": (1, 13),
    "make a device": (1, 13),
    "truncate elsewhere": (3, 13),
    "bind": (4, 13),
    "signal": (6, 1),
}


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5, 6, 7])
def test_process_is_confined_as_far_as_the_version_goes(version: int, tmp_path: Any) -> None:
    answer = confine(version, tmp_path)
    assert answer["layers"] == [name for name, first in LAYERS.items() if first <= version]
    expected = dict.fromkeys(answer["found"], 0)
    expected |= {name: number for name, (first, number) in REFUSED.items() if first <= version}
    if version == 1:
        expected["move"] = 18
    assert answer["found"] == expected


def test_rules_that_do_nothing_are_found_out(tmp_path: Any) -> None:
    assert confine(-1, tmp_path) == {"error": "landlock: _open_to_write is not refused"}
