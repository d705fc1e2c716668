"""How many may run."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from supervisor.scheduler import Slots

MAX_RUNNING = 5


class SlotsModel(RuleBasedStateMachine):
    """Slots against a list of what runs."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(MAX_RUNNING)
        self.running: dict[tuple[str, int], str] = {}
        self.limits: dict[str, int | None] = {}
        self.started = 0

    @precondition(lambda self: len(self.running) < MAX_RUNNING)
    @rule(target=keys, agent=st.sampled_from("ab"), concurrency=st.none() | st.integers(1, 3))
    def take(self, agent: str, concurrency: int | None) -> tuple[str, int]:
        self.started += 1
        key = (f"execution-{self.started}", 1)
        self.slots.take(key, agent, concurrency)
        self.running[key] = agent
        self.limits[agent] = concurrency
        return key

    @rule(key=consumes(keys))
    def give_back(self, key: tuple[str, int]) -> None:
        self.slots.give_back(key)
        del self.running[key]

    @rule()
    def change_a_copy(self) -> None:
        copy = self.slots.copy()
        copy.take(("copy", 1), "a", 1)
        assert "a" in copy.full_agents()
        for key in self.running:
            copy.give_back(key)

    @rule()
    def go_on_with_a_copy(self) -> None:
        self.slots = self.slots.copy()

    @invariant()
    def counts_what_runs(self) -> None:
        assert self.slots.free == MAX_RUNNING - len(self.running)
        assert self.slots.empty == (not self.running)

    @invariant()
    def full_agents_are_those_at_their_latest_limit(self) -> None:
        count = Counter(self.running.values())
        limits = {agent: self.limits[agent] for agent in count}
        full = {agent for agent, limit in limits.items() if limit is not None and count[agent] >= limit}
        assert set(self.slots.full_agents()) == full


TestSlots = SlotsModel.TestCase


def test_slots_give_back_what_was_not_taken_is_an_error() -> None:
    with pytest.raises(KeyError):
        Slots(1).give_back(("execution", 1))
