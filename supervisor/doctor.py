"""What this machine gives for isolation, and what to change where something is missing."""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.sandbox import cgroup, landlock
from runner.sandbox.namespaces import OUTSIDE_IDS
from supervisor.isolation import Canary
from supervisor.machine.canary import send_canary

_PROC = Path("/proc")
_SYSCTL = Path("/proc/sys")
_NOT_THERE = "not there"

# Who makes containers leaves one of these.
_CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/run/systemd/container"))


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    found: what is there. advice: what to do, None if nothing is wrong. needed: without it there can be no sandbox;
    otherwise there can, with something less.
    """

    name: str
    found: str
    advice: str | None = None
    needed: bool = True


@dataclass(frozen=True)
class Report:
    """canary: what came of a real sandboxed run, which alone decides. checks: what may explain it."""

    canary: Canary
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return self.canary.healthy

    def grade(self, check: Check) -> str:
        """Return how bad something is, in a word. Where a sandbox could be made, nothing is that bad."""
        if check.advice is None:
            return "ok"
        return "note" if self.healthy or not check.needed else "BAD"


def examine() -> Report:
    """Look at this machine, as the user we are."""
    return Report(send_canary(), tuple(check() for check in _CHECKS))


def _user() -> Check:
    return Check("user", "root" if os.geteuid() == 0 else f"uid {os.geteuid()}")


def _user_map() -> Check:
    """As root, sandboxes have user ids of their own: root of a user namespace that lacks these cannot give them."""
    table = _read(_PROC / "self/uid_map")
    if table == _NOT_THERE:
        return Check("user namespace", _NOT_THERE, "use a kernel with CONFIG_USER_NS")
    lines = [line.split() for line in table.splitlines()]
    ranges = [range(int(first), int(first) + int(count)) for first, _, count in lines]
    if os.geteuid() or any(OUTSIDE_IDS[0] in ids and OUTSIDE_IDS[-1] in ids for ids in ranges):
        return Check("user namespace", "has the ids that are needed")
    known = ", ".join(f"{ids[0]}-{ids[-1]}" for ids in ranges)
    return Check(
        "user namespace",
        f"root in here is not the machine's root: of the user ids there are only {known}",
        "systemd: PrivateUsers=no; rootless containers, unshare -r: run the server as a user other than root",
    )


def _kernel() -> Check:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    new_enough = found is not None and (int(found[1]), int(found[2])) >= (5, 12)
    return Check("kernel", release, None if new_enough else "use Linux 5.12 or newer")


def _architecture() -> Check:
    name = platform.machine()
    known = name in ("x86_64", "aarch64")
    return Check("architecture", name, None if known else "use x86_64 or aarch64: for others there is no filter")


def _max_user_namespaces() -> Check:
    found = _read(_SYSCTL / "user/max_user_namespaces")
    advice = "sysctl -w user.max_user_namespaces=15000" if found == "0" else None
    return Check("user.max_user_namespaces", found, advice)


def _unprivileged_namespaces() -> Check:
    found = _read(_SYSCTL / "kernel/unprivileged_userns_clone")
    advice = "sysctl -w kernel.unprivileged_userns_clone=1" if found == "0" and os.geteuid() else None
    return Check("kernel.unprivileged_userns_clone", found, advice)


def _apparmor() -> Check:
    found = _read(_SYSCTL / "kernel/apparmor_restrict_unprivileged_userns")
    advice = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns"
    return Check(
        "kernel.apparmor_restrict_unprivileged_userns", found, advice if found == "1" and os.geteuid() else None
    )


def _masked_proc() -> Check:
    """A /proc with other mounts on it, as containers have, cannot be mounted anew in a user namespace."""
    places = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    # This one is an automatic mount, and hides nothing. Source: mount_namespaces(7).
    masks = [place for place in places if place.startswith("/proc/") and place != "/proc/sys/fs/binfmt_misc"]
    if not masks:
        return Check("/proc", "whole")
    advice = (
        "systemd: ProtectKernelLogs=no and ProtectKernelTunables=no, which cover parts of it;"
        " in a container, start it with an unmasked /proc"
    )
    return Check("/proc", f"masked at {', '.join(masks)}", advice)


def _seccomp() -> Check:
    """A filter that somebody else has put on us may refuse what sandboxes are made with. Source: proc(5), Seccomp."""
    if "\nSeccomp:\t2\n" not in _read(_PROC / "self/status"):
        return Check("seccomp", "no filter is on this process")
    return Check(
        "seccomp",
        "a filter is on this process, and with it on every sandbox",
        "systemd: RestrictNamespaces=no, and a SystemCallFilter= that allows @mount, @privileged and @setuid, or none;"
        " Docker: --security-opt seccomp=PROFILE that allows clone with namespaces, mount and pivot_root",
    )


def _ceilings() -> Check:
    """Sandboxes lower the ceilings of their own user namespaces here."""
    try:
        read_only = os.statvfs(_SYSCTL / "user").f_flag & os.ST_RDONLY
    except OSError:
        return Check("/proc/sys/user", _NOT_THERE, "use a kernel with CONFIG_USER_NS", needed=False)
    if not read_only:
        return Check("/proc/sys/user", "can be written")
    advice = "systemd: ProtectKernelTunables=no; without, runs lack the layer ceilings"
    return Check("/proc/sys/user", "read-only", advice, needed=False)


def _control_groups() -> Check:
    version, objection = cgroup.explain(lambda: {os.getpid()})
    if version:
        return Check("control groups", f"version {version}")
    return Check(
        "control groups",
        f"none for us: {objection}",
        "as a service of systemd: Delegate=yes; by hand: systemd-run --user --scope -p Delegate=yes ./scripts/serve;"
        " without, limits of memory and processes are soft",
        needed=False,
    )


def _landlock() -> Check:
    version = landlock.abi()
    return Check("landlock", f"version {version}" if version else _NOT_THERE)


def _container() -> Check:
    marks = [str(mark) for mark in _CONTAINER_MARKS if mark.exists()]
    if not marks and "container" not in os.environ:
        return Check("container", "none that can be seen")
    return Check(
        "container",
        f"yes: {', '.join(marks) or 'the variable container is set'}",
        "Docker: --security-opt seccomp=PROFILE, systempaths=unconfined and apparmor=unconfined, as far as the lines"
        " above ask for it",
        needed=False,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return _NOT_THERE


_CHECKS: tuple[Callable[[], Check], ...] = (
    _user,
    _user_map,
    _kernel,
    _architecture,
    _max_user_namespaces,
    _unprivileged_namespaces,
    _apparmor,
    _masked_proc,
    _seccomp,
    _ceilings,
    _control_groups,
    _landlock,
    _container,
)
