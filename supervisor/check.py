"""`corral check`, for a whole data folder: its database, and that only a server's runs are live."""

from dataclasses import replace

from supervisor import inspection
from supervisor.inspection import Inspection, Violation
from supervisor.machine import lock
from supervisor.settings import Settings

_LIVE = "live_needs_a_server"

# All that check_server looks at, by name, in words.
RULES = {**inspection.RULES, _LIVE: "An execution is running or being stopped only while a server runs."}


def check_server(settings: Settings) -> Inspection:
    """Look at every row of a server's database, whether it runs or not.

    Raises:
        StoreError: see inspect.
    """
    found = inspection.inspect(settings.database)
    if not found.live or lock.is_held(settings.lock):
        return found
    # A server that was just stopping has ended its runs meanwhile.
    still_live = inspection.live(settings.database)
    abandoned = tuple(
        Violation(
            _LIVE, execution_id, "it is live, but no server runs; the next start takes it over, or records how it ended"
        )
        for execution_id in found.live
        if execution_id in still_live
    )
    return replace(found, violations=found.violations + abandoned)
