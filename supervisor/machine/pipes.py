"""What a run is launched with: its input, and its pipes."""

import fcntl
import json
import os
from typing import Any

from runner.protocol import close_all
from supervisor.machine.intake import memory_file

_PIPES = ("stdout", "stderr", "result")


def open_all(spec: dict[str, Any], payload: str) -> tuple[list[int], list[int]]:
    """Return the descriptors of runner.protocol.AGENT_ENDS and of KEPT_ENDS, in their order; they are the caller's.

    Args:
        spec: what the process that becomes the agent is told. payload: what is on its stdin.
    Raises:
        OSError: the host has no more.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        theirs.append(_sealed_file(json.dumps(spec).encode()))
        theirs.append(_sealed_file(payload.encode()))
        for _ in _PIPES:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            ours.append(reader)
            theirs.append(writer)
            os.set_blocking(reader, False)
        ours.append(memory_file())
    except OSError:
        close_all((*ours, *theirs))
        raise
    return theirs, ours


def _sealed_file(data: bytes) -> int:
    """Return a sealed memory file, open at its start: unlike a pipe it takes any data at once, whoever reads when.

    Source: memfd_create(2), fcntl(2) "File Sealing".
    """
    descriptor = os.memfd_create("corral", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
