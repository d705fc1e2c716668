"""Who may run next: the global number of runs and each agent's own limit. Order within that is the store's claim."""

from collections import Counter


class Slots:
    """The runs that are live, and how many more there may be."""

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._agent_of: dict[tuple[str, int], str] = {}
        self._running: Counter[str] = Counter()
        self._concurrency: dict[str, int | None] = {}

    @property
    def taken(self) -> int:
        return len(self._agent_of)

    @property
    def free(self) -> int:
        return self._max_running - self.taken

    @property
    def empty(self) -> bool:
        return not self._agent_of

    def take(self, key: tuple[str, int], agent_id: str, concurrency: int | None) -> None:
        """An attempt is going to be launched. concurrency: runs its agent may have at once, None for no own limit."""
        self._agent_of[key] = agent_id
        self._running[agent_id] += 1
        self._concurrency[agent_id] = concurrency

    def give_back(self, key: tuple[str, int]) -> None:
        """An attempt has ended."""
        agent_id = self._agent_of.pop(key)
        self._running[agent_id] -= 1
        if not self._running[agent_id]:
            del self._running[agent_id], self._concurrency[agent_id]

    def full_agents(self) -> list[str]:
        """Return the ids of agents that run as often as they may."""
        limits = self._concurrency.items()
        return [agent_id for agent_id, limit in limits if limit is not None and self._running[agent_id] >= limit]

    def copy(self) -> "Slots":
        """Return an independent copy, for changes that a failed commit must undo."""
        other = Slots(self._max_running)
        other._agent_of = self._agent_of.copy()
        other._running = self._running.copy()
        other._concurrency = self._concurrency.copy()
        return other
