"""Starting anew in the same process: this program gives way to itself by exec(2), and what nobody may miss stays open.

The pid stays the same, so a service manager keeps it, and children stay children. The lock of the data folder is never
free, the listening socket never closed, and the launcher has a supervisor all the time: it drops the old connection
when the new program says that it is there. Signals wait from before until that one takes them.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import NoReturn, Self

_VARIABLE = "_CORRAL_HANDOVER"


@dataclass(frozen=True, slots=True)
class Handover:
    """Descriptors. channel: of the connection to the launcher, None if there was none."""

    lock: int
    listener: int
    channel: int | None

    @classmethod
    def received(cls) -> Self | None:
        """Return what the program before this one in this process has left open; None if it was another one."""
        told = json.loads(os.environ.pop(_VARIABLE, "{}"))
        # A child of such a process may have got the variable too.
        if told.get("pid") != os.getpid():
            return None
        received = cls(**told["descriptors"])
        received._set_inheritable(False)
        return received

    def give(self) -> NoReturn:
        """Start anew, with the same arguments; signals must have been put off. Raises OSError: that is not possible."""
        self._set_inheritable(True)
        told = json.dumps({"pid": os.getpid(), "descriptors": asdict(self)})
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _VARIABLE: told})

    def _set_inheritable(self, inheritable: bool) -> None:
        for descriptor in (self.lock, self.listener, self.channel):
            if descriptor is not None:
                os.set_inheritable(descriptor, inheritable)
