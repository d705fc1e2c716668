"""The agent of the selftest: tries what hostile agents try, and does no harm where nothing contains it.

A probe is a function of its name that returns what it tried and what came of that; some never return. What would harm
the machine is not done but only begun (files are opened for writing and left as they are, calls get arguments that the
kernel refuses later than it asks for the right), or is bounded: what does anything has ended after half a minute.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from . import kernel, resources, results, surroundings
from .attempts import At, Attempts

_PR_SET_NAME = 15

_Probe = Callable[[At, Any], Attempts]

PROBES: dict[str, _Probe] = {
    name: probe
    for module in (surroundings, kernel, resources, results)
    for name, probe in vars(module).items()
    if getattr(probe, "__module__", None) == module.__name__ and not name.startswith("_")
}


def run(input: dict[str, Any], context: Any) -> dict[str, Attempts]:
    """Make one probe: {"probe": name, "mark": a name for all its processes, "places": see At}."""
    # Children inherit it: so the selftest finds every process of this run in the host's /proc, whoever its parent is.
    ctypes.CDLL(None).prctl(_PR_SET_NAME, input["mark"].encode(), 0, 0, 0)
    return {"attempts": PROBES[input["probe"]](At(input["mark"], input["places"]), context)}
