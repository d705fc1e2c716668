"""The files that runs have left, over HTTP."""

import hashlib
import unicodedata
from urllib.parse import quote

import pytest

from supervisor.artifacts import INDEX, Artifact, Index
from supervisor.logs import attempt_folder
from tests.helpers.problems import check
from tests.helpers.raw_http import exchange
from tests.helpers.server import RunningServer

UNKNOWN = "01999999-9999-7999-8999-999999999999"
MEGABYTE = 1 << 20


def left(server: RunningServer, *steps: list[object]) -> str:
    """Return the id of an execution that has left something and ended."""
    execution = server.run("leaves", steps=list(steps))
    assert execution["status"] == "COMPLETED", execution["error_log"]
    return str(execution["execution_id"])


def test_files_that_were_left_are_listed_and_can_be_fetched(server: RunningServer) -> None:
    execution_id = left(server, ["file", "b/c/deep.txt", "deep"], ["file", "z.bin", "z" * 10], ["file", "b/a", "in b"])
    contents = {"z.bin": b"z" * 10, "b/a": b"in b", "b/c/deep.txt": b"deep"}
    listed = server.files(execution_id)
    assert listed == {
        "execution_id": execution_id,
        "attempt": 1,
        "ended": True,
        "files": [
            {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        ],
        "left_out": 0,
        "left_out_reasons": {},
    }
    assert {name: server.file(execution_id, name) for name in contents} == contents


def test_files_of_agents_that_leave_nothing_are_an_empty_list(server: RunningServer) -> None:
    execution_id = server.run("ok")["execution_id"]
    listed = server.files(execution_id)
    assert (listed["ended"], listed["files"], listed["left_out"]) == (True, [], 0)
    assert not list((server.data / "files").glob(f"*/{execution_id}"))


def test_empty_folders_are_nothing(server: RunningServer) -> None:
    execution_id = left(server, ["deep", 3], ["file", "x", ""])
    assert [file["name"] for file in server.files(execution_id)["files"]] == ["x", "d/d/d/bottom"]


def test_file_is_bytes_to_be_saved_and_nothing_a_browser_would_show(server: RunningServer) -> None:
    execution_id = left(server, ["file", "page.html", "<script>alert(1)</script>"])
    answer = server.http.get(f"/executions/{execution_id}/files/page.html")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == "attachment; filename=\"page.html\"; filename*=UTF-8''page.html"
    assert answer.headers["Content-Length"] == "25"


NAMES = {
    "report 100%.txt": ("report_100_.txt", "report%20100%25.txt"),
    'a"; filename="evil.exe': ("a___filename__evil.exe", "a%22%3B%20filename%3D%22evil.exe"),
    "%2e%2e": ("_2e_2e", "%252e%252e"),
    "...": ("_..", "..."),
    ".profile": ("_profile", ".profile"),
    "Ämter/naïve café?#&.txt": ("nai_ve_cafe____.txt", "nai%CC%88ve%20cafe%CC%81%3F%23%26.txt"),
    "日本語": ("___", "%E6%97%A5%E6%9C%AC%E8%AA%9E"),
    "a;b=c,d:e": ("a_b_c_d_e", "a%3Bb%3Dc%2Cd%3Ae"),
    "~/x": ("x", "x"),
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_file_of_any_kept_name_can_be_fetched_and_saved_under_it(server: RunningServer, name: str) -> None:
    plain, encoded = NAMES[name]
    name = unicodedata.normalize("NFD", name)  # as some file systems have it: no form is made another
    execution_id = left(server, ["file", name, "content"], ["file", "other", "other"])
    assert name in [file["name"] for file in server.files(execution_id)["files"]]
    for path in (quote(name), quote(name, safe="")):
        answer = server.http.get(f"/executions/{execution_id}/files/{path}")
        assert answer.content == b"content"
        assert answer.headers["Content-Disposition"] == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


@pytest.mark.parametrize(
    "path",
    ["", "X", "x/", "/x", "./x", "x/../x", "%2e%2e/x", "..%2fx", "index.json", "contents", "0", "%00", "x%00", "%ff"],
)
def test_file_of_any_other_name_is_404(server: RunningServer, path: str) -> None:
    execution_id = left(server, ["file", "x", "content"])
    target = f"/executions/{execution_id}/files/{path}"
    answer = exchange(server, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    check(answer, 404)


def test_empty_file_between_others_has_no_bytes(server: RunningServer) -> None:
    execution_id = left(server, ["file", "a", "aaa"], ["file", "b", ""], ["file", "c", "ccc"])
    assert [server.file(execution_id, name) for name in "abc"] == [b"aaa", b"", b"ccc"]
    assert server.files(execution_id)["files"][1]["sha256"] == hashlib.sha256(b"").hexdigest()


def test_large_file_between_others_comes_whole(server: RunningServer) -> None:
    execution_id = left(server, ["file", "first", "x"], ["numbers", "large", MEGABYTE], ["file", "z", "z"])
    content = "".join(f"{number:07}\n" for number in range(MEGABYTE)).encode()
    assert server.file(execution_id, "large") == content
    assert server.file(execution_id, "z") == b"z"
    assert server.files(execution_id)["files"][1]["sha256"] == hashlib.sha256(content).hexdigest()


def test_head_tells_what_get_would_send(server: RunningServer) -> None:
    execution_id = left(server, ["file", "a", "aaa"], ["file", "b", ""])
    for path in ("", "/a", "/b"):
        get = server.http.get(f"/executions/{execution_id}/files{path}")
        head = server.http.head(f"/executions/{execution_id}/files{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_files_of_an_execution_that_has_not_ended_are_not_there_yet(server: RunningServer) -> None:
    execution_id = server.submit("leaves", steps=[["file", "x", "content"], ["wait"]])
    server.wait_for_progress(execution_id)
    listed = server.files(execution_id)
    assert (listed["ended"], listed["files"], listed["left_out"]) == (False, [], 0)
    problem = check(server.http.get(f"/executions/{execution_id}/files/x"), 404)
    assert "has not ended" in problem["detail"]
    server.cancel(execution_id)
    server.wait_for_end(execution_id)
    assert server.file(execution_id, "x") == b"content"


def test_files_are_shown_only_when_the_end_is_recorded(server: RunningServer) -> None:
    """They are on disk a moment before; here, for an execution that has not even begun."""
    blocker, waiting = server.submit("waits"), server.submit("waits")
    folder = attempt_folder(server.data / "files", waiting, 0)
    folder.mkdir(parents=True)
    (folder / INDEX).write_text(Index((Artifact("x", 0, "sha"),)).to_json())
    assert server.files(waiting)["files"] == []
    for execution_id in (waiting, blocker):
        server.cancel(execution_id)
        server.wait_for_end(execution_id)
    assert [file["name"] for file in server.files(waiting)["files"]] == ["x"]


@pytest.mark.parametrize("execution_id", [UNKNOWN, "nope", "..%2f..%2fetc"])
def test_files_of_an_unknown_execution_are_404(server: RunningServer, execution_id: str) -> None:
    check(server.http.get(f"/executions/{execution_id}/files"), 404)
    check(server.http.get(f"/executions/{execution_id}/files/x"), 404)


def test_files_cannot_be_written(server: RunningServer) -> None:
    execution_id = left(server, ["file", "x", "content"])
    for method in ("PUT", "POST", "DELETE"):
        answer = server.http.request(method, f"/executions/{execution_id}/files/x")
        check(answer, 405)
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}], ids=str)
def test_files_are_not_for_pages_of_other_sites(server: RunningServer, headers: dict[str, str]) -> None:
    execution_id = left(server, ["file", "x", "content"])
    check(server.http.get(f"/executions/{execution_id}/files", headers=headers), 403)
    check(server.http.get(f"/executions/{execution_id}/files/x", headers=headers), 403)
