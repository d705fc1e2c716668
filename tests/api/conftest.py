"""What tests of refusals share."""

from collections.abc import Iterator

import pytest

from tests.helpers.database import query
from tests.helpers.server import RunningServer


@pytest.fixture
def nothing_recorded(server: RunningServer) -> Iterator[None]:
    """The test leaves no execution in the database, also none that was deleted again, and a server that answers."""
    before = _recorded(server)
    yield
    assert _recorded(server) == before
    assert server.http.get("/admin/health").status_code == 200


def _recorded(server: RunningServer) -> list[tuple[int, int]]:
    return query(
        server.data, "SELECT count(*), (SELECT seq FROM sqlite_sequence WHERE name = 'executions') FROM executions"
    )
