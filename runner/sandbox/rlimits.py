"""Resource limits of one process, applied last before the agent's code starts."""

import resource
from collections.abc import Mapping

# Name in the manifest -> kernel limit. RLIMIT_DATA counts private writable memory, and so, unlike RLIMIT_AS, leaves
# alone the large reservations of address space that V8 and the JVM make. Source: setrlimit(2).
LIMITS = {
    "cpu_seconds": resource.RLIMIT_CPU,
    "memory_bytes": resource.RLIMIT_DATA,
    "file_size_bytes": resource.RLIMIT_FSIZE,
    "open_files": resource.RLIMIT_NOFILE,
    # Counts per user and user namespace: so it is a limit of one run only in a sandbox. Source: setrlimit(2).
    "processes": resource.RLIMIT_NPROC,
}

# At 0 a core_pattern that pipes to a handler still starts that handler, as root, on the host; at 1 it does not.
# Source: core(5).
CORE_BYTES = 1

# The CPU time of a tree is held to its limit by the supervisor. These are for each process, a net below that: SIGXCPU,
# then SIGKILL, this much beyond the limit, so that a process which is caught in it has used more than the limit by any
# clock: the kernel counts for these by its ticks.
CPU_NET_SECONDS = (1, 2)


def apply(limits: Mapping[str, int]) -> None:
    """Set the limits of this process and of all that it starts.

    Args:
        limits: {name: amount} with names of LIMITS; an absent name leaves that limit as it is.
    Raises:
        ValueError: the limit is above the hard limit of the host.
    """
    _set(resource.RLIMIT_CORE, CORE_BYTES, CORE_BYTES)
    for name, amount in limits.items():
        kind = LIMITS[name]
        beyond = CPU_NET_SECONDS if kind == resource.RLIMIT_CPU else (0, 0)
        _set(kind, amount + beyond[0], amount + beyond[1])


def _set(kind: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        hard = min(hard, ceiling)
    resource.setrlimit(kind, (min(soft, hard), hard))
