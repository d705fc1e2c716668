"""What runs have left: the list, and each file."""

from typing import BinaryIO

import falcon

from api.executions import find, wanted_attempt
from supervisor.artifacts import Artifact, Artifacts, Index
from supervisor.errors import FileUnknown
from supervisor.store import Store


class ExecutionFiles:
    """GET /executions/{execution_id}/files?attempt="""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts

    def on_get(self, request: falcon.Request, response: falcon.Response, execution_id: str) -> None:
        """List the files of an attempt that has ended; before that there are none."""
        execution = find(self._store, execution_id)
        attempt = wanted_attempt(request, execution)
        ended = execution.has_ended(attempt)
        index = self._artifacts.index(execution.execution_id, attempt) if ended else Index()
        if not index.files:
            find(self._store, execution_id)  # what was removed just now has not left nothing
        response.media = {
            "execution_id": execution.execution_id,
            "attempt": attempt,
            "ended": ended,
            "files": [
                {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in index.files
            ],
            "left_out": sum(index.left_out.values()),
            "left_out_reasons": index.left_out,
        }

    on_head = on_get


class ExecutionFile:
    """GET /executions/{execution_id}/files/{name}?attempt=

    An agent wrote it, so no browser is to take it for anything but bytes to be saved.
    """

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts

    def on_get(self, request: falcon.Request, response: falcon.Response, execution_id: str, name: str) -> None:
        """Send the bytes of a file, a part at a time."""
        file, contents = self._open(request, execution_id, name)
        _describe(file, response)
        if file.size_bytes:
            # Waitress sends as many bytes as the length says, from where the file stands, and closes it.
            response.stream = contents
        else:
            contents.close()

    def on_head(self, request: falcon.Request, response: falcon.Response, execution_id: str, name: str) -> None:
        """Tell what GET would send."""
        file, contents = self._open(request, execution_id, name)
        contents.close()
        _describe(file, response)

    def _open(self, request: falcon.Request, execution_id: str, name: str) -> tuple[Artifact, BinaryIO]:
        execution = find(self._store, execution_id)
        attempt = wanted_attempt(request, execution)
        if not execution.has_ended(attempt):
            raise FileUnknown(f"cannot find files of execution {execution.execution_id}: it has not ended")
        return self._artifacts.open(execution.execution_id, attempt, name)


def _describe(file: Artifact, response: falcon.Response) -> None:
    response.content_type = "application/octet-stream"
    response.content_length = file.size_bytes
    response.set_header("Content-Disposition", _disposition(file.name.rpartition("/")[2]))
    response.set_header("X-Content-Type-Options", "nosniff")


def _disposition(name: str) -> str:
    """Return the header that has a client save a file under its name. Source: RFC 6266, appendix D; RFC 8187.

    Not falcon's own: that puts an ASCII name between quotes as it is, also one with quotes in it.
    """
    return f"attachment; filename=\"{falcon.secure_filename(name)}\"; filename*=UTF-8''{falcon.uri.encode_value(name)}"
