"""The agents of a chaos run: what each does, how it may end, and its folder."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CODE = Path(__file__).parent / "agent" / "agent.py"
_DONE = frozenset({"EXITED_OK"})


@dataclass(frozen=True)
class Kind:
    """One agent. does: function of agent/agent.py. ends: codes it comes to if nobody interferes. share: of submits."""

    name: str
    does: str
    ends: frozenset[str] = _DONE
    share: int = 2
    tier: str = "sandboxed"
    timeout_seconds: float = 60
    attempts: int = 1

    def manifest(self, witness: Path) -> str:
        """Return its agent.toml. Args: witness: the named pipe."""
        lines = [
            f'entrypoint = "agent:{self.does}"',
            f"timeout_seconds = {self.timeout_seconds}",
            "grace_seconds = 0.2",
            f'sandbox.tier = "{self.tier}"',
            f'env.WITNESS = "{witness}"',
        ]
        if self.tier != "trusted":
            lines.append(f'sandbox.read_only = ["{witness.parent}"]')
        if self.attempts > 1:
            lines.append(f'retry = {{ max_attempts = {self.attempts}, backoff_seconds = 0.1, on = ["LOST"] }}')
        return "\n".join(lines) + "\n"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("quick", "quick", share=8),
        Kind("quick-trusted", "quick", share=4, tier="trusted"),
        Kind("slow", "slow", share=6),
        Kind("slow-trusted", "slow", share=3, tier="trusted"),
        Kind("slow-again", "slow", share=6, attempts=4),
        Kind("large", "large"),
        Kind("floods-logs", "floods_logs", share=1),
        Kind("floods-progress", "floods_progress", share=1),
        Kind("floods-result", "floods_result", frozenset({"RESULT_TOO_LARGE"}), share=1),
        Kind("forks", "forks"),
        Kind("forks-trusted", "forks", tier="trusted"),
        Kind("keeps", "keeps"),
        Kind("fails", "fails", frozenset({"AGENT_ERROR"}), share=1),
        Kind("exits", "exits", frozenset({"EXIT_NONZERO"}), share=1),
        Kind("says-nothing", "says_nothing", frozenset({"NO_RESULT"}), share=1),
        Kind("crashes", "crashes", frozenset({"SIGNALED"}), share=1),
        Kind("crashes-trusted", "crashes", frozenset({"SIGNALED"}), share=1, tier="trusted"),
        Kind("stubborn", "stubborn", frozenset({"WALL_TIME"}), timeout_seconds=1.0),
        Kind("stubborn-trusted", "stubborn", frozenset({"WALL_TIME"}), tier="trusted", timeout_seconds=1.0),
    )
}


def write_agents(folder: Path, witness: Path) -> None:
    """Write the folder of each agent, readable by the users that sandboxes have."""
    for kind in KINDS.values():
        place = folder / kind.name
        place.mkdir(parents=True)
        shutil.copy(_CODE, place / "agent.py")
        (place / "agent.toml").write_text(kind.manifest(witness))


def expected_result(kind: Kind, nonce: str) -> dict[str, Any] | None:
    """Return the result that an execution has if it completes; None if it cannot."""
    if kind.ends != _DONE:
        return None
    digest = hashlib.sha256(nonce.encode()).hexdigest()
    filler = {"filler": digest * 5000} if kind.does == "large" else {}
    return {"nonce": nonce, "digest": digest, **filler}
