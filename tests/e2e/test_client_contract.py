"""The client contract's own example code, unchanged, against a live server.

client_contract/client.ts is the code to the letter. It is TypeScript, which Node runs by itself from version 22.18 on;
before that, esbuild takes the types away.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.database import query
from tests.helpers.server import RunningServer

CODE = Path(__file__).parent / "client_contract"


def node_runs_types() -> bool:
    probe = ["node", "--print", "Boolean(process.features.typescript)"]
    return subprocess.run(probe, capture_output=True, text=True, timeout=30).stdout.strip() == "true"


def program(folder: Path) -> Path:
    """Return a program for this machine's Node: the client, then the driver. Skips where there is no tool for it."""
    if not shutil.which("node"):
        pytest.skip("there is no node here")
    source = (CODE / "client.ts").read_text() + (CODE / "driver.ts").read_text()
    if node_runs_types():
        path = folder / "client.mts"
        path.write_text(source)
    elif shutil.which("esbuild"):
        path = folder / "client.mjs"
        command = ["esbuild", "--loader=ts", "--format=esm"]
        path.write_bytes(subprocess.run(command, input=source.encode(), stdout=subprocess.PIPE, check=True).stdout)
    else:
        pytest.skip("there is no esbuild here, and this node runs no TypeScript")
    return path


def test_client_of_the_contract_sees_completed_failed_and_canceled(server: RunningServer, tmp_path: Path) -> None:
    client = subprocess.run(
        ["node", "--import", str(CODE / "redirect.mjs"), str(program(tmp_path))],
        env={**os.environ, "CORRAL_URL": server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert client.returncode == 0, client.stderr
    of_the_document, report = client.stdout.rstrip().rsplit("\n", 1)
    assert of_the_document == "Result: { answer: 'Today is sunny with 25C', confidence: 0.95 }"
    seen = json.loads(report)

    assert seen["completed"] == {"echo": {"question": "Why?"}}

    assert seen["failed"]["isError"]
    assert "ValueError: no weather today" in seen["failed"]["message"]
    recorded = query(
        server.data, "SELECT error_log FROM executions WHERE agent_name = 'raises' ORDER BY seq DESC LIMIT 1"
    )
    assert recorded == [(seen["failed"]["message"],)]

    ends = [server.wait_for_end(execution_id) for execution_id in seen["canceled"]]
    assert [end["status"] for end in ends] == ["CANCELED", "CANCELED"]
    assert ends[0]["started_at"]
