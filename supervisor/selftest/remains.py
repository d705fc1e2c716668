"""Processes of probes, found in the host's /proc by the name that they all have, whoever their parents are."""

import contextlib

import psutil


def find(mark: str) -> list[psutil.Process]:
    """Return the living processes whose names begin with a mark. Source: prctl(2), PR_SET_NAME: forks inherit it."""
    return [
        process
        for process in psutil.process_iter(["name", "status"])
        if (process.info["name"] or "").startswith(mark) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def kill(mark: str) -> None:
    """Kill them."""
    for process in find(mark):
        with contextlib.suppress(psutil.Error):
            process.kill()


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; a zombie has."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
