"""Measures the server beside plain baselines in the same run; prints a table, then JSON."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server import BenchServer

_PLAIN = [sys.executable, "-I", "-S", "-c", "print('{}')"]


# A fresh interpreter in a sandbox, without record, result pipe or limits.
_BUBBLEWRAP = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]

TIERS = {"trusted": "noop-trusted", "sandboxed": "noop"}


def plain_runs_per_second(runs: int) -> float:
    """A loop over subprocess.run, two at a time: no queue, no record, no cancel."""
    return _loop(_PLAIN, runs)


def bubblewrap_runs_per_second(runs: int) -> float:
    """The same with each process in a sandbox of bubblewrap."""
    return _loop([*_BUBBLEWRAP, *_PLAIN], runs)


def _loop(command: list[str], runs: int) -> float:
    return _rate(runs, 2, lambda: subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True))


def closed_loop_runs_per_second(server: BenchServer, agent: str, runs: int, clients: int) -> float:
    """Clients that submit one run, poll until it has ended, and go on with the next."""

    def client(count: int) -> None:
        connection = server.client()
        for _ in range(count):
            execution = connection.wait(connection.submit(agent))
            assert execution["status"] == "COMPLETED", execution
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, [runs // clients] * clients))
    return runs / (time.perf_counter() - began)


def queued_runs_per_second(server: BenchServer, agent: str, runs: int) -> float:
    """Two clients submit all at once; counted until the last of them has its result."""

    def client(count: int) -> list[str]:
        connection = server.client()
        ids = [connection.submit(agent) for _ in range(count)]
        connection.close()
        return ids

    began = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        submitted = [execution_id for ids in pool.map(client, [runs // 2] * 2) for execution_id in ids]
    connection = server.client()
    for execution_id in reversed(submitted):
        assert connection.wait(execution_id, pause_seconds=0.02)["status"] == "COMPLETED"
        if time.perf_counter() - began > 120:
            raise TimeoutError
        break
    seconds = time.perf_counter() - began
    for execution_id in submitted:
        assert connection.wait(execution_id)["status"] == "COMPLETED"
    connection.close()
    return runs / seconds


def latency_ms(server: BenchServer, agent: str, runs: int) -> list[float]:
    """From the submit to the result read, one at a time on an idle server."""
    connection = server.client()
    found = []
    for _ in range(runs):
        began = time.perf_counter()
        connection.wait(connection.submit(agent))
        found.append((time.perf_counter() - began) * 1000)
    connection.close()
    return found


def cancel_ms(server: BenchServer, runs: int) -> list[float]:
    """From SIGKILL being due to the proof that 21 processes which ignore SIGTERM, one detached, are gone."""
    connection = server.client()
    found = []
    for _ in range(runs):
        execution_id = connection.submit("stubborn")
        while not connection.get(execution_id)["progress"]:
            time.sleep(0.005)  # noqa: TID251 - over HTTP there is no event to wait for
        connection.call("POST", f"/executions/{execution_id}/cancel")
        kill = connection.wait(execution_id)["kill"]
        assert kill["survivors"] == 0, kill
        found.append(kill["duration_ms"] - 100)
    connection.close()
    return found


def idle(server: BenchServer, seconds: float) -> dict[str, float]:
    """Share of one core and resident memory of all the server's processes while nothing happens."""
    processes = server.processes().values()
    before = sum(sum(process.cpu_times()[:2]) for process in processes)
    time.sleep(seconds)  # noqa: TID251 - the time that is measured
    used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
    return {
        "idle_cpu_percent": round(100 * used / seconds, 2),
        "idle_rss_mb": round(sum(process.memory_info().rss for process in processes) / 1e6, 1),
        "idle_pss_mb": round(sum(process.memory_full_info().pss for process in processes) / 1e6, 1),
    }


def cpu_ms_per_run(server: BenchServer, agent: str, runs: int) -> dict[str, float]:
    """CPU time of each process while a queue is worked off, by run; the agents' is in that of the launcher."""
    before = server.cpu_seconds() | {"client": time.process_time()}
    queued_runs_per_second(server, agent, runs)
    after = server.cpu_seconds() | {"client": time.process_time()}
    return {f"cpu_ms_per_run_{name}": 1000 * (after[name] - before[name]) / runs for name in before}


def measure(runs: int) -> dict[str, float]:
    """Return every figure by name."""
    figures = {"plain_loop_runs_per_second": plain_runs_per_second(runs)}
    if shutil.which("bwrap"):
        figures["bubblewrap_loop_runs_per_second"] = bubblewrap_runs_per_second(runs)
    for tier, agent in TIERS.items():
        figures |= {f"{tier}_{name}": value for name, value in of_tier(agent, runs).items()}
    with BenchServer("--max-running", "2") as server:
        figures |= _spread("cancel_after_grace_ms", cancel_ms(server, 20))
        figures |= idle(server, 10)
    figures["plain_loop_again_runs_per_second"] = plain_runs_per_second(runs)
    plain = (figures["plain_loop_runs_per_second"] + figures["plain_loop_again_runs_per_second"]) / 2
    figures["trusted_queue_to_plain_ratio"] = figures["trusted_queue_two_running_runs_per_second"] / plain
    return figures


def of_tier(agent: str, runs: int) -> dict[str, float]:
    """What runs of one agent cost."""
    figures = {}
    with BenchServer("--max-running", "2") as server:
        latency_ms(server, agent, 50)
        figures |= _spread("submit_to_result_ms", latency_ms(server, agent, runs))
        figures["two_clients_runs_per_second"] = closed_loop_runs_per_second(server, agent, runs, 2)
        figures["queue_two_running_runs_per_second"] = queued_runs_per_second(server, agent, runs)
    with BenchServer() as server:
        figures["queue_default_running_runs_per_second"] = queued_runs_per_second(server, agent, runs)
        figures |= cpu_ms_per_run(server, agent, runs)
    return figures


def _rate(runs: int, at_a_time: int, run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(lambda _: run(), range(runs)))
    return runs / (time.perf_counter() - began)


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}_p50": statistics.median(values), f"{name}_p95": statistics.quantiles(values, n=20)[18]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="runs per measurement")
    found = {name: round(value, 2) for name, value in measure(parser.parse_args().runs).items()}
    for name, value in found.items():
        print(f"{name:50} {value:10.2f}")
    print(json.dumps(found))
