"""The header Idempotency-Key: a client that does not know whether its submit has arrived may send it again.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
import json
import re

import falcon
from pydantic import BaseModel

from supervisor.idempotency import Once

# With quotes it is a String as in RFC 8941, section 3.3.3, as the draft wants it; without, what most clients send.
_STRING = re.compile(r'"(?P<text>(?:[ !#-\[\]-~]|\\["\\])*)"')
_PLAIN = re.compile(r"[!#-+\--\[\]-~]+")

_MAX_CHARACTERS = 255


def read_once(request: falcon.Request, body: BaseModel) -> Once | None:
    """Return a request's key with a fingerprint of its body; None if it has no key.

    Bodies that are the same JSON value are the same request, whatever the order of their fields.

    Raises:
        falcon.HTTPBadRequest: the header cannot be read as a key.
    """
    header = request.get_header("Idempotency-Key")
    if header is None:
        return None
    asked = json.dumps(body.model_dump(exclude_unset=True), sort_keys=True)
    return Once(_key(header.strip()), hashlib.sha256(asked.encode()).digest())


def _key(header: str) -> str:
    quoted = _STRING.fullmatch(header)
    if quoted:
        key = re.sub(r'\\(["\\])', r"\1", quoted["text"])
    elif _PLAIN.fullmatch(header):
        key = header
    else:
        raise _refused("it is neither a text in quotes nor one of visible ASCII characters without quotes, \\ and ,")
    if not 1 <= len(key) <= _MAX_CHARACTERS:
        raise _refused(f"it has {len(key)} characters, and may have 1 to {_MAX_CHARACTERS}")
    return key


def _refused(reason: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(description=f"cannot read Idempotency-Key: {reason}")
