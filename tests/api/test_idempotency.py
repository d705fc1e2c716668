"""A submit that is sent again under the same Idempotency-Key."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.helpers.problems import check
from tests.helpers.server import RunningServer


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def post(server: RunningServer, key: str | None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return server.http.post("/executions/run", json={"agent_id": "ok", **body}, headers=headers)


def execution_of(answer: httpx.Response, *, replayed: bool) -> str:
    assert answer.status_code == 202, answer.text
    assert answer.headers.get("Idempotent-Replayed") == ("true" if replayed else None)
    execution_id = str(answer.json()["execution_id"])
    assert answer.json() == {"execution_id": execution_id, "status": "QUEUED"}
    assert answer.headers["Location"] == f"/executions/{execution_id}"
    return execution_id


def test_same_key_and_body_is_the_same_execution_also_after_its_end(server: RunningServer, key: str) -> None:
    first = execution_of(post(server, key, input={"a": 1, "b": 2}), replayed=False)
    assert execution_of(post(server, key, input={"b": 2, "a": 1}), replayed=True) == first
    assert server.wait_for_end(first)["attempt"] == 1
    assert execution_of(post(server, key, input={"a": 1, "b": 2}), replayed=True) == first
    assert server.statuses(first) == ["PENDING", "RUNNING", "COMPLETED"]


@pytest.mark.parametrize(
    "other",
    [{"input": {"a": 2}}, {"agent_id": "trusted", "input": {"a": 1}}, {"input": {"a": 1}, "timeout_seconds": 1}],
)
def test_same_key_and_other_body_is_refused_and_names_what_the_key_stands_for(
    server: RunningServer, recorded: str, nothing_recorded: None, other: dict[str, Any]
) -> None:
    answer = post(server, recorded, **other)
    problem = check(answer, 422, "Idempotency-Key")
    assert f"cannot use '{recorded}' again" in problem["detail"]


@pytest.fixture
def recorded(server: RunningServer, key: str) -> str:
    """A key under which something was submitted that has ended."""
    server.wait_for_end(execution_of(post(server, key, input={"a": 1}), replayed=False))
    return key


def test_other_key_or_none_is_another_execution(server: RunningServer, key: str) -> None:
    answers = [post(server, each, input={}) for each in (key, f"{key}-2", key.swapcase(), None, None)]
    ids = {execution_of(answer, replayed=False) for answer in answers}
    assert len(ids) == 5
    for execution_id in ids:
        server.wait_for_end(execution_id)


def test_refused_submit_leaves_its_key_free(server: RunningServer, key: str) -> None:
    check(post(server, key, agent_id="nobody"), 422, "agent_id")
    check(post(server, key, timeout_seconds=1e9), 422, "timeout_seconds")
    server.wait_for_end(execution_of(post(server, key), replayed=False))


def test_same_key_from_many_at_once_is_one_execution(server: RunningServer, key: str) -> None:
    clients = 12

    with ThreadPoolExecutor(clients) as pool, httpx.Client(base_url=server.url, timeout=30) as http:
        request = http.build_request(
            "POST",
            "/executions/run",
            json={"agent_id": "ok", "input": {"key": key}},
            headers={"Idempotency-Key": key},
        )
        answers = list(pool.map(http.send, [request] * clients))
    assert {answer.status_code for answer in answers} == {202}
    (execution_id,) = {answer.json()["execution_id"] for answer in answers}
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert server.wait_for_end(execution_id)["final_result"] == {"echo": {"key": key}}


SAME = [
    ("{}", '"{}"'),
    ("it's-{}", '"it\'s-{}"'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_key_in_quotes_is_the_key_without(server: RunningServer, key: str, one: str, other: str) -> None:
    first = execution_of(post(server, one.format(key)), replayed=False)
    assert execution_of(post(server, other.format(key)), replayed=True) == first
    server.wait_for_end(first)


@pytest.mark.parametrize(
    "text", ['"with space, {}"', r'"back\\slash and \"quotes\" {}"', "{:x>255}", "!#$%&'()*+-./:;@[]^_`|~{}"]
)
def test_key_of_any_allowed_form_works(server: RunningServer, key: str, text: str) -> None:
    sent = text.format(key)
    first = execution_of(post(server, sent), replayed=False)
    assert execution_of(post(server, sent), replayed=True) == first
    server.wait_for_end(first)


REFUSED = [
    *("", '""'),
    *('"open', 'open"', '"a"b"', r'"a\b"', r'"a\"', "back\\slash"),
    *("a b", "a, b", '"a", "b"', '"a";p=1', "a\tb"),
    *("x" * 256, '"' + "x" * 256 + '"'),
]


@pytest.mark.parametrize("text", [*REFUSED, "ü".encode(), b"\xff"])
def test_key_that_cannot_be_read_is_refused(server: RunningServer, nothing_recorded: None, text: str | bytes) -> None:
    headers = [(b"Idempotency-Key", text if isinstance(text, bytes) else text.encode())]
    answer = server.http.post("/executions/run", json={"agent_id": "ok"}, headers=headers)
    assert check(answer, 400)["detail"].startswith("cannot read Idempotency-Key: it ")


def test_two_keys_are_refused(server: RunningServer, nothing_recorded: None) -> None:
    headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
    check(server.http.post("/executions/run", json={"agent_id": "ok"}, headers=headers), 400)
