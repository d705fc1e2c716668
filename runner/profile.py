"""What kind of isolation a run has. Only runs of one profile can be given the same idle inits."""

from __future__ import annotations

import collections

# Tiers, and whose network a sandbox has: nobody's, or the host's. At the tier "trusted" it is always the host's.
TRUSTED, SANDBOXED, STRICT = "trusted", "sandboxed", "strict"
NONE, HOST = "none", "host"

Profile = collections.namedtuple("Profile", ("tier", "network"))

# That of agents which ask for nothing.
DEFAULT = Profile(SANDBOXED, NONE)
