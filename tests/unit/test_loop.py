"""One step of the loop: gather, decide, commit once, act. Only the machine is not real: it keeps the orders."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from supervisor.agent_digest import AgentDigests
from supervisor.agents import Agent, AgentRegistry
from supervisor.errors import Superseded
from supervisor.limits import DEFAULTS, Limits
from supervisor.loop import CANCELED, STOPPED, Loop
from supervisor.machine.machine import Message
from supervisor.machine.memo import Memo
from supervisor.machine.reactor import Reactor
from supervisor.machine.stopper import Reason
from supervisor.models import Claim, Finished, Origin, Progress, Unkillable
from supervisor.recovery import take_over
from supervisor.states import Cause, Status
from supervisor.store import Store
from tests.helpers.clock import FakeClock
from tests.helpers.wal import commits
from tests.unit.builders import ORIGIN, accept_writes, an_outcome, contents, refuse_writes
from tests.unit.builders import submit as submit_to

MAX_RUNNING = 3
CLAIMS_PER_STEP = 32


class FakeMachine:
    """Keeps each order, with the status that the execution had in the database when the order came."""

    def __init__(self, store: Store, reactor: Reactor) -> None:
        self._store = store
        self._reactor = reactor
        self._messages: list[Message] = []
        self.ready = True
        self.launcher_name = "launcher"
        self.orders: list[tuple[str, str, Status]] = []
        self.limits: list[Limits] = []
        self.attempts: list[int] = []
        self.stopped: list[tuple[Reason, float]] = []

    def start(self, claim: Claim, agent: Agent) -> None:
        assert agent.id == claim.agent_id
        self.limits.append(agent.limits)
        self.attempts.append(claim.attempt)
        self._keep("start", claim.execution_id)

    def stop(self, execution_id: str, attempt: int, reason: Reason) -> None:
        assert (attempt, reason) == (1, CANCELED)
        self._keep("stop", execution_id)

    def stop_all(self, reason: Reason, longest_grace_seconds: float) -> None:
        self.stopped.append((reason, longest_grace_seconds))

    def release(self, execution_id: str, _attempt: int) -> None:
        self._keep("release", execution_id)

    def take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def tell(self, *messages: Message) -> None:
        """Have these messages come out of the next wait."""
        self._reactor.call_at(0, lambda: self._messages.extend(messages))

    def take_orders(self, what: str) -> list[str]:
        """Return the ids of the executions in the orders of one kind since the last call."""
        taken = [execution_id for verb, execution_id, _ in self.orders if verb == what]
        self.orders = [order for order in self.orders if order[0] != what]
        return taken

    def _keep(self, verb: str, execution_id: str) -> None:
        self.orders.append((verb, execution_id, self._store.get(execution_id).status))


class Setup:
    """A loop with all that is around it."""

    def __init__(self, root: Path, store: Store, reactor: Reactor, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.machine = FakeMachine(store, reactor)
        self.agents = root / "agents"
        self._registry = AgentRegistry(self.agents)
        self._reactor = reactor
        self.loop = self.new_loop(MAX_RUNNING)
        self.write_agent("a")

    def new_loop(self, max_running: int) -> Loop:
        take_over(self.store, ORIGIN)
        digests = AgentDigests(self.clock)
        return Loop(self.store, self.machine, self._registry, digests, self._reactor, self.clock, ORIGIN, max_running)

    def write_agent(self, name: str, text: str = "") -> None:
        folder = self.agents / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.toml").write_text(f'command = ["true"]\n{text}')

    def submit(self, agent: str = "a", priority: int = 50) -> str:
        """Record a submission and let the loop know."""
        execution_id = submit_to(self.store, self.agent_id(agent), priority)
        self.loop.look()
        return execution_id

    def agent_id(self, agent: str) -> str:
        return self._registry.find(agent).id

    def limits(self, execution_id: str) -> Limits:
        """Return the limits that an execution shows."""
        return Limits.model_validate_json(self.store.get(execution_id).limits or "")

    def step(self) -> None:
        self.loop.step(0)

    def start(self, agent: str = "a") -> str:
        """Submit an execution and let it be started."""
        execution_id = self.submit(agent)
        self.step()
        assert self.machine.take_orders("start") == [execution_id]
        return execution_id

    def finish(self, *execution_ids: str, cause: Cause = Cause.EXITED_OK) -> None:
        attempts = [(execution_id, self.store.get(execution_id).attempt) for execution_id in execution_ids]
        self.machine.tell(*(Finished(*attempt, an_outcome(cause)) for attempt in attempts))

    def cancel(self, execution_id: str) -> None:
        self.store.cancel(execution_id)
        self.loop.look()

    def status(self, execution_id: str) -> Status:
        return self.store.get(execution_id).status


@pytest.fixture
def setup(tmp_path: Path, store: Store, reactor: Reactor, clock: FakeClock) -> Setup:
    return Setup(tmp_path, store, reactor, clock)


# -- launching ---------------------------------------------------------------------------------------------------------


def test_step_waiting_one_is_running_in_the_database_before_it_is_started(setup: Setup) -> None:
    execution_id = setup.submit()
    setup.step()
    assert setup.machine.orders == [("start", execution_id, Status.RUNNING)]


def test_step_starts_in_order_and_no_more_than_max_running(setup: Setup) -> None:
    low, first, second, high = (setup.submit(priority=priority) for priority in (1, 50, 50, 99))
    setup.step()
    assert setup.machine.take_orders("start") == [high, first, second]
    setup.loop.look()
    setup.step()
    assert setup.machine.take_orders("start") == []
    setup.finish(first)
    setup.step()
    assert setup.machine.take_orders("start") == [low]


def test_step_agent_at_its_limit_waits_and_others_pass_it(setup: Setup) -> None:
    setup.write_agent("one", "concurrency = 1")
    first, second = setup.submit("one", 99), setup.submit("one", 98)
    other = setup.submit("a", 1)
    setup.step()
    assert setup.machine.take_orders("start") == [first, other]
    assert setup.status(second) is Status.PENDING
    setup.finish(first, cause=Cause.SIGNALED)
    setup.step()
    assert setup.machine.take_orders("start") == [second]


def test_step_machine_that_is_not_ready_is_given_nothing_until_it_is(setup: Setup) -> None:
    setup.machine.ready = False
    execution_id = setup.submit()
    setup.step()
    assert setup.status(execution_id) is Status.PENDING
    setup.machine.ready = True
    setup.step()
    assert setup.machine.take_orders("start") == [execution_id]


def test_step_claims_a_bounded_number_and_goes_on_in_the_next_step(setup: Setup) -> None:
    setup.loop = setup.new_loop(max_running=1000)
    waiting = [setup.submit() for _ in range(CLAIMS_PER_STEP + 3)]
    setup.step()
    assert setup.machine.take_orders("start") == waiting[:CLAIMS_PER_STEP]
    setup.loop.step(600)
    assert setup.machine.take_orders("start") == waiting[CLAIMS_PER_STEP:]


def test_step_attempt_has_its_origin_and_the_agents_digest_on_record(setup: Setup, sql: sqlite3.Connection) -> None:
    setup.start()
    row = sql.execute("SELECT node, boot, epoch, agent_digest FROM attempts").fetchone()
    assert tuple(row)[:3] == (ORIGIN.node, ORIGIN.boot, ORIGIN.epoch)
    assert row["agent_digest"] == AgentDigests(setup.clock).digest(setup.agents / "a")


@pytest.mark.parametrize("manifest", [None, "no TOML", 'command = ["true"]\nunknown = 1'])
def test_step_agent_gone_or_broken_since_the_submit_fails_that_execution_alone(
    setup: Setup, manifest: str | None
) -> None:
    setup.write_agent("b")
    of_b, of_a = setup.submit("b"), setup.submit("a")
    file = setup.agents / "b" / "agent.toml"
    file.unlink()
    if manifest is not None:
        file.write_text(manifest)
    setup.step()
    assert setup.machine.take_orders("start") == [of_a]
    execution = setup.store.get(of_b)
    assert (execution.status, execution.attempt) == (Status.FAILED, 1)
    assert json.loads(execution.termination or "")["code"] == "LAUNCH_FAILED"
    assert (execution.error_log or "").startswith("The agent could not be started: cannot ")


def test_step_fails_a_bounded_number_of_an_agent_that_is_gone_and_goes_on_in_the_next_step(setup: Setup) -> None:
    setup.write_agent("b")
    gone = [setup.submit("b") for _ in range(CLAIMS_PER_STEP + 3)]
    waiting = setup.submit("a")
    (setup.agents / "b" / "agent.toml").unlink()
    setup.step()
    assert [setup.status(execution_id) for execution_id in gone].count(Status.FAILED) == CLAIMS_PER_STEP
    setup.loop.step(600)
    assert {setup.status(execution_id) for execution_id in gone} == {Status.FAILED}
    assert setup.machine.take_orders("start") == [waiting]


# -- ends and progress -------------------------------------------------------------------------------------------------


def test_step_end_is_in_the_database_before_the_launcher_is_told_to_release(setup: Setup) -> None:
    execution_id = setup.start()
    setup.finish(execution_id)
    for _ in range(3):
        setup.step()
        setup.loop.look()
    assert setup.machine.orders == [("release", execution_id, Status.COMPLETED)]


def test_step_records_all_that_was_told_in_order(setup: Setup, sql: sqlite3.Connection) -> None:
    first, second = setup.start(), setup.start()
    setup.machine.tell(Progress(first, 1, "1"), Progress(second, 1, "2"), Progress(first, 1, "3"))
    setup.finish(first, second)
    setup.step()
    assert setup.machine.take_orders("release") == [first, second]
    assert (setup.store.get(first).progress, setup.store.get(second).progress) == ("3", "2")
    kinds = [row["kind"] for row in sql.execute("SELECT kind FROM events ORDER BY id DESC LIMIT 5")]
    assert kinds == ["status"] * 2 + ["progress"] * 3


def test_step_whatever_it_has_to_record_is_one_commit(setup: Setup, path: Path) -> None:
    running = [setup.start(), setup.start(), setup.start()]
    waiting = [setup.submit(), setup.submit()]
    setup.cancel(running[2])
    setup.machine.tell(Progress(running[2], 1, "1"))
    setup.finish(*running[:2])
    before = commits(path)
    setup.step()
    assert commits(path) - before == 1
    assert setup.machine.take_orders("start") == waiting
    assert setup.machine.take_orders("stop") == [running[2]]
    assert setup.machine.take_orders("release") == running[:2]


def test_step_nothing_happened_does_not_touch_the_database(setup: Setup, sql: sqlite3.Connection) -> None:
    setup.step()
    sql.execute("ALTER TABLE executions RENAME TO gone")
    setup.step()
    setup.loop.look()
    with capture_logs() as logs:
        setup.step()
    assert [entry["event"] for entry in logs] == ["write failed"]


def test_step_launches_with_the_lowest_of_submission_and_manifest_and_records_that(setup: Setup) -> None:
    setup.write_agent("b", "limits.processes = 20\nlimits.open_files = 90")
    limits = DEFAULTS.model_copy(update={"timeout_seconds": 5.0, "processes": 9, "open_files": 100})
    execution_id = submit_to(setup.store, setup.agent_id("b"), limits=limits)
    assert setup.limits(execution_id) == limits
    setup.loop.look()
    setup.step()
    lowest = limits.model_copy(update={"open_files": 90})
    assert setup.machine.limits == [lowest]
    assert setup.limits(execution_id) == lowest


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_step_cancel_request_stops_the_run_once(setup: Setup) -> None:
    execution_id = setup.start()
    setup.cancel(execution_id)
    for _ in range(3):
        setup.step()
        setup.loop.look()
    assert setup.machine.orders == [("stop", execution_id, Status.CANCEL_REQUESTED)]
    setup.finish(execution_id, cause=Cause.CANCELED)
    setup.step()
    assert setup.status(execution_id) is Status.CANCELED


def test_step_run_that_ended_before_its_cancel_was_seen_is_not_stopped(setup: Setup) -> None:
    execution_id = setup.start()
    setup.cancel(execution_id)
    setup.finish(execution_id)
    setup.step()
    assert setup.machine.take_orders("stop") == []
    assert setup.status(execution_id) is Status.COMPLETED


def test_step_waiting_one_that_was_canceled_is_never_started(setup: Setup) -> None:
    setup.cancel(setup.submit())
    setup.step()
    assert setup.machine.orders == []


def test_step_unkillable_run_is_recorded_stays_live_and_keeps_its_slot(setup: Setup) -> None:
    stuck = setup.start()
    others = [setup.submit() for _ in range(MAX_RUNNING)]
    setup.machine.tell(Unkillable(stuck, 1, 5))
    setup.step()
    assert setup.store.unkillable() == [(stuck, 5)]
    assert setup.status(stuck) is Status.RUNNING
    assert len(setup.machine.take_orders("start")) == MAX_RUNNING - 1
    setup.finish(stuck)
    setup.step()
    assert setup.store.unkillable() == []
    assert setup.machine.take_orders("start") == [others[-1]]


# -- a database that takes no writes -----------------------------------------------------------------------------------


@pytest.fixture
def broken(setup: Setup, sql: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """The database, to be broken and repaired; the operator must be told."""
    with capture_logs() as logs:
        yield sql
    assert {entry["event"] for entry in logs} == {"write failed"}


def test_step_that_cannot_commit_acts_on_nothing_and_tries_again_after_a_second(
    setup: Setup, broken: sqlite3.Connection
) -> None:
    running, stopping = setup.start(), setup.start()
    waiting = setup.submit()
    setup.cancel(stopping)
    refuse_writes(broken)
    setup.finish(running)
    setup.step()
    assert not setup.loop.is_recording
    assert setup.machine.orders == []
    assert [setup.status(execution_id) for execution_id in (running, waiting)] == [Status.RUNNING, Status.PENDING]
    accept_writes(broken)
    setup.clock.advance(0.9)
    setup.step()
    assert setup.machine.orders == []
    setup.clock.advance(0.2)
    setup.step()
    assert setup.machine.orders == [
        ("release", running, Status.COMPLETED),
        ("start", waiting, Status.RUNNING),
        ("stop", stopping, Status.CANCEL_REQUESTED),
    ]
    assert setup.loop.is_recording


@pytest.mark.parametrize("recorded_before_it_fails", [0, 1, MAX_RUNNING - 1])
def test_step_that_cannot_commit_keeps_its_slots(
    setup: Setup, broken: sqlite3.Connection, recorded_before_it_fails: int
) -> None:
    setup.write_agent("a", f"concurrency = {MAX_RUNNING}")
    waiting = [setup.submit() for _ in range(MAX_RUNNING + 1)]
    refuse_writes(broken, when=f"(SELECT count(*) FROM attempts) >= {recorded_before_it_fails}")
    for _ in range(3):
        setup.step()
        setup.clock.advance(1.1)
    assert setup.machine.orders == []
    accept_writes(broken)
    setup.step()
    assert setup.machine.take_orders("start") == waiting[:MAX_RUNNING]


def test_step_in_the_second_after_a_failed_write_keeps_what_comes_and_does_not_try(
    setup: Setup, broken: sqlite3.Connection
) -> None:
    first, second = setup.start(), setup.start()
    refuse_writes(broken)
    setup.finish(first)
    setup.step()
    accept_writes(broken)
    for number in range(10):
        setup.clock.advance(0.05)
        setup.machine.tell(Progress(second, 1, str(number)))
        setup.loop.look()
        setup.step()
    setup.finish(second)
    setup.step()
    assert setup.machine.orders == []
    setup.clock.advance(1)
    setup.step()
    assert setup.machine.take_orders("release") == [first, second]
    assert setup.store.get(second).progress == "9"


# -- one supervisor after another --------------------------------------------------------------------------------------


def test_step_supervisor_that_another_one_has_taken_over_from_records_and_starts_nothing(
    setup: Setup, sql: sqlite3.Connection
) -> None:
    execution_id = setup.start()
    waiting = setup.submit()
    take_over(setup.store, Origin(ORIGIN.node, ORIGIN.boot, "next"))
    setup.finish(execution_id)
    before = contents(sql)
    for _ in range(2):
        with pytest.raises(Superseded):
            setup.step()
    assert contents(sql) == before
    assert setup.machine.orders == []
    assert (setup.status(execution_id), setup.status(waiting)) == (Status.RUNNING, Status.PENDING)


def test_resume_counts_the_runs_that_were_taken_over(setup: Setup) -> None:
    setup.write_agent("one", "concurrency = 1")
    running = setup.start("one")
    setup.loop = setup.new_loop(MAX_RUNNING)
    setup.loop.resume([Memo(running, 1, setup.agent_id("one"), 1, "trusted", "frames", 5, DEFAULTS, 0.0)])
    same = setup.submit("one", priority=99)
    others = [setup.submit() for _ in range(MAX_RUNNING)]
    setup.step()
    assert setup.machine.take_orders("start") == others[: MAX_RUNNING - 1]
    setup.finish(running)
    setup.step()
    assert setup.machine.take_orders("start") == [same]
    assert setup.status(running) is Status.COMPLETED


def test_leave_ends_run_and_leaves_the_runs_as_they_are(setup: Setup) -> None:
    running = setup.start()
    setup.loop.leave()
    setup.loop.run()
    assert setup.status(running) is Status.RUNNING
    assert setup.machine.stopped == []


# -- shutting down -----------------------------------------------------------------------------------------------------


def test_shut_down_stops_every_run_launches_nothing_more_and_run_returns_when_all_are_recorded(setup: Setup) -> None:
    running = setup.start()
    setup.loop.shut_down(1.5)
    assert setup.machine.stopped == [(STOPPED, 1.5)]
    waiting = setup.submit()
    setup.step()
    assert setup.status(waiting) is Status.PENDING
    setup.finish(running, cause=Cause.STOPPED)
    setup.loop.run()
    assert setup.machine.orders == [("release", running, Status.FAILED)]
    assert setup.status(waiting) is Status.PENDING


def test_drain_launches_nothing_more_lets_the_runs_go_on_and_run_returns_when_all_are_recorded(setup: Setup) -> None:
    running = setup.start()
    setup.loop.drain()
    waiting = setup.submit()
    setup.step()
    assert (setup.machine.orders, setup.machine.stopped, setup.loop.running) == ([], [], 1)
    setup.finish(running)
    setup.loop.run()
    assert setup.machine.orders == [("release", running, Status.COMPLETED)]
    assert setup.status(waiting) is Status.PENDING


def test_shut_down_with_nothing_running_ends_at_once(setup: Setup) -> None:
    setup.loop.shut_down(0)
    setup.loop.run()
    assert setup.machine.orders == []


def test_shut_down_after_a_failed_write_still_records_the_end(setup: Setup, broken: sqlite3.Connection) -> None:
    running = setup.start()
    refuse_writes(broken)
    setup.finish(running)
    setup.step()
    setup.loop.shut_down(0)
    accept_writes(broken)
    setup.clock.advance(1.1)
    setup.loop.run()
    assert setup.status(running) is Status.COMPLETED


def test_shut_down_while_the_database_takes_no_writes_ends_all_the_same(
    setup: Setup, broken: sqlite3.Connection
) -> None:
    running = setup.start()
    refuse_writes(broken)
    setup.finish(running)
    setup.step()
    setup.loop.shut_down(2.0)
    setup.clock.advance(10.0)
    setup.loop.run()
    accept_writes(broken)
    assert setup.status(running) is Status.RUNNING


def test_step_end_that_can_never_be_recorded_gives_its_slot_back_and_stops_nobody(
    setup: Setup, sql: sqlite3.Connection
) -> None:
    meddled, other = setup.start(), setup.start()
    sql.execute("UPDATE attempts SET epoch = 'other' WHERE execution_seq = 1")
    setup.finish(meddled, other)
    with capture_logs() as logs:
        setup.step()
    assert [entry["event"] for entry in logs] == ["end not recorded"]
    assert (setup.status(meddled), setup.status(other)) == (Status.RUNNING, Status.COMPLETED)
    assert setup.machine.take_orders("release") == [meddled, other]
    for _ in range(MAX_RUNNING):
        setup.start()
