"""Puts a load on a server of its own and prints what it costs; every part can be asked for alone, and smaller."""

import argparse
import array
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmarks.server import Client
from scripts.reliability import family, rows
from scripts.reliability.server import Server
from supervisor.clock import Clock
from supervisor.store import Store

_AGENTS = Path(__file__).parent / "load_agents"
_LONGEST_SECONDS = 900.0
_CLAIMS = 200
_LAST_SECONDS = 60.0
_SAMPLES = 20

Figures = dict[str, float]


class LoadServer:
    """A server whose loop is measured; a context that stops it. figures: what is known only at its end."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._steps = folder / "steps"
        serve = ("scripts.reliability.measured", str(self._steps))
        self.server = Server(folder, _AGENTS, serve, **settings)
        self.database = self.server.data / "corral.db"
        self.figures: Figures = {}

    def __enter__(self) -> "LoadServer":
        began = time.perf_counter()
        self.server.start()
        self.server.wait_until_ready()
        self.figures["start_seconds"] = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        steps = array.array("d", self._steps.read_bytes())
        self.figures |= _spread("loop_step_ms", [1000 * step for step in steps])

    def client(self) -> Client:
        return Client(int(self.server.url.rpartition(":")[2]))

    def processes(self) -> dict[str, psutil.Process]:
        """Return the server's own processes by name."""
        return {name: psutil.Process(pid) for name, pid in family.services(self.server.pid).items()}

    def rss(self) -> Figures:
        return {f"{name}_rss_mb": process.memory_info().rss / 1e6 for name, process in self.processes().items()}

    def descriptors(self, when: str) -> Figures:
        return {f"{name}_descriptors_{when}": process.num_fds() for name, process in self.processes().items()}

    def wait_for(self, status: str, count: int) -> None:
        """Wait until so many executions have a status. Raises TimeoutError."""
        _wait_until(lambda: _count(self.database, "status = ?", status) >= count, f"{count} are {status}")


def submits(folder: Path, wanted: argparse.Namespace) -> Figures:
    """Many clients at once submit runs that do nothing, without a pause; then all of them end."""

    def client(count: int) -> list[float]:
        connection = server.client()
        took = []
        for _ in range(count):
            began = time.perf_counter()
            connection.submit("noop")
            took.append(time.perf_counter() - began)
        connection.close()
        return took

    with LoadServer(folder) as server:
        _warm_up(server)
        before, began = server.descriptors("before"), time.perf_counter()
        figures = {**before}
        with ThreadPoolExecutor(wanted.clients) as pool:
            shares = [len(range(number, wanted.executions, wanted.clients)) for number in range(wanted.clients)]
            took = [1000 * seconds for each in pool.map(client, shares) for seconds in each]
        figures["submits_per_second"] = len(took) / (time.perf_counter() - began)
        server.wait_for("COMPLETED", wanted.executions + 1)
        figures["runs_per_second"] = len(took) / (time.perf_counter() - began)
        figures |= _spread("submit_ms", took) | server.rss() | _settled(server, before)
    return figures | server.figures


def sleepers(folder: Path, wanted: argparse.Namespace) -> Figures:
    """Many runs are live at once and do nothing; then all are canceled."""
    with LoadServer(folder, max_running=wanted.sleepers) as server:
        _warm_up(server)
        before, began = server.descriptors("before"), time.perf_counter()
        figures = {**before}
        connection = server.client()
        ids = [connection.submit("sleeper") for _ in range(wanted.sleepers)]
        asleep = "status = 'RUNNING' AND progress IS NOT NULL"
        _wait_until(lambda: _count(server.database, asleep) == len(ids), "all of them sleep")
        figures["all_asleep_after_seconds"] = time.perf_counter() - began
        figures |= server.rss() | server.descriptors("with_sleepers") | _idle(server, wanted.idle_seconds)
        began = time.perf_counter()
        for execution_id in ids:
            connection.call("POST", f"/executions/{execution_id}/cancel")
        server.wait_for("CANCELED", len(ids))
        figures["all_canceled_after_seconds"] = time.perf_counter() - began
        connection.close()
        figures |= _settled(server, before)
    return figures | server.figures


def many_rows(folder: Path, wanted: argparse.Namespace) -> Figures:
    """A server whose database has many executions that have ended."""
    server = LoadServer(folder)
    server.database.parent.mkdir(mode=0o700)
    rows.write_ended(server.database, wanted.rows)
    figures: Figures = {"database_mb": server.database.stat().st_size / 1e6}
    took: dict[str, list[float]] = {"submit_ms": [], "get_ms": [], "submit_to_result_ms": []}
    with server:
        connection = server.client()
        for _ in range(_CLAIMS):
            began = time.perf_counter()
            execution_id = connection.submit("noop")
            took["submit_ms"].append(1000 * (time.perf_counter() - began))
            connection.wait(execution_id)
            took["submit_to_result_ms"].append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            connection.get(execution_id)
            took["get_ms"].append(1000 * (time.perf_counter() - began))
        connection.close()
        figures |= server.rss()
    for name, values in took.items():
        figures |= _spread(name, values)
    return figures | server.figures


def claims(folder: Path, wanted: argparse.Namespace) -> Figures:
    """Claims from a long queue, without their commits, which wait for the disk."""
    database = folder / "corral.db"
    rows.write_waiting(database, wanted.rows)
    store = Store(database, Clock())
    took = []
    for _ in range(_CLAIMS):
        with store.transaction() as transaction:
            began = time.perf_counter()
            assert transaction.claim([])
            took.append(1000 * (time.perf_counter() - began))
    store.close()
    return _spread("claim_ms", took)


PARTS: dict[str, Callable[[Path, argparse.Namespace], Figures]] = {
    "submits": submits,
    "sleepers": sleepers,
    "rows": many_rows,
    "claims": claims,
}


def _warm_up(server: LoadServer) -> None:
    """Have what is made for the first run, so that what is there after the last one and not after this is a leak."""
    connection = server.client()
    connection.wait(connection.submit("noop"))
    connection.close()
    _wait_until(lambda: not os.listdir(server.server.data / "work"), "the first run is released")


def _settled(server: LoadServer, before: Figures) -> Figures:
    """Return how many descriptors there are when nothing happens any more: when they are as many as before, or late."""
    deadline = time.monotonic() + 20
    while True:
        after = server.descriptors("after")
        if list(after.values()) <= list(before.values()) or time.monotonic() > deadline:
            return after
        time.sleep(0.2)  # noqa: TID251 - the server tells nobody


def _idle(server: LoadServer, seconds: float) -> Figures:
    """Return what part of one core the server's processes use, and what a sleeping run takes of memory."""
    processes = server.processes()
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    time.sleep(seconds)  # noqa: TID251 - the time that is measured
    used = {name: sum(process.cpu_times()[:2]) - before[name] for name, process in processes.items()}
    inits = processes["launcher"].children()
    sampled = [_pss_mb(init) for init in inits[:: max(1, len(inits) // _SAMPLES)]]
    return {f"{name}_idle_cpu_percent": 100 * cpu / seconds for name, cpu in used.items()} | {
        "sleeper_pss_mb": statistics.mean(sampled)
    }


def _pss_mb(init: psutil.Process) -> float:
    """Return the memory of a run and its init."""
    return sum(process.memory_full_info().pss for process in (init, *init.children(recursive=True))) / 1e6


def _count(database: Path, condition: str, *values: str) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM executions WHERE {condition}", values).fetchone()[0])


def _wait_until(what: Callable[[], bool], told: str) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {_LONGEST_SECONDS:g} seconds it is not so that {told}")
        time.sleep(0.1)  # noqa: TID251 - the server tells nobody


def _spread(name: str, values: list[float]) -> Figures:
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    return {f"{name}_p50": percentiles[49], f"{name}_p99": percentiles[98], f"{name}_max": max(values)}


def measure(wanted: argparse.Namespace) -> Figures:
    """Return every figure of the parts that are wanted, by name."""
    figures = {}
    for part in wanted.parts or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="corral-load-"))
        try:
            found = PARTS[part](folder, wanted)
        finally:
            family.kill_all(_LAST_SECONDS)
            family.reap(but=None)
            shutil.rmtree(folder)
        for name, value in found.items():
            figures[f"{part}_{name}"] = round(value, 3)
            print(f"{part} {name:40} {value:12.3f}", flush=True)
    return figures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--clients", type=int, default=200, help="that submit at once (default: 200)")
    parser.add_argument("--executions", type=int, default=10_000, help="that they submit (default: 10,000)")
    parser.add_argument("--sleepers", type=int, default=1000, help="runs that are live at once (default: 1,000)")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="for which they sleep (default: 30)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="executions in a database (default: 1,000,000)")
    wanted = parser.parse_args()
    if unknown := set(wanted.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return wanted


if __name__ == "__main__":
    family.adopt()
    print(json.dumps(measure(_arguments())))
