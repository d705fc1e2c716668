"""What the tier "strict" needs of the host beyond what every sandbox needs. A need is named as the layer that it makes.

Whoever lacks one has no strict runs, unless the operator has accepted that by its name.
"""

from __future__ import annotations

import os

from runner.sandbox import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OWN_UID, LANDLOCK, CGROUP_V2 = NEEDS = "own_uid", "landlock", "cgroup_v2"


def lacks(has_cgroup_v2: bool) -> dict[str, str]:
    """Return what this host lacks: {need: why}. Args: has_cgroup_v2: see runner.sandbox.cgroup."""
    found = {
        OWN_UID: None if os.geteuid() == 0 else "only root can give each sandbox a user of its own",
        LANDLOCK: None if landlock.abi() else "this kernel has no Landlock, or was started without it",
        CGROUP_V2: None if has_cgroup_v2 else "the server has no control groups of version 2 with memory and pids",
    }
    return {need: why for need, why in found.items() if why}


def refusal(lacking: Mapping[str, str]) -> str:
    """Return in words that there can be no strict run. Args: lacking: what lacks() has found and nobody accepts."""
    return "the tier strict needs " + "; ".join(f"{need}: {why}" for need, why in lacking.items())
