"""What a sandboxed agent sees of the file system: a read-only skeleton, and a few private, size-capped places.

Everything is bound before the agent exists, on targets in the skeleton, a folder that only the server writes: so no
target of a mount can be swapped by an agent. In the order of the functions: the skeleton is made once, on the host; a
sandbox assembles its root on it; the last mounts are made when the agent is known.
"""

from __future__ import annotations

import os

from runner import workdir
from runner.protocol import AGENT_PLACE, AGENT_SCRIPT_PLACE
from runner.sandbox import kernel, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Source: mount(2), mount_setattr(2).
_RECURSIVE, _PRIVATE, _BIND = 0x4000, 0x40000, 0x1000
_NO_SUID, _NO_DEVICES, _NO_EXEC = 2, 4, 8
_READ_ONLY = 1

WORK = "/work"

# Places that an agent can write: mount flags, and the mode of the directory.
_PRIVATE_PLACES = {
    WORK: (_NO_SUID | _NO_DEVICES, "0700"),
    "/tmp": (_NO_SUID | _NO_DEVICES, "1777"),
    "/dev/shm": (_NO_SUID | _NO_DEVICES | _NO_EXEC, "1777"),
}
_BYTES_PER_FILE, _FEWEST_FILES = 4096, 64

_DEVICES = ("null", "zero", "full", "random", "urandom")

# Where an agent can write files, and which devices.
PRIVATE = tuple(_PRIVATE_PLACES)
DEVICES = tuple(f"/dev/{name}" for name in _DEVICES)

# Bound read-only from the host where they are there; links among them are made again as links.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SHARED_ETC = (
    *("alternatives", "ld.so.cache", "localtime", "mime.types"),
    # Certificates: of Debian, Arch and Alpine, Fedora; what OpenSSL reads to use them.
    *("ssl/certs", "ssl/cert.pem", "ca-certificates/extracted", "pki/ca-trust/extracted", "pki/tls/certs"),
    *("ssl/openssl.cnf", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "crypto-policies"),
)

# Of the host's /etc, what programs with a network look names up in.
_NETWORK_ETC = ("resolv.conf", "hosts", "services", "protocols", "gai.conf", "host.conf")

# Mount points that are not read-only.
WRITABLE = (*PRIVATE, "/proc", *DEVICES)

_ETC = {
    "passwd": f"agent:x:{namespaces.INSIDE_ID}:{namespaces.INSIDE_ID}::{WORK}:/bin/sh\n",
    "group": f"agent:x:{namespaces.INSIDE_ID}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


class Skeleton:
    """The folder that becomes the root of every sandbox."""

    def __init__(self, path: str, prefixes: Iterable[str], agent_script: str) -> None:
        """Make it anew.

        Args:
            path: of a folder that is the server's own. prefixes: further read-only folders of the host, such as the
                interpreter's. agent_script: path of runner/agent.py.
        """
        workdir.remove(path)
        self.path = path
        self._shared: list[str] = []
        for name in ("proc", "dev/shm", "tmp", AGENT_PLACE[1:], WORK[1:], "etc"):
            os.makedirs(f"{path}/{name}", 0o755)
        for name, text in {**dict.fromkeys(_NETWORK_ETC, ""), **_ETC}.items():
            _write(f"{path}/etc/{name}", text)
        os.mkdir(path + os.path.dirname(AGENT_SCRIPT_PLACE), 0o755)
        with open(agent_script) as script:
            _write(path + AGENT_SCRIPT_PLACE, script.read())
        for name, target in _DEVICE_LINKS.items():
            os.symlink(target, f"{path}/dev/{name}")
        for name in _DEVICES:
            _write(f"{path}/dev/{name}", "")
        for name in _SYSTEM:
            if os.path.islink(f"/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{path}/{name}")
            else:
                self.share(f"/{name}")
        for name in _SHARED_ETC:
            self.share(f"/etc/{name}")
        for prefix in prefixes:
            self.share(prefix)

    def share(self, source: str) -> None:
        """Have a path of the host in every sandbox made from now on, read-only and at the same place."""
        source = os.path.normpath(source)
        if os.path.exists(source) and not self._has(source):
            self.make_place(source)
            self._shared.append(source)

    def make_place(self, source: str) -> None:
        """Make the target for a later bind of a path of the host.

        To be done on the host, where the skeleton can be written.
        """
        place = self.path + source
        if self._has(source) or os.path.lexists(place):
            return
        if os.path.isdir(source):
            os.makedirs(place, 0o755)
        elif os.path.exists(source):
            os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
            _write(place, "")

    def _has(self, source: str) -> bool:
        return any(source == other or source.startswith(f"{other}/") for other in self._shared)

    def assemble(self) -> None:
        """Put together, in this mount namespace, what every agent has.

        To be done as the host's user, who alone may reach paths that are private to it.
        """
        kernel.mount("none", "/", None, _RECURSIVE | _PRIVATE)
        kernel.mount(self.path, self.path, None, _BIND)
        kernel.restrict_mount(self.path, _READ_ONLY | _NO_SUID | _NO_DEVICES)
        for source in self._shared:
            self._bind(source, source)
        for name in _DEVICES:
            place = f"{self.path}/dev/{name}"
            kernel.mount(f"/dev/{name}", place, None, _BIND)
            kernel.restrict_mount(place, _NO_SUID | _NO_EXEC)
        kernel.mount("proc", f"{self.path}/proc", "proc", _NO_SUID | _NO_DEVICES | _NO_EXEC, "subset=pid,hidepid=4")

    def add_network(self) -> None:
        """Add what an agent on the host's network needs to find others by their names.

        To be done when the run is there: these files are replaced as networks come and go. As systemd-resolved has it,
        they may be links to places that a sandbox does not have.
        """
        for name in _NETWORK_ETC:
            source = os.path.realpath(f"/etc/{name}")
            if os.path.isfile(source):
                self._bind(source, f"/etc/{name}")

    def enter(self, folder: str, shared: Iterable[str], disk_bytes: int) -> None:
        """Add what belongs to one run, make all this the root, and let go of the host's file system.

        Args:
            folder: the agent's. shared: further paths of the host, for which make_place() was called.
            disk_bytes: what the agent may write in each of its places.
        """
        self._bind(folder, AGENT_PLACE)
        for source in shared:
            if not self._has(source):
                self._bind(source, source)
        files = max(_FEWEST_FILES, disk_bytes // _BYTES_PER_FILE)
        for place, (flags, mode) in _PRIVATE_PLACES.items():
            # With an owner who is not in the namespace, as this process still is, nobody in it could write there.
            owner = f"uid={namespaces.INSIDE_ID},gid={namespaces.INSIDE_ID}"
            options = f"size={disk_bytes},nr_inodes={files},mode={mode},{owner}"
            kernel.mount("tmpfs", self.path + place, "tmpfs", flags, options)
        kernel.pivot_root(self.path)

    def _bind(self, source: str, place: str) -> None:
        kernel.mount(source, self.path + place, None, _BIND | _RECURSIVE)
        kernel.restrict_mount(self.path + place, _READ_ONLY | _NO_SUID | _NO_DEVICES)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
