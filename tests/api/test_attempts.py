"""The attempts of an execution, over HTTP: each with its record, its logs and its files."""

import pytest

from tests.helpers.problems import check
from tests.helpers.server import RunningServer


@pytest.fixture(scope="module")
def third_time(server: RunningServer) -> str:
    """Return the id of an execution whose third attempt was good."""
    return str(server.run("flaky", good=3)["execution_id"])


def test_execution_shows_all_its_attempts_and_the_end_of_the_last(server: RunningServer, third_time: str) -> None:
    execution = server.get(third_time)
    assert (execution["status"], execution["attempt"], execution["not_before"]) == ("COMPLETED", 3, None)
    assert (execution["final_result"], execution["error_log"]) == ({"attempt": 3}, None)
    attempts = execution["attempts"]
    assert [attempt["attempt"] for attempt in attempts] == [1, 2, 3]
    assert [attempt["termination"]["code"] for attempt in attempts] == ["AGENT_ERROR", "AGENT_ERROR", "EXITED_OK"]
    assert "attempt 2 is not good" in attempts[1]["error_log"]
    assert attempts[2]["error_log"] is None
    for field in ("termination", "usage", "kill", "isolation", "started_at", "completed_at"):
        assert attempts[2][field] == execution[field], field
    instants = [attempt[name] for attempt in attempts for name in ("started_at", "completed_at")]
    assert [execution["created_at"], *instants] == sorted([execution["created_at"], *instants])
    assert all(attempt["termination"]["at"].endswith("Z") for attempt in attempts)
    assert all(attempt["usage"]["wall_seconds"] > 0 for attempt in attempts)
    assert server.statuses(third_time) == ["PENDING", "RUNNING"] * 3 + ["COMPLETED"]


def test_execution_out_of_attempts_fails_with_the_last_ones_words(server: RunningServer) -> None:
    execution = server.run("flaky", good=9)
    assert (execution["status"], execution["attempt"]) == ("FAILED", 3)
    assert "attempt 3 is not good" in execution["error_log"]
    assert execution["progress"] == {"attempt": 3}


def test_execution_without_another_attempt_has_one_or_none(server: RunningServer) -> None:
    assert [attempt["attempt"] for attempt in server.run("ok")["attempts"]] == [1]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_logs_and_files_of_each_attempt_can_be_read(server: RunningServer, third_time: str, number: int) -> None:
    log = server.logs(third_time, attempt=number)
    assert (log["attempt"], log["text"], log["ended"]) == (number, f"this is attempt {number}\n", True)
    files = server.http.get(f"/executions/{third_time}/files", params={"attempt": number}).json()
    assert (files["attempt"], [file["name"] for file in files["files"]]) == (number, ["attempt.txt"])
    file = server.http.get(f"/executions/{third_time}/files/attempt.txt", params={"attempt": number})
    assert file.text == str(number)


def test_logs_and_files_are_the_last_attempts_by_default(server: RunningServer, third_time: str) -> None:
    assert server.logs(third_time)["attempt"] == server.files(third_time)["attempt"] == 3
    assert server.file(third_time, "attempt.txt") == b"3"


@pytest.mark.parametrize("path", ["logs", "files", "files/attempt.txt"])
@pytest.mark.parametrize("number", ["0", "4"])
def test_attempt_that_has_not_been_is_not_found(server: RunningServer, third_time: str, path: str, number: str) -> None:
    answer = server.http.get(f"/executions/{third_time}/{path}", params={"attempt": number})
    detail = f"cannot find attempt {number} of execution {third_time}: it has had 3"
    assert check(answer, 404)["detail"] == detail


@pytest.mark.parametrize("path", ["logs", "files", "files/attempt.txt"])
@pytest.mark.parametrize("number", ["-1", "1.0", "one"])
def test_attempt_that_is_no_number_is_refused(server: RunningServer, third_time: str, path: str, number: str) -> None:
    answer = server.http.get(f"/executions/{third_time}/{path}", params={"attempt": number})
    check(answer, 422, "attempt")


def test_log_of_an_attempt_is_complete_while_the_execution_waits_for_the_next(server: RunningServer) -> None:
    execution_id = server.submit("someday")
    waiting = server.wait_for_retry(execution_id)
    assert (waiting["status"], waiting["started_at"], waiting["termination"]) == ("PENDING", None, None)
    assert waiting["not_before"] > waiting["attempts"][0]["completed_at"]
    assert server.logs(execution_id)["ended"] is True
    assert server.files(execution_id)["ended"] is True
    canceled = server.cancel(execution_id)
    assert (canceled.status_code, canceled.json()["status"]) == (202, "cancel_requested")
    execution = server.get(execution_id)
    assert (execution["status"], execution["attempt"], execution["not_before"]) == ("CANCELED", 1, None)
    assert execution["attempts"][0]["termination"]["code"] == "AGENT_ERROR"
    assert server.cancel(execution_id).json()["status"] == "canceled"
