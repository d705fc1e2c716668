"""Which layers of isolation a run is to have, and which of them it had."""

from collections.abc import Iterable

from runner import profile
from supervisor.limits import CORES, Limits
from supervisor.models import Isolation

CGROUP, CPU_SHARE = "cgroup", "cpu_share"

# What every run has; at tier "trusted" nothing else keeps an agent from the host's files, network and processes.
OF_ALL = ("session", "descriptors", "environment", "rlimits", "no_new_privs")

# Layers that a run of a tier can be started without: with the host's network, or where the host does not offer them; at
# tier "strict", if the operator accepts that, or if its Landlock is an old one. All others are in effect, or the agent
# is not started.
WANTED = {
    profile.TRUSTED: (),
    profile.SANDBOXED: ("net_namespace", "ceilings", CGROUP),
    profile.STRICT: ("ceilings", "own_uid", "landlock", "landlock_tcp", "landlock_scopes", CGROUP, "cgroup_v2"),
}


def isolation(tier: str, seen: Iterable[str], limits: Limits) -> Isolation:
    """Return the record of a run's isolation. Args: seen: the layers that it saw in effect itself."""
    effective = tuple(dict.fromkeys((*OF_ALL, *seen)))
    wanted = (*WANTED[tier], CPU_SHARE) if limits.cpus < CORES else WANTED[tier]
    return Isolation(tier, effective, tuple(layer for layer in wanted if layer not in effective))
