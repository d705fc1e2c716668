"""Sandboxed agents with the host's network, if the operator names them, and their neighbours without."""

import errno
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.sandbox import landlock
from tests.helpers import listeners, problems
from tests.helpers.agents import write_agent
from tests.helpers.server import RunningServer

PYTHON = 'entrypoint = "agent:run"'
ONLINE = f'{PYTHON}\nsandbox.network = "host"'

FETCH = """
import urllib.request

def run(input):
    try:
        return {"text": urllib.request.urlopen(input["url"], timeout=10).read().decode()}
    except OSError as error:
        return {"error": str(error)}
"""

LOOK = """
import os, socket, ssl

def run(input):
    return globals()[input["look_at"]]()

def files():
    return {name: open(f"/etc/{name}").read() for name in ("resolv.conf", "hosts", "services", "nsswitch.conf")}

def certificates():
    return ssl.create_default_context().cert_store_stats()

def sockets():
    families = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "vsock": 40}
    return {name: attempt(lambda: socket.socket(number, socket.SOCK_DGRAM)) for name, number in families.items()}

def privileges():
    with socket.socket() as listener:
        return {
            "raw": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
            "device": attempt(lambda: listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1)),
            "namespace": os.readlink("/proc/self/ns/net"),
        }

def attempt(action):
    try:
        result = action()
    except OSError as error:
        return error.errno
    if result:
        result.close()
    return 0
"""

NODE = """
fetch(process.argv[2]).then((answer) => answer.text())
    .then((text) => console.log(JSON.stringify({ text })))
    .catch((error) => console.log(JSON.stringify({ error: String(error.cause ?? error) })));
"""
CURL = 'printf \'{"text": "%s"}\' "$(curl -sS --max-time 10 {flags} {url})"'


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that lets some agents have the host's network."""
    with serving(tmp_path_factory.mktemp("online")) as running:
        yield running


def serving(folder: Path, **options: Any) -> RunningServer:
    agents = folder / "agents"
    for name, manifest in {"fetch": ONLINE, "alone": PYTHON, "outsider": ONLINE}.items():
        write_agent(agents, name, manifest, {"agent.py": FETCH})
    write_agent(agents, "look", ONLINE, {"agent.py": LOOK})
    names = ["fetch", "look", "program"]
    server = RunningServer(folder / "data", "--max-running", "4", agents=agents, host_network_agents=names, **options)
    for name in ("fetch", "alone"):  # the idle sandboxes of both kinds are nothing that a test leaves
        server.run(name, url="http://127.0.0.1:1/")
    return server


def program(server: RunningServer, command: str, files: dict[str, str]) -> dict[str, Any]:
    """Run a command on the host's network; return what it prints."""
    manifest = f'command = {command}\nresult = "stdout"\nsandbox.network = "host"'
    folder = write_agent(server.agents, "program", manifest, files)
    execution = server.run("program")
    shutil.rmtree(folder)
    assert execution["status"] == "COMPLETED", execution["error_log"]
    return dict(execution["final_result"])


def require(name: str) -> None:
    if not shutil.which(name, path="/usr/local/bin:/usr/bin:/bin"):
        pytest.skip(f"there is no {name} on this machine")


# -- who may ----------------------------------------------------------------------------------------------------------


def test_agent_that_the_setting_names_fetches_from_the_host_by_name(online: RunningServer) -> None:
    with listeners.web() as port:
        execution = online.run("fetch", url=f"http://localhost:{port}/")
    assert execution["final_result"] == {"text": listeners.ANSWER}, execution["error_log"]


def test_agent_that_the_setting_does_not_name_is_broken_and_says_why(online: RunningServer) -> None:
    answer = online.http.post("/executions/run", json={"agent_id": "outsider", "input": {}})
    assert "host_network_agents" in problems.check(answer, 422, "agent_id")["detail"]


@pytest.mark.parametrize("names", [[], ["fetcher", "FETCH", "*fetch"]])
def test_without_its_name_in_the_setting_no_agent_has_a_network(names: list[str], tmp_path: Path) -> None:
    write_agent(tmp_path / "agents", "fetch", ONLINE, {"agent.py": FETCH})
    with RunningServer(tmp_path / "data", agents=tmp_path / "agents", host_network_agents=names) as server:
        answer = server.http.post("/executions/run", json={"agent_id": "fetch", "input": {}})
        assert "host_network_agents" in problems.check(answer, 422, "agent_id")["detail"]


def test_star_in_the_setting_names_all(tmp_path: Path) -> None:
    write_agent(tmp_path / "agents", "any", ONLINE, {"agent.py": FETCH})
    with (
        listeners.web() as port,
        RunningServer(tmp_path / "data", agents=tmp_path / "agents", host_network_agents=["*"]) as server,
    ):
        assert server.run("any", url=f"http://localhost:{port}/")["final_result"] == {"text": listeners.ANSWER}


def test_neighbour_has_no_network_whoever_ran_before(online: RunningServer) -> None:
    with listeners.web() as port:
        for _ in range(3):
            assert "text" in online.run("fetch", url=f"http://localhost:{port}/")["final_result"]
            alone = online.run("alone", url=f"http://127.0.0.1:{port}/")
            assert "Address family not supported" in alone["final_result"]["error"]
            assert "net_namespace" in alone["isolation"]["effective"]


def test_network_does_not_go_with_the_tier_trusted_nor_with_another_name(online: RunningServer) -> None:
    manifests = {
        f'{PYTHON}\nsandbox.tier = "trusted"\nsandbox.network = "host"': "always has",
        f'{PYTHON}\nsandbox.tier = "trusted"\nsandbox.network = "none"': "always has",
        f'{PYTHON}\nsandbox.network = "Host"': "sandbox.network",
        f"{PYTHON}\nsandbox.network = true": "sandbox.network",
    }
    for manifest, words in manifests.items():
        folder = write_agent(online.agents, "program", manifest, {"agent.py": FETCH})
        answer = online.http.post("/executions/run", json={"agent_id": "program", "input": {}})
        shutil.rmtree(folder)
        assert words in problems.check(answer, 422, "agent_id")["detail"]


# -- what it has, and what not ----------------------------------------------------------------------------------------


def test_record_tells_that_the_network_is_the_hosts(online: RunningServer) -> None:
    isolation = online.run("fetch", url="http://127.0.0.1:1/")["isolation"]
    assert isolation["tier"] == "sandboxed"
    assert "net_namespace" in isolation["missing"]
    alone = online.run("alone", url="http://127.0.0.1:1/")["isolation"]
    assert set(alone["effective"]) == {*isolation["effective"], "net_namespace"} - {"landlock_scopes"}


def test_sockets_of_other_families_and_privileges_stay_refused(online: RunningServer) -> None:
    sockets = online.run("look", look_at="sockets")["final_result"]
    assert {name for name, number in sockets.items() if number == 0} == {"unix", "inet", "inet6"}
    found = online.run("look", look_at="privileges")["final_result"]
    assert found == {"raw": 1, "device": 1, "namespace": os.readlink("/proc/self/ns/net")}


def test_files_that_names_are_looked_up_in_are_the_hosts(online: RunningServer) -> None:
    found = online.run("look", look_at="files")["final_result"]
    for name in ("resolv.conf", "hosts", "services"):
        path = Path("/etc", name)
        assert found[name] == (path.read_text() if path.exists() else ""), name
    assert "hosts: files dns" in found["nsswitch.conf"]


def test_certificates_of_the_host_are_there(online: RunningServer) -> None:
    ours = ssl.create_default_context().cert_store_stats()
    assert online.run("look", look_at="certificates")["final_result"] == ours


def test_abstract_socket_of_the_host_is_reached_only_where_no_landlock_refuses_it(online: RunningServer) -> None:
    code = """
import socket

def run(input):
    return {name: attempt(name) for name in (input["theirs"], own())}

def own():
    global listener
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    return listener.getsockname().decode()

def attempt(name):
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(name)
"""
    folder = write_agent(online.agents, "program", ONLINE, {"agent.py": code})
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(f"\0corral-test-{os.getpid()}")
        theirs.listen()
        name = theirs.getsockname().decode()
        execution = online.run("program", theirs=name)
    shutil.rmtree(folder)
    refused = landlock.abi() >= 6
    found = dict(execution["final_result"])
    assert found.pop(name) == (errno.EPERM if refused else 0)
    assert list(found.values()) == [0]
    assert ("landlock_scopes" in execution["isolation"]["effective"]) is refused


def test_abstract_name_on_the_host_is_not_used_up_by_the_sandbox(online: RunningServer) -> None:
    """Sandboxes on the host's network share its abstract names: what one takes is given back with its end."""
    name = f"\0corral-test-{os.getpid()}"
    code = f"import socket\ndef run(input):\n s = socket.socket(socket.AF_UNIX)\n s.bind({name!r})\n return {{}}"
    folder = write_agent(online.agents, "look-too", f'name = "program"\n{ONLINE}', {"agent.py": code})
    assert online.run("program")["status"] == "COMPLETED"
    shutil.rmtree(folder)
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(name)


# -- programs ---------------------------------------------------------------------------------------------------------


def test_node_is_refused_a_list_of_interfaces(online: RunningServer) -> None:
    require("node")
    code = (
        "try { require('os').networkInterfaces(); } catch (error) { console.log(JSON.stringify({ is: error.code })); }"
    )
    assert program(online, '["node", "main.js"]', {"main.js": code}) == {"is": "ERR_SYSTEM_ERROR"}


def test_node_fetches_by_name(online: RunningServer) -> None:
    require("node")
    with listeners.web() as port:
        command = f'["node", "main.js", "http://localhost:{port}/"]'
        assert program(online, command, {"main.js": NODE}) == {"text": listeners.ANSWER}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for localhost and its key."""
    require("openssl")
    path = tmp_path_factory.mktemp("certificate") / "localhost.pem"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run([*command, "-keyout", path, "-out", f"{path}.only"], check=True, capture_output=True, timeout=60)
    with path.open("a") as file:
        file.write(Path(f"{path}.only").read_text())
    return path


def test_python_curl_and_node_speak_tls(online: RunningServer, certificate: Path) -> None:
    authority = {"authority.pem": Path(f"{certificate}.only").read_text()}
    fetch = (
        "import json, ssl, sys, urllib.request\n"
        "context = ssl.create_default_context(cafile='authority.pem')\n"
        "print(json.dumps({'text': urllib.request.urlopen(sys.argv[1], context=context, timeout=10).read().decode()}))"
    )
    with listeners.web(certificate) as port:
        url = f"https://localhost:{port}/"
        files = authority | {"main.py": fetch}
        assert program(online, f'["python3", "main.py", "{url}"]', files) == {"text": listeners.ANSWER}
        require("curl")
        files = authority | {"main.sh": CURL.replace("{flags}", "--cacert authority.pem").replace("{url}", url)}
        assert program(online, '["sh", "main.sh"]', files) == {"text": listeners.ANSWER}
        require("node")
        command = f'["env", "NODE_EXTRA_CA_CERTS=authority.pem", "node", "main.js", "{url}"]'
        assert program(online, command, authority | {"main.js": NODE}) == {"text": listeners.ANSWER}


# -- names ------------------------------------------------------------------------------------------------------------

NAME_SERVER, NAME = "127.0.53.53", "there.corral.test"


@pytest.fixture
def resolving(tmp_path: Path) -> Iterator[RunningServer]:
    """A server on a host whose resolv.conf is, as with systemd-resolved, a link to a place outside of /etc."""
    if os.geteuid() != 0:
        pytest.skip("only root can have another /etc and a name server")
    stub = tmp_path / "run" / "stub-resolv.conf"
    stub.parent.mkdir()
    stub.write_text(f"nameserver {NAME_SERVER}\n")
    etc = tmp_path / "etc"
    shutil.copytree("/etc", etc, symlinks=True)
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "resolv.conf").symlink_to(os.path.relpath(stub, "/etc"))
    (etc / "resolv.conf").lstat()
    wrapper = ("unshare", "-m", "sh", "-c", f'mount --bind {etc} /etc && exec "$0" "$@"')
    with listeners.names(NAME_SERVER, NAME), serving(tmp_path, wrapper=wrapper) as server:
        yield server


def test_name_is_resolved_by_the_hosts_name_server(resolving: RunningServer) -> None:
    with listeners.web() as port:
        url = f"http://{NAME}:{port}/"
        assert resolving.run("fetch", url=url)["final_result"] == {"text": listeners.ANSWER}
        unknown = resolving.run("fetch", url=f"http://not-{NAME}:{port}/")["final_result"]
        assert "not known" in unknown["error"]
        if shutil.which("curl"):
            script = {"main.sh": CURL.replace("{flags}", "").replace("{url}", url)}
            assert program(resolving, '["sh", "main.sh"]', script) == {"text": listeners.ANSWER}
        if shutil.which("node"):
            assert program(resolving, f'["node", "main.js", "{url}"]', {"main.js": NODE}) == {"text": listeners.ANSWER}


def test_resolver_file_replaced_by_the_host_counts_from_the_next_run(resolving: RunningServer, tmp_path: Path) -> None:
    for text in ("nameserver 127.0.53.1\n", "nameserver 127.0.53.2\n"):
        new = tmp_path / "new"
        new.write_text(text)
        new.chmod(0o644)
        new.rename(tmp_path / "run" / "stub-resolv.conf")
        found = resolving.run("look", look_at="files")
        assert found["final_result"]["resolv.conf"] == text, found["error_log"]
