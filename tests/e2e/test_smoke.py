"""The shortest way through everything."""

from tests.helpers.server import RunningServer


def test_execution_completes_with_the_result_of_its_agent(server: RunningServer) -> None:
    execution = server.run("ok", question="?")
    assert execution["status"] == "COMPLETED"
    assert execution["final_result"] == {"echo": {"question": "?"}}
