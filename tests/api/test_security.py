"""What a web page that the user visits may make a browser send to this server, and what may not be refused with it."""

import pytest

from tests.helpers.problems import check
from tests.helpers.raw_http import exchange
from tests.helpers.server import RunningServer

JSON = {"Content-Type": "application/json"}
BODY = b'{"agent_id": "ok"}'

FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "https://127.0.0.1.evil.example"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example"},
    {"Host": "evil.example:8001"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "192.168.0.1:8001"},
    {"Host": "0.0.0.0:8001"},
    {"Host": "[::2]:8001"},
    {"Host": "[::1"},
    {"Host": "127.0.0.1:8001:8001"},
    {"Host": "127.0.0.1@evil.example"},
    {"Host": ""},
    {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.usefixtures("nothing_recorded")
def test_request_from_elsewhere_is_403(server: RunningServer, headers: dict[str, str]) -> None:
    check(server.http.post("/executions/run", content=BODY, headers={**JSON, **headers}), 403)
    check(server.http.get("/admin/health", headers=headers), 403)
    check(server.http.get("/nope", headers=headers), 403)


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}], ids=str)
def test_cancel_from_elsewhere_cancels_nothing(server: RunningServer, headers: dict[str, str]) -> None:
    execution_id = server.submit("waits")
    check(server.http.post(f"/executions/{execution_id}/cancel", headers=headers), 403)
    assert server.get(execution_id)["status"] in ("PENDING", "RUNNING")
    assert server.cancel(execution_id).status_code == 202
    assert server.wait_for_end(execution_id)["status"] == "CANCELED"


def test_preflight_from_elsewhere_allows_nothing(server: RunningServer) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = server.http.options("/executions/run", headers=headers)
    check(answer, 403)
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


OWN = [
    {},
    {"Origin": "{url}", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "HTTP://{host}"},
    {"Sec-Fetch-Site": "none"},
    {"Host": "localhost"},
    {"Host": "LOCALHOST:8001", "Origin": "http://localhost:8001"},
    {"Host": "127.0.0.2:80"},
    {"Host": "[::1]:8001", "Origin": "http://[::1]:8001"},
]


@pytest.mark.parametrize("headers", OWN, ids=str)
def test_request_from_here_is_answered(server: RunningServer, headers: dict[str, str]) -> None:
    host = server.url.removeprefix("http://")
    headers = {name: value.format(url=server.url, host=host) for name, value in headers.items()}
    answer = server.http.post("/executions/run", content=BODY, headers={**JSON, **headers})
    assert answer.status_code == 202
    server.wait_for_end(answer.json()["execution_id"])


def test_request_without_host_in_http_1_0_is_answered(server: RunningServer) -> None:
    """Simple health checks send such; browsers never do."""
    assert exchange(server, b"GET /admin/health HTTP/1.0\r\n\r\n").status_code == 200
