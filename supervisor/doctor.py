"""What this machine gives for isolation, and what to change where something is missing."""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from supervisor.isolation import Canary
from supervisor.machine.canary import send_canary

_SYSCTL = Path("/proc/sys")


@dataclass(frozen=True)
class Check:
    """One thing looked at. found: what is there. advice: what to do, None if nothing is wrong."""

    name: str
    found: str
    advice: str | None = None


@dataclass(frozen=True)
class Report:
    """canary: what came of a real sandboxed run, which alone decides. checks: what may explain it."""

    canary: Canary
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        return self.canary.healthy


def examine() -> Report:
    """Look at this machine, as the user we are."""
    return Report(send_canary(), tuple(check() for check in _CHECKS))


def _user() -> Check:
    return Check("user", "root" if os.geteuid() == 0 else f"uid {os.geteuid()}")


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
    found = _read("user/max_user_namespaces")
    advice = "sysctl -w user.max_user_namespaces=15000" if found == "0" else None
    return Check("user.max_user_namespaces", found, advice)


def _unprivileged_namespaces() -> Check:
    found = _read("kernel/unprivileged_userns_clone")
    advice = "sysctl -w kernel.unprivileged_userns_clone=1" if found == "0" and os.geteuid() else None
    return Check("kernel.unprivileged_userns_clone", found, advice)


def _apparmor() -> Check:
    found = _read("kernel/apparmor_restrict_unprivileged_userns")
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
    return Check("/proc", f"masked at {', '.join(masks)}", "in a container, start it with an unmasked /proc")


def _read(name: str) -> str:
    try:
        return (_SYSCTL / name).read_text().strip()
    except OSError:
        return "not there"


_CHECKS: tuple[Callable[[], Check], ...] = (
    _user,
    _kernel,
    _architecture,
    _max_user_namespaces,
    _unprivileged_namespaces,
    _apparmor,
    _masked_proc,
)
