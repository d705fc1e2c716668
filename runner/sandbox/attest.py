"""The sandbox as the kernel sees it: looked at from inside, by the process that becomes the agent, after every step.

A step that a kernel, a filter or a mistake of ours has turned into nothing is found here, before the agent starts.
"""

from __future__ import annotations

from runner.sandbox import kernel, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

# Field of /proc/self/status -> layer, what it must be. Source: proc(5).
_STATUS = {
    "CapEff": ("no_capabilities", "0000000000000000"),
    "CapPrm": ("no_capabilities", "0000000000000000"),
    "CapInh": ("no_capabilities", "0000000000000000"),
    "CapBnd": ("no_capabilities", "0000000000000000"),
    "CapAmb": ("no_capabilities", "0000000000000000"),
    "NoNewPrivs": ("no_new_privs", "1"),
    "Seccomp": ("seccomp", "2"),
}

# How many filters there are; a server that is a service may have some of its manager's. Source: proc(5), Linux 5.9.
_FILTERS = "Seccomp_filters"

_READ_ONLY_ROOT = "read_only_root"


class NotIsolated(Exception):
    """A layer of the sandbox is not in effect."""


def attest(host: Mapping[str, str], filters: int, shared: Container[str], writable: Iterable[str]) -> list[str]:
    """Return the names of the layers in effect, which are all that this tier has.

    Args:
        host: namespaces.identities() of the launcher. filters: count_filters() before ours, which must be one more.
        shared: names of the namespaces that must be the host's.
        writable: mount points that may be written.
    Raises:
        NotIsolated: naming the first layer that is not.
    """
    layers = list(_namespaces(host, shared))
    layers += dict.fromkeys(_status(filters))
    layers += mount_layers(set(writable))
    return layers


def own_uid(launcher_uid: int) -> Iterator[str]:
    """Yield the layer that a user of its own on the host makes. Args: launcher_uid: the user that it must not be.

    Source: user_namespaces(7), uid_map: the second field is the first user outside, to whoever reads it inside.
    """
    with open("/proc/self/uid_map", encoding="ascii") as file:
        _, outside, count = map(int, file.read().split())
    if not outside <= launcher_uid < outside + count:
        yield "own_uid"


def _namespaces(host: Mapping[str, str], shared: Container[str]) -> Iterator[str]:
    for name, identity in namespaces.identities().items():
        is_hosts = identity == host[name]
        if is_hosts != (name in shared):
            raise NotIsolated(f"the {name} namespace is {'' if is_hosts else 'not '}that of the host")
        if not is_hosts:
            yield f"{name}_namespace"


def count_filters() -> int:
    """Return how many filters of system calls are on this process."""
    return int(_fields().get(_FILTERS, 0))


def _fields() -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in kernel.read("/proc/self/status").split("\n")[:-1])


def _status(filters: int) -> Iterator[str]:
    found = _fields()
    for field, (layer, wanted) in _STATUS.items():
        if found.get(field) != wanted:
            raise NotIsolated(f"{layer}: {field} is {found.get(field)}")
        yield layer
    if int(found.get(_FILTERS, 0)) != filters + 1:
        raise NotIsolated(f"seccomp: {_FILTERS} is {found.get(_FILTERS)}")


def mount_layers(writable: set[str], table: str = "/proc/self/mountinfo") -> Iterator[str]:
    """Yield the layers that the mounts make. Raises NotIsolated.

    Source: proc(5), /proc/pid/mountinfo: the fifth field is the mount point, the sixth its attributes.
    """
    for line in kernel.read(table).split("\n")[:-1]:
        place, attributes = line.split(" ", 6)[4:6]
        on = attributes.split(",")
        if "nosuid" not in on or not ("nodev" in on or "noexec" in on):
            raise NotIsolated(f"the mount {place} is {attributes}")
        if place not in writable and "ro" not in on:
            raise NotIsolated(f"the mount {place} can be written")
    yield _READ_ONLY_ROOT
