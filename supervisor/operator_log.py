"""What supervisor and API tell the operator: one JSON object per line, on stderr. stdout has the ready line alone."""

import contextlib
import logging
import os

import structlog

_STDERR = 2


class _Stderr:
    """Writes lines. That nobody reads them, or that a disk is full, must end neither the server nor its runs."""

    def msg(self, line: str) -> None:
        """Write one line, at once."""
        with contextlib.suppress(OSError):
            os.write(_STDERR, f"{line}\n".encode(errors="replace"))

    debug = info = warning = error = critical = exception = msg


def configure() -> None:
    """Set up structlog for this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: _Stderr(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
