"""Which layers of isolation a run is to have, and which of them it had."""

from collections.abc import Iterable

from runner import profile
from supervisor.models import Isolation

# What every run has; at tier "trusted" nothing else keeps an agent from the host's files, network and processes.
OF_ALL = ("session", "descriptors", "environment", "rlimits", "no_new_privs")

# Layers that a run of a tier can be started without: with the host's network, or where the host does not offer them; at
# tier "strict", if the operator accepts that, or if its Landlock is an old one. All others are in effect, or the agent
# is not started.
WANTED = {
    profile.TRUSTED: (),
    profile.SANDBOXED: ("net_namespace", "cgroup"),
    profile.STRICT: ("own_uid", "landlock", "landlock_tcp", "landlock_scopes", "cgroup", "cgroup_v2"),
}


def isolation(tier: str, seen: Iterable[str]) -> Isolation:
    """Return the record of a run's isolation. Args: seen: the layers that it saw in effect itself."""
    effective = tuple(dict.fromkeys((*OF_ALL, *seen)))
    return Isolation(tier, effective, tuple(layer for layer in WANTED[tier] if layer not in effective))
