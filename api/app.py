"""The WSGI application: routes and what every answer has in common."""

from pathlib import Path

import falcon

from api import errors
from api.admin import Health
from api.executions import Cancellation, ExecutionItem, ExecutionLogs, ExecutionRun
from api.files import ExecutionFile, ExecutionFiles
from api.probes import Liveness, Readiness
from api.security import LocalOnly
from supervisor.agents import AgentRegistry
from supervisor.artifacts import Artifacts
from supervisor.clock import Clock
from supervisor.isolation import Bulletin
from supervisor.logs import Logs
from supervisor.nudge import Nudger
from supervisor.store import Store


def create_app(
    store: Store,
    agents: AgentRegistry,
    logs: Logs,
    artifacts: Artifacts,
    nudger: Nudger,
    clock: Clock,
    started_at: int,
    bulletin: Bulletin,
    data: Path,
) -> falcon.App[falcon.Request, falcon.Response]:
    """Return the application.

    Args:
        started_at: the server's start, in microseconds since the epoch. bulletin: what is known of sandboxes now.
        data: the data folder, where the supervisor can be asked.
    """
    app = falcon.App(middleware=[LocalOnly()])
    errors.install(app)
    app.add_route("/executions/run", ExecutionRun(store, agents, nudger, bulletin))
    app.add_route("/executions/{execution_id}", ExecutionItem(store))
    app.add_route("/executions/{execution_id}/cancel", Cancellation(store, nudger))
    app.add_route("/executions/{execution_id}/logs", ExecutionLogs(store, logs))
    app.add_route("/executions/{execution_id}/files", ExecutionFiles(store, artifacts))
    app.add_route("/executions/{execution_id}/files/{name:path}", ExecutionFile(store, artifacts))
    app.add_route("/admin/health", Health(store, clock, started_at, bulletin))
    app.add_route("/livez", Liveness())
    app.add_route("/readyz", Readiness(store, data))
    return app
