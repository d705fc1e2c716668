"""JSON from strangers: parsed within bounds, and written back in one normal form that every reader can parse."""

import json
from collections.abc import Iterable

from supervisor.errors import InvalidJson

# Python's parser and most others give up somewhere near a thousand levels; a hundred is more than real data has.
MAX_DEPTH = 100

# A megabyte of "[],[],…" becomes 30 MB of objects and stops the process for 60 ms; this bounds both.
MAX_TOKENS = 200_000


def parse(data: bytes) -> object:
    """Return the value of one JSON document.

    Args:
        data: UTF-8. Its size is the caller's to bound.
    Raises:
        InvalidJson: not UTF-8, not JSON as RFC 8259 has it (NaN and Infinity are not), a number that does not fit,
            nested deeper than MAX_DEPTH, or more than MAX_TOKENS values.
    """
    if _count(data, b"[{,") > MAX_TOKENS and _count(_without_texts(data), b"[{,") > MAX_TOKENS:
        raise InvalidJson(f"more than {MAX_TOKENS} values")
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidJson(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise InvalidJson(f"nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise InvalidJson(f"not JSON: {error}") from error
    if _count(data, b"[{") > MAX_DEPTH:
        _check_depth(value)
    return value


def dump(value: object) -> str:
    """Return a parsed value as compact JSON text that is valid UTF-8.

    Raises:
        InvalidJson: a number out of range (1e999), or half of a surrogate pair, which no UTF-8 can carry.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidJson("a text holds half of a surrogate pair") from error
    except ValueError as error:
        raise InvalidJson(f"a number is out of range: {error}") from error
    return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _count(data: bytes, characters: bytes) -> int:
    return sum(map(data.count, characters))


def _without_texts(data: bytes) -> bytes:
    """Return a document without what is between its quotes: a comma there separates nothing."""
    unescaped = data.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2])


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, (dict, list))]
        if not level:
            return
    raise InvalidJson(f"nested deeper than {MAX_DEPTH} levels")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
