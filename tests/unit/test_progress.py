"""Progress, thinned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.machine.progress import ProgressGate
from supervisor.machine.reactor import Reactor
from tests.helpers.clock import FakeClock

BURST = 100


class Gate:
    """A gate, and what it has passed on."""

    def __init__(self, reactor: Reactor, clock: FakeClock) -> None:
        self.told: list[str] = []
        self.gate = ProgressGate(self._take, reactor, clock)
        self._reactor = reactor
        self._clock = clock

    def offer(self, *texts: object) -> None:
        for text in texts:
            self.gate.offer(str(text), len(str(text)))

    def _take(self, text: str, offset: int) -> None:
        assert offset == len(text)
        self.told.append(text)

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        self._reactor.wait(0)


@pytest.fixture
def gate(reactor: Reactor, clock: FakeClock) -> Gate:
    return Gate(reactor, clock)


def texts(numbers: range) -> list[str]:
    return [str(number) for number in numbers]


def test_progress_up_to_a_burst_is_passed_on_at_once(gate: Gate) -> None:
    gate.offer(*range(BURST))
    assert gate.told == texts(range(BURST))


def test_progress_beyond_a_burst_is_held_and_the_latest_passed_on_a_second_later(gate: Gate) -> None:
    gate.offer(*range(BURST + 10))
    gate.pass_time(0.99)
    assert gate.told == texts(range(BURST))
    gate.pass_time(0.02)
    assert gate.told == [*texts(range(BURST)), str(BURST + 9)]
    gate.pass_time(60)
    assert len(gate.told) == BURST + 1


def test_progress_after_quiet_seconds_has_one_more_for_each(gate: Gate) -> None:
    gate.offer(*range(BURST))
    gate.pass_time(3.5)
    gate.offer("a", "b", "c", "d")
    assert gate.told[BURST:] == ["a", "b", "c"]
    gate.gate.end()
    assert gate.told[BURST:] == ["a", "b", "c", "d"]


def test_progress_end_passes_on_what_is_held_once_and_nothing_later(gate: Gate) -> None:
    gate.offer(*range(BURST + 1))
    gate.gate.end()
    gate.gate.end()
    gate.pass_time(60)
    assert gate.told == texts(range(BURST + 1))


def test_progress_end_with_nothing_held_passes_on_nothing(gate: Gate) -> None:
    gate.offer("a")
    gate.gate.end()
    assert gate.told == ["a"]


@pytest.mark.parametrize("rate", [3, 10, 64])
def test_progress_in_a_flood_is_passed_on_once_a_second(gate: Gate, rate: int) -> None:
    gate.offer(*range(BURST))
    seconds = 20
    for number in range(seconds * rate):
        gate.pass_time(1 / rate)
        gate.offer(number)
    assert seconds - 1 <= len(gate.told) - BURST <= seconds + 1


@pytest.mark.parametrize("several", [2, 5])
def test_progress_told_several_times_each_second_is_passed_on_once_a_second(gate: Gate, several: int) -> None:
    gate.offer(*range(BURST))
    seconds = 20
    for second in range(seconds):
        gate.pass_time(1)
        gate.offer(*(f"{second}.{number}" for number in range(several)))
    assert seconds - 1 <= len(gate.told) - BURST <= seconds + 1
    gate.gate.end()
    assert gate.told[-1] == f"{seconds - 1}.{several - 1}"


@given(pauses=st.lists(st.floats(0, 2), max_size=300))
def test_progress_in_any_rhythm_stays_in_order_within_the_rate_and_ends_with_the_latest(pauses: list[float]) -> None:
    clock = FakeClock()
    reactor = Reactor(clock)
    gate = Gate(reactor, clock)
    for number, pause in enumerate(pauses):
        gate.pass_time(pause)
        gate.offer(number)
    gate.pass_time(2)
    reactor.close()
    numbers = [int(text) for text in gate.told]
    assert numbers == sorted(set(numbers))
    assert numbers[-1:] == list(range(len(pauses)))[-1:]
    assert len(numbers) <= BURST + sum(pauses) + 3
