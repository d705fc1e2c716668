"""What a result must not be, and output too much to keep."""

import os
from typing import Any, NoReturn

from .attempts import DONE, At, Attempts


def flood(at: At, context: Any) -> Attempts:
    """Print more than is kept."""
    for _ in range(64):
        os.write(1, b"x" * (1 << 16))
    return {"print 4 MiB": DONE}


def large_result(at: At, context: Any) -> Attempts:
    """Return more than it may."""
    return {"x" * (1 << 20): DONE}


def not_a_number(at: At, context: Any) -> NoReturn:
    """Give a result that is no JSON."""
    _end_with(b'{"result": {"x": NaN}}\n')


def two_results(at: At, context: Any) -> NoReturn:
    """Give a second result."""
    _end_with(b'{"result": {"x": 1}}\n{"result": {"x": 2}}\n')


def deep_result(at: At, context: Any) -> NoReturn:
    """Give a result that recursive parsers fail with."""
    _end_with(b'{"result": ' + b'{"x": ' * 5000 + b"1" + b"}" * 5000 + b"}\n")


def close_everything(at: At, context: Any) -> NoReturn:
    """Close the result pipe with all the rest, and claim success."""
    os.closerange(0, 256)
    os._exit(0)


def leave_silently(at: At, context: Any) -> NoReturn:
    """Claim success without a result."""
    os._exit(0)


def _end_with(frames: bytes) -> NoReturn:
    os.write(int(os.environ["CORRAL_RESULT_FD"]), frames)
    os._exit(0)
