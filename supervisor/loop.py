"""The supervisor's loop: gather what happened, decide, commit once, act. Nothing is acted on before it is recorded."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from supervisor.agent_digest import AgentDigests
from supervisor.agents import Agent, AgentRegistry
from supervisor.clock import Clock
from supervisor.errors import (
    AgentBroken,
    AgentUnknown,
    AttemptStale,
    ExecutionUnknown,
    InvalidTransition,
    StoreError,
)
from supervisor.machine import outcome
from supervisor.machine.machine import Machine, Message
from supervisor.machine.memo import Memo
from supervisor.machine.reactor import Reactor, Timer
from supervisor.machine.stopper import Reason
from supervisor.models import Claim, Finished, Origin, Progress, Unkillable
from supervisor.scheduler import Slots
from supervisor.states import Cause
from supervisor.store import Store
from supervisor.transaction import Transaction

CANCELED = Reason(Cause.CANCELED, "It was canceled by the client.", "client")
STOPPED = Reason(Cause.STOPPED, "The server was stopped, and the run with it.", "server")

# Claims in one transaction: enough to share its commit, few enough that the API's writes never wait long.
_CLAIMS_PER_STEP = 32

# Of those that are to be tried again, in one transaction: many may be due at the start of a server.
_PUT_IN_LINE_PER_STEP = 500

# After a failed write: the disk may have room again.
_RETRY_SECONDS = 1.0

# After the grace period of a shutdown, for the database to take the last ends.
_LAST_WRITES_SECONDS = 5.0

_log = structlog.get_logger()

Key = tuple[str, int]


@dataclass
class Plan:
    """What one step does once it is recorded. claims: how many were made, whether something is launched or not."""

    claims: int = 0
    launches: list[tuple[Claim, Agent]] = field(default_factory=list)
    stops: list[Key] = field(default_factory=list)
    ended: list[Key] = field(default_factory=list)


class Loop:
    """One thread that owns all decisions about executions."""

    def __init__(
        self,
        store: Store,
        machine: Machine,
        agents: AgentRegistry,
        digests: AgentDigests,
        reactor: Reactor,
        clock: Clock,
        origin: Origin,
        max_running: int,
    ) -> None:
        self._store = store
        self._machine = machine
        self._agents = agents
        self._digests = digests
        self._reactor = reactor
        self._clock = clock
        self._origin = origin
        self._slots = Slots(max_running)
        self._unrecorded: list[Message] = []
        self._stops_begun: set[Key] = set()
        self._look_again = True
        self._is_put_off = False
        self._machine_was_ready = False
        self._draining = False
        self._next_due: Timer | None = None
        self._has_given_up = False
        self._is_leaving = False

    def resume(self, taken_over: Iterable[Memo]) -> None:
        """Count the runs that a predecessor has launched."""
        for memo in taken_over:
            self._slots.take(memo.key, memo.agent_id, memo.concurrency)

    def run(self) -> None:
        """Step until leave() was called, or drain() or shut_down() and no run is left or can be recorded any more."""
        while not (self._is_leaving or (self._draining and (self._slots.empty or self._has_given_up))):
            self.step()

    def step(self, seconds: float | None = None) -> None:
        """Wait for something to happen, at most so long, and deal with all that has happened."""
        self._gather(seconds)
        if self._is_put_off or not (self._unrecorded or self._look_again):
            return
        try:
            plan = self._commit()
        except StoreError as error:
            self._put_off(error)
            return
        self._act(plan)

    def look(self) -> None:
        """The database may hold something new."""
        self._look_again = True

    @property
    def running(self) -> int:
        """How many runs are live."""
        return self._slots.taken

    @property
    def is_recording(self) -> bool:
        """Whether its last write did not fail."""
        return not self._is_put_off

    def leave(self) -> None:
        """Leave the runs as they are to whoever takes over."""
        self._is_leaving = True

    def drain(self) -> None:
        """Launch nothing more; the runs go on."""
        self._draining = True

    def shut_down(self, longest_grace_seconds: float) -> None:
        """Launch nothing more, and stop every run."""
        self._is_leaving = False
        self.drain()
        self._machine.stop_all(STOPPED, longest_grace_seconds)
        self._reactor.call_at(self._clock.monotonic() + longest_grace_seconds + _LAST_WRITES_SECONDS, self._give_up)

    def _give_up(self) -> None:
        """Leave it to the next start to record what has not ended or cannot be recorded."""
        self._has_given_up = True

    def _gather(self, seconds: float | None) -> None:
        self._reactor.wait(0 if self._look_again and not self._is_put_off else seconds)
        if self._machine.ready != self._machine_was_ready:
            self._machine_was_ready = self._machine.ready
            self._look_again = True
        self._unrecorded += self._machine.take_messages()

    def _commit(self) -> Plan:
        plan = Plan()
        slots = self._slots.copy()
        with self._store.transaction() as transaction:
            transaction.check_supervisor(self._origin)
            for message in self._unrecorded:
                self._record(message, transaction, slots, plan)
            plan.stops = [key for key in transaction.cancel_requested() if key not in self._stops_begun]
            next_due_seconds = transaction.put_in_line(_PUT_IN_LINE_PER_STEP)
            self._claim(transaction, slots, plan)
        self._look_in(next_due_seconds)
        self._look_again = plan.claims == _CLAIMS_PER_STEP
        self._unrecorded.clear()
        self._slots = slots
        return plan

    def _record(self, message: Message, transaction: Transaction, slots: Slots, plan: Plan) -> None:
        key = (message.execution_id, message.attempt)
        if isinstance(message, Progress):
            transaction.progress(*key, message.data, message.offset)
        elif isinstance(message, Unkillable):
            transaction.unkillable(*key, message.since)
        elif isinstance(message, Finished):
            try:
                transaction.end(*key, self._origin, message.outcome)
            except (ExecutionUnknown, InvalidTransition, AttemptStale) as error:
                # Somebody else has changed the database: there is nothing to record, now or later.
                _log.error("end not recorded", execution=key[0], attempt=key[1], error=str(error))
            slots.give_back(key)
            plan.ended.append(key)

    def _claim(self, transaction: Transaction, slots: Slots, plan: Plan) -> None:
        while self._may_launch(slots) and plan.claims < _CLAIMS_PER_STEP:
            claim = transaction.claim(slots.full_agents())
            if claim is None:
                return
            plan.claims += 1
            agent = self._begin(claim, transaction)
            if agent:
                slots.take((claim.execution_id, claim.attempt), agent.id, agent.manifest.concurrency)
                plan.launches.append((claim, agent))

    def _begin(self, claim: Claim, transaction: Transaction) -> Agent | None:
        """Record the attempt, and its end too if its agent is no longer there to be run."""
        try:
            agent = self._agents.find(claim.agent_id).lowered(claim.limits)
            digest = self._digests.digest(agent.folder)
        except (AgentUnknown, AgentBroken, OSError) as error:
            transaction.start_attempt(claim, self._origin)
            failed = outcome.launch_failed(str(error), self._clock.now())
            transaction.end(claim.execution_id, claim.attempt, self._origin, failed)
            return None
        retry, launcher = agent.manifest.retry, self._machine.launcher_name
        transaction.start_attempt(claim, self._origin, digest, agent.limits, retry, launcher)
        return agent

    def _may_launch(self, slots: Slots) -> bool:
        return self._machine.ready and not self._draining and slots.free > 0

    def _act(self, plan: Plan) -> None:
        for key in plan.ended:
            self._machine.release(*key)
            self._stops_begun.discard(key)
        for claim, agent in plan.launches:
            self._machine.start(claim, agent)
        for key in plan.stops:
            self._stops_begun.add(key)
            self._machine.stop(*key, CANCELED)

    def _look_in(self, seconds: float | None) -> None:
        """Look at the database when the next attempt is due. None: none is."""
        if self._next_due:
            self._next_due.cancel()
            self._next_due = None
        if seconds is not None:
            self._next_due = self._reactor.call_at(self._clock.monotonic() + seconds, self.look)

    def _put_off(self, error: StoreError) -> None:
        """Keep what is not recorded, and try no write for a while; nothing was acted on. The runs themselves go on."""
        _log.error("write failed", error=str(error), waiting=len(self._unrecorded))
        self._is_put_off = True
        self._reactor.call_at(self._clock.monotonic() + _RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._is_put_off = False
        self._look_again = True
