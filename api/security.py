"""Who may ask: no web page of another site. A page that the user visits can reach loopback addresses, as the user can.

Clients that are no browsers send neither Origin nor Sec-Fetch-Site; pages cannot choose them.
"""

import functools
import re

import falcon

from supervisor.listening import is_loopback

_HOST = re.compile(r"\[(?P<address>[^\]]*)\](:\d*)?|(?P<name>[^:]*)(:\d*)?")


class LocalOnly:
    """Middleware that refuses what a browser sends for a page of another site."""

    def process_request(self, request: falcon.Request, _response: falcon.Response) -> None:
        """Let a request pass. Raises falcon.HTTPForbidden: it comes from elsewhere."""
        # Without a Host it is HTTP/1.0, which no browser speaks.
        host = request.get_header("Host", default="localhost").lower()
        if not _is_local(host):
            raise _forbidden(f"its Host {host[:100]!r} is not a name of this machine's loopback interface")
        origin = request.get_header("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise _forbidden(f"its Origin {origin[:100]!r} is not this server")
        if request.get_header("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise _forbidden("a page of another site sent it")


@functools.lru_cache(maxsize=8)  # a client may have each be as long as a head may be
def _is_local(host: str) -> bool:
    """Tell whether this is how a client names a loopback address.

    Any other name is that of a site whose owner has pointed it here, so that its pages may read our answers (DNS
    rebinding).
    """
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found["address"] or found["name"])


def _forbidden(reason: str) -> falcon.HTTPForbidden:
    return falcon.HTTPForbidden(description=f"cannot accept request: {reason}")
