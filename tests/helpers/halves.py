"""An agent that says half of everything, waits for SIGUSR1, and says the rest; in each tier, and printing its result.

Its input: "name"; "size" of what it says; "witness": path of a file where it writes its name when it starts, if its
tier lets it.
"""

import os
import signal
from pathlib import Path
from typing import Any

from tests.helpers.agents import write_agent
from tests.helpers.server import RunningServer
from tests.helpers.wait import wait_until

_CODE = """
import json, os, signal, sys

def write(descriptor, text):
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data):]

def main(input, result):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    if input.get("witness"):
        with open(input["witness"], "a") as witness:
            witness.write(input["name"] + "\\n")
    with open(os.environ["CORRAL_WORKDIR"] + "/left", "w") as file:
        file.write(input["name"])
    text = input["name"] * (input["size"] // len(input["name"]))
    answer = json.dumps({"text": text})
    if result == 3:
        for number in range(3):
            write(3, json.dumps({"progress": number}) + "\\n")
        answer = '{"result": ' + answer + "}"
    half = len(answer) // 2
    write(result, answer[:half])
    if result == 3:
        write(1, text)
    write(2, text + "half")
    signal.sigwait({signal.SIGUSR1})
    write(result, answer[half:])
    if result == 3:
        write(1, text)
    write(2, text)
    os._exit(0)

def run(input):
    main(input, 3)

if __name__ == "__main__":
    main(json.load(sys.stdin), 1)
"""

_LIMITS = "grace_seconds = 30\nlimits.log_bytes = 8388608"

KINDS = {
    "trusted": 'entrypoint = "agent:run"\nsandbox.tier = "trusted"',
    "sandboxed": 'entrypoint = "agent:run"',
    "printing": 'command = ["python3", "agent.py"]\nresult = "stdout"\nsandbox.tier = "trusted"',
}
STRICT = 'entrypoint = "agent:run"\nsandbox.tier = "strict"'


def write_all(root: Path, **more: str) -> None:
    """Write the agents, named as in KINDS. Args: more: {name: manifest} of others."""
    for name, manifest in {**KINDS, **more}.items():
        write_agent(root, name, f"{manifest}\n{_LIMITS}", {"agent.py": _CODE})


class Half:
    """One that waits in the middle."""

    def __init__(self, server: RunningServer, kind: str, **input: Any) -> None:
        """Start it and wait until it is there."""
        self.kind = kind
        self.input = {"name": f"{kind} ", "size": 300_000, **input}
        before = server.runs()
        self.execution_id = server.submit(kind, **self.input)
        wait_until(lambda: server.logs(self.execution_id, "stderr", offset=len(self.text))["text"] == "half")
        self.pids = server.runs() - before

    @property
    def text(self) -> str:
        name: str = self.input["name"]
        return name * (self.input["size"] // len(name))

    def go_on(self) -> None:
        """Let it say the rest."""
        for pid in self.pids:
            os.kill(pid, signal.SIGUSR1)

    def check_end(self, server: RunningServer) -> None:
        """See that it ends as if nothing had happened to anybody, and nothing of it is lost or doubled."""
        execution = server.wait_for_end(self.execution_id)
        assert execution["status"] == "COMPLETED", execution
        assert (execution["attempt"], execution["final_result"]) == (1, {"text": self.text})
        assert server.statuses(self.execution_id) == ["PENDING", "RUNNING", "COMPLETED"]
        assert server.events(self.execution_id, "progress") == ([] if self.kind == "printing" else [0, 1, 2])
        printed = f'{{"text": "{self.text}"}}' if self.kind == "printing" else self.text * 2
        assert self._log(server, "stdout") == printed
        assert self._log(server, "stderr") == f"{self.text}half{self.text}"
        assert server.file(self.execution_id, "left") == self.input["name"].encode()
        assert execution["isolation"]["tier"] == ("trusted" if self.kind == "printing" else self.kind)
        assert execution["usage"]["peak_memory_bytes"] > 0

    def _log(self, server: RunningServer, stream: str) -> str:
        text = ""
        while part := server.logs(self.execution_id, stream, offset=len(text))["text"]:
            text += part
        return text
