"""Makes a process the launcher (runner/forkserver.py); started by file with `python -I -S`.

All that every run is to have is imported and made here once, before the first fork.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # -I leaves the checkout off the path; it is on it only while our own modules are loaded, so no agent finds them.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gc
import socket

from runner import agent, strict, tree, workdir
from runner.forkserver import Launcher
from runner.inits import Nursery
from runner.sandbox import cgroup, mounts, prctl
from runner.sandboxed import Sandboxes
from runner.strays import Strays

if __name__ == "__main__":
    sys.path.pop(0)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(launcher: str, made_from: str, sockets: str, work_root: str, skeleton: str, *accepted: str) -> None:
    """Serve one supervisor after another; see Launcher.serve().

    Args:
        launcher: what tells this one from all others. made_from: what tells its code and its arguments from others.
        sockets: numbers of two inherited descriptors, "3,4": a socket that is bound, and one that is connected to the
            supervisor.
        work_root: the folder that holds the runs' work directories; nothing in it belongs to a live run yet.
        skeleton: path of the folder that becomes the root of every sandbox.
        accepted: needs of the tier strict (runner.strict) that it can do without.
    """
    listener, first = (socket.socket(fileno=int(number)) for number in sockets.split(","))
    for inherited in (listener, first):
        inherited.set_inheritable(False)
    prctl.become_subreaper()
    leftovers = workdir.leftovers(work_root)
    cleaners = {workdir.remove_in_background(leftovers)} if leftovers else set()
    # The user of a sandbox is another one, and must be able to look at its root.
    os.umask(0o022)
    sandboxes = _sandboxes(skeleton, accepted)
    agent.prepare()
    # The first compile() of a process makes the types of the syntax tree, which takes longer than most runs.
    compile("", "", "exec")
    gc.collect()
    gc.freeze()
    groups = cgroup.find(lambda: tree.family(os.getppid()))
    lacks = strict.lacks(has_cgroup_v2=groups is not None and groups.version == 2)
    lacking = {need: why for need, why in lacks.items() if need not in accepted}
    identity = {"launcher": launcher, "made_from": made_from}
    Launcher(identity, listener, first, Nursery(work_root, sandboxes, groups, lacking), Strays(cleaners)).serve()


def _sandboxes(skeleton: str, accepted: Sequence[str]) -> Sandboxes | None:
    """Return what sandboxes are made from, or None where there can be none."""
    try:
        return Sandboxes(mounts.Skeleton(skeleton, [sys.base_prefix], agent.__file__), accepted)
    except OSError as error:
        print(f"launcher: cannot have sandboxes: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
