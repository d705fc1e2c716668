"""Executions: submit, look at, cancel, read what they printed."""

import codecs
import re
from uuid import UUID

import falcon

from api.errors import InvalidRequest
from api.idempotency import read_once
from api.schemas import RunRequest, execution_json, input_text, lowered_limits, read_body
from supervisor.agents import AgentRegistry
from supervisor.errors import AttemptUnknown, ExecutionUnknown, SandboxUnavailable
from supervisor.idempotency import Once
from supervisor.isolation import Bulletin
from supervisor.logs import STREAMS, Logs, Slice
from supervisor.models import Execution, Submission, new_execution_id
from supervisor.nudge import Nudger
from supervisor.states import FINAL
from supervisor.store import Store

_LOG_BYTES = 64 << 10
_MAX_LOG_BYTES = 1 << 20


class ExecutionRun:
    """POST /executions/run"""

    def __init__(self, store: Store, agents: AgentRegistry, nudger: Nudger, bulletin: Bulletin) -> None:
        self._store = store
        self._agents = agents
        self._bulletin = bulletin
        self._nudger = nudger

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        """Record an execution, once for each key; the answer is sent after it is on disk."""
        body = read_body(request, RunRequest)
        once = read_once(request, body)
        execution_id, is_replay = self._record(body, once)
        if is_replay:
            response.set_header("Idempotent-Replayed", "true")
        # Also for an earlier one: whoever recorded it may have died before this.
        self._nudger.nudge()
        response.status = falcon.HTTP_202
        response.location = f"/executions/{execution_id}"
        # The contract's word for PENDING in this one answer.
        response.media = {"execution_id": execution_id, "status": "QUEUED"}

    def _record(self, body: RunRequest, once: Once | None) -> tuple[str, bool]:
        """Return the id of the execution, and whether it was recorded before under the same key."""
        # Before anything else is looked at: what was accepted once is not refused later.
        earlier = self._store.recorded_for(once) if once else None
        if earlier:
            return earlier, True
        submission = self._submission(body)
        execution_id = self._store.enqueue(submission, once)
        return execution_id, execution_id != submission.execution_id

    def _submission(self, body: RunRequest) -> Submission:
        """Return what is to be recorded. Raises CorralError, InvalidRequest: it cannot be accepted."""
        agent = self._agents.find(body.agent_id)
        refusal = self._bulletin.canary().refusal(agent.manifest.sandbox.tier)
        if refusal:
            raise SandboxUnavailable(f"cannot run agent {agent.name!r}: {refusal}")
        return Submission(
            execution_id=new_execution_id(),
            agent_id=agent.id,
            agent_name=agent.name,
            priority=agent.manifest.priority,
            payload=input_text(body.input),
            limits=lowered_limits(body, agent),
        )


class ExecutionItem:
    """GET /executions/{execution_id}"""

    def __init__(self, store: Store) -> None:
        self._store = store

    def on_get(self, _request: falcon.Request, response: falcon.Response, execution_id: str) -> None:
        """Return the execution as it is on disk."""
        response.content_type = falcon.MEDIA_JSON
        response.data = execution_json(find(self._store, execution_id))

    on_head = on_get


class Cancellation:
    """POST /executions/{execution_id}/cancel"""

    def __init__(self, store: Store, nudger: Nudger) -> None:
        self._store = store
        self._nudger = nudger

    def on_post(self, _request: falcon.Request, response: falcon.Response, execution_id: str) -> None:
        """Ask for the end of an execution; one that has ended is answered with how it ended."""
        execution_id = _canonical(execution_id)
        before = self._store.cancel(execution_id)
        if before in FINAL:
            response.media = {"status": before.lower(), "execution_id": execution_id}
            return
        self._nudger.nudge()
        response.status = falcon.HTTP_202
        response.media = {"status": "cancel_requested", "execution_id": execution_id}


class ExecutionLogs:
    """GET /executions/{execution_id}/logs?attempt=&stream=&offset=&limit="""

    def __init__(self, store: Store, logs: Logs) -> None:
        self._store = store
        self._logs = logs

    def on_get(self, request: falcon.Request, response: falcon.Response, execution_id: str) -> None:
        """Return a part of one stream; "next_offset" is where to read on."""
        stream = request.get_param("stream", default="stdout")
        if stream not in STREAMS:
            raise InvalidRequest([{"field": "stream", "detail": f"must be one of {', '.join(STREAMS)}"}])
        offset = _integer(request, "offset", 0, 0, 1 << 62)
        limit = _integer(request, "limit", _LOG_BYTES, 1, _MAX_LOG_BYTES)
        execution = find(self._store, execution_id)
        attempt = wanted_attempt(request, execution)
        ended = execution.has_ended(attempt)
        part = self._logs.read(execution.execution_id, attempt, stream, offset, limit)
        if not part.size:
            find(self._store, execution_id)  # what was removed just now has not printed nothing
        text, end = _decode(part, complete=ended)
        response.media = {
            "execution_id": execution.execution_id,
            "attempt": attempt,
            "stream": stream,
            "offset": part.start,
            "next_offset": end,
            "size": part.size,
            "ended": ended,
            "text": text,
        }

    on_head = on_get


def find(store: Store, execution_id: str) -> Execution:
    """Return an execution by the id that a client has sent. Raises ExecutionUnknown."""
    return store.get(_canonical(execution_id))


def wanted_attempt(request: falcon.Request, execution: Execution) -> int:
    """Return the attempt that a client asks for, by default the last one. Raises AttemptUnknown, InvalidRequest."""
    attempt = _integer(request, "attempt", execution.attempt, 0, 1 << 62)
    if request.has_param("attempt") and not 1 <= attempt <= execution.attempt:
        raise AttemptUnknown(
            f"cannot find attempt {attempt} of execution {execution.execution_id}: it has had {execution.attempt}"
        )
    return attempt


def _canonical(execution_id: str) -> str:
    """Return an id in the form it is stored in. Raises ExecutionUnknown: no execution can have it."""
    try:
        return str(UUID(execution_id))
    except ValueError:
        raise ExecutionUnknown(f"cannot find execution {execution_id[:100]!r}: it is not a UUID") from None


def _integer(request: falcon.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.get_param(name, default=str(default))
    # int() would also take "1_0", " 1" and digits of other scripts, and fail with thousands of digits.
    value = int(text) if re.fullmatch("[0-9]{1,19}", text) else least - 1
    if not least <= value <= most:
        raise InvalidRequest([{"field": name, "detail": f"must be an integer from {least} to {most}"}])
    return value


def _decode(part: Slice, complete: bool) -> tuple[str, int]:
    """Return the text of a part and where the next one begins: before a character that the part's end cuts.

    A cut character is given up only where its rest can never be read: at the end of a complete log, before a gap, or
    with a limit below its length.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(part.data)
    held = len(decoder.getstate()[0])
    stays_cut = held == len(part.data) if part.end < part.size else complete
    if held and stays_cut:
        return text + decoder.decode(b"", final=True), part.end
    return text, part.end - held
