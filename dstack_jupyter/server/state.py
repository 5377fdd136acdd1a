"""All that runs, looked at in the engine and made into rows. Called by `handlers` and `changes`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from dstack_engine.client import Client
from dstack_engine.errors import Conflict, NotFound
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_jupyter.replicas import is_service
from dstack_jupyter.server.rows import Row, machine_rows, model_row, run_row, service_row

#: What is answered while no engine runs: that is no error.
DOWN: Row = {
    "engine": "down",
    "runs": [],
    "services": [],
    "models": [],
    "machines": [],
    "models_url": None,
}


def look(client: Client) -> Row:
    """Return everything as it stands."""
    views = client.runs(everything=True)
    living = [view for view in views if not view.finished]
    gateway = client.gateway()
    now = datetime.now(timezone.utc)
    return {
        "engine": "running",
        "runs": [run_row(view, now) for view in views],
        "services": [
            service_row(view, report_of(client, view), gateway) for view in services_in(living)
        ],
        "models": [model_row(model) for model in client.models()],
        "machines": machine_rows(client.instances(), living),
        "models_url": gateway.models_url if gateway.port is not None else None,
    }


def services_in(views: Iterable[RunView]) -> list[RunView]:
    """Return the services among *views* that live."""
    return [view for view in views if is_service(view) and not view.finished]


def report_of(client: Client, view: RunView) -> ServiceReport | None:
    """Return a service's traffic; None before its gateway told of it, or once it is gone."""
    try:
        return client.service(view.name)
    except (NotFound, Conflict):
        return None  # deleted meanwhile, or its name is another's now
