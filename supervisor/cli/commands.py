"""What `corral` can be told to do."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from supervisor import __version__, operator_log, scaffold, service_manager
from supervisor.agents import AgentRegistry
from supervisor.cli import database
from supervisor.cli.drain import drain
from supervisor.cli.selftest import selftest
from supervisor.doctor import Report, examine
from supervisor.errors import CorralError
from supervisor.machine.restart import restart_server
from supervisor.server import Server
from supervisor.settings import Settings, load

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
agents_app = typer.Typer(help="List the agents, or make a new one.")
app.add_typer(agents_app, name="agents")
app.command()(drain)
app.command()(selftest)
app.command()(database.backup)
app.command()(database.check)

Config = Annotated[Path | None, typer.Option(envvar="CORRAL_CONFIG", help="Settings file; default: corral.toml.")]
AgentsFolder = Annotated[Path | None, typer.Option("--agents", help="Folder of the agents.")]


def main() -> None:
    """Run the command line; an error of ours or the host's is one line on stderr and exit code 1."""
    operator_log.configure()
    try:
        app()
    except CorralError as error:
        print(f"corral: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (loopback).")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the database and the logs.")] = None,
    agents: AgentsFolder = None,
    max_running: Annotated[int | None, typer.Option(help="Runs that may be live at once.")] = None,
    config: Config = None,
) -> None:
    """Run the server until SIGTERM or Ctrl-C. Each option can also be set as CORRAL_NAME or in the settings file."""
    flags = {"host": host, "port": port, "data": data, "agents": agents, "max_running": max_running}
    settings = load(flags, config)
    Server(settings, lambda url: _say_ready(url, settings), lambda: load(flags, config)).run()


@app.command()
def restart(
    data: Annotated[Path | None, typer.Option(help="Folder of the server's database and logs.")] = None,
    config: Config = None,
) -> None:
    """Have a running server start anew, with new settings or a new version; its runs go on. The same as SIGHUP."""
    settings = load({"data": data}, config)
    pid = restart_server(settings.data)
    print(f"The server with pid {pid} has started anew.")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell whether this machine can isolate agents, and what to change if not; exit code 1 if it cannot."""
    report = examine()
    if as_json:
        print(json.dumps({"healthy": report.healthy, **asdict(report)}, indent=2))
    else:
        _print_report(report)
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@agents_app.callback(invoke_without_command=True)
def list_agents(
    context: typer.Context,
    agents: AgentsFolder = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the agents, the broken ones with their error; exit code 1 if one is broken."""
    settings = context.obj = load({"agents": agents}, config)
    if context.invoked_subcommand:
        return
    rows = _rows(settings)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        print(f"There is no agent in {settings.agents}; make one with: corral agents new NAME")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@agents_app.command("new")
def new_agent(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the agent and its folder.")],
    agents: AgentsFolder = None,
) -> None:
    """Make the folder of a new agent that runs."""
    settings: Settings = context.obj
    folder = scaffold.create(agents.absolute() if agents else settings.agents, name)
    print(f"Made {folder}. Its code is agent.py; a running server has it already.")


def _print_report(report: Report) -> None:
    for check in report.checks:
        print(f"{report.grade(check):4}  {check.name}: {check.found}")
        if check.advice:
            print(f"      {check.advice}")
    canary = report.canary
    # What only the tier "strict" needs is nothing that is wrong with a machine.
    for need, why in canary.strict_lacks.items():
        print(f"--    The tier strict lacks {need}: {why}")
    if not report.healthy:
        print(f"BAD   A sandboxed run failed: {canary.error}")
        return
    if canary.unset_ceilings:
        print(f"note  Ceilings that could not be set: {', '.join(canary.unset_ceilings)}")
    print(f"ok    A sandboxed run, with {canary.limits} limits, had these layers: {', '.join(canary.layers)}")


def _say_ready(url: str, settings: Settings) -> None:
    print(f"Corral {__version__} is ready on {url}  Try: {_example(url, settings)}", flush=True)
    service_manager.tell_ready()


def _example(url: str, settings: Settings) -> str:
    """Return a command for the shell that works on this server: not everyone has the agents of the examples."""
    names = [entry.agent.name for entry in AgentRegistry(settings.agents, settings.policy).entries() if entry.agent]
    if not names:
        return f"curl {url}/admin/health"
    body = {"agent_id": names[0], "input": {}}
    if "weather" in names:
        body = {"agent_id": "weather", "input": {"question": "What is the weather today?"}}
    return f"curl {url}/executions/run -H 'Content-Type: application/json' -d '{json.dumps(body)}'"


def _rows(settings: Settings) -> list[dict[str, str | int | None]]:
    return [
        {
            "name": entry.agent.name if entry.agent else entry.folder.name,
            "id": entry.agent.id if entry.agent else None,
            "priority": entry.agent.manifest.priority if entry.agent else None,
            "description": entry.agent.manifest.description if entry.agent else "",
            "folder": str(entry.folder),
            "error": entry.error,
        }
        for entry in AgentRegistry(settings.agents, settings.policy).entries()
    ]


def _print_table(rows: list[dict[str, str | int | None]]) -> None:
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        what = f"broken: {row['error']}" if row["error"] else row["description"]
        print(f"{row['name']!s:{width}}  {row['id'] or '':36}  {what}".rstrip())
