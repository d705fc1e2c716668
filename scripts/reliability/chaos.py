"""Kills every kind of process of a server at random while clients use it, and holds it to all of its promises.

Everything happens below one temporary folder and one process, this one: what the server loses becomes a child of it.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from scripts.reliability import family, remains
from scripts.reliability.adversary import Adversary
from scripts.reliability.clients import Client
from scripts.reliability.ledger import Ledger
from scripts.reliability.mix import write_agents
from scripts.reliability.server import Server, ServerFailed
from scripts.reliability.witness import Witness

_MAX_RUNNING = 6

# After the last kill, for all that waits to be run: what runs takes seconds, and the machine may be slow.
_LAST_ENDS_SECONDS = 120.0


def main() -> int:
    """Return the exit code: 0 if no promise was broken."""
    arguments = _arguments()
    # Not in /tmp, for which sandboxes have a place of their own: their agents are to see the witness.
    folder = Path(tempfile.mkdtemp(prefix="corral-chaos-", dir="/var/tmp"))
    print(f"chaos: {arguments.seconds:g} seconds with seed {arguments.seed} in {folder}", flush=True)
    ledger = Ledger(folder / "ledger.jsonl")
    family.adopt()
    try:
        _wreak_havoc(folder, ledger, arguments)
    finally:
        family.kill_all(_LAST_ENDS_SECONDS)
        family.reap(but=None)
        ledger.close()
    for violation in ledger.violations:
        print(f"VIOLATION {violation}")
    if ledger.violations:
        print(f"chaos: {len(ledger.violations)} violations with seed {arguments.seed}; everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    print("chaos: every promise was kept")
    return 0


def _wreak_havoc(folder: Path, ledger: Ledger, arguments: argparse.Namespace) -> None:
    pipe = folder / "witness" / "pipe"
    write_agents(folder / "agents", pipe)
    server = Server(
        folder,
        folder / "agents",
        max_running=_MAX_RUNNING,
        trusted_agents=["*"],
        read_only_paths=[str(pipe.parent)],
    )
    adversary = Adversary(server, f"{arguments.seed} adversary", ledger)
    clients = [
        Client(f"client{number}", f"{arguments.seed} {number}", lambda: server.url, ledger)
        for number in range(arguments.clients)
    ]
    with Witness(pipe, ledger.witness):
        try:
            server.start()
            server.wait_until_ready()
            for client in clients:
                client.thread.start()
            adversary.rage(arguments.seconds)
            _await_ends(clients)
            adversary.note_launcher()
            server.stop()
        except ServerFailed as error:
            ledger.accuse(str(error))
        finally:
            for client in clients:
                client.give_up()
                if client.thread.ident:
                    client.thread.join()
    _take_stock(server, adversary, ledger)


def _await_ends(clients: list[Client]) -> None:
    """Let all that was acknowledged end, and look at every end once more."""
    for client in clients:
        client.close()
    deadline = time.monotonic() + _LAST_ENDS_SECONDS
    for client in clients:
        client.thread.join(max(0.0, deadline - time.monotonic()))
        client.give_up()
        client.thread.join()
        client.look_at_all()


def _take_stock(server: Server, adversary: Adversary, ledger: Ledger) -> None:
    for sentence in (
        *remains.found(server.data, server.temporary, adversary.launcher_pids),
        *remains.wrong_in(server.data / "corral.db"),
    ):
        ledger.accuse(sentence)
    ledger.balance(remains.recorded(server.data / "corral.db"))
    entries = [entry for entry in ledger.entries.values() if entry.execution_id]
    ends = [entry.seen for entry in entries if entry.seen and entry.ended]
    _print("submitted", len(ledger.entries))
    _print("sent again", sum(entry.sent - 1 for entry in ledger.entries.values()))
    _print("acknowledged", len(entries))
    _print("answers", Counter(ledger.answers))
    _print("by status", Counter(end["status"] for end in ends))
    _print("by code", Counter(end["termination"]["code"] for end in ends))
    _print("killed", Counter(kill.victim for kill in ledger.kills))
    _print("restarts", adversary.restarts)
    _print("slowest answer", {victim: f"{seconds:.2f} s" for victim, seconds in adversary.slowest.items()})


def _print(name: str, value: object) -> None:
    if isinstance(value, dict):
        value = ", ".join(f"{key} {count}" for key, count in sorted(value.items())) or "none"
    print(f"{name:15} {value}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long processes are killed (default: 60)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="makes the choices repeatable")
    parser.add_argument("--clients", type=int, default=4, help="threads that use the server (default: 4)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
