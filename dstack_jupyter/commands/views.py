"""What the verbs show, as text and HTML together; the views themselves are made in `rendering`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from dstack_engine.records.events import Event
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.offers import Plan
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import ModelView
from dstack_jupyter.rendering.events import events_html, events_text
from dstack_jupyter.rendering.findings import findings_html, findings_text
from dstack_jupyter.rendering.fleets import FleetCopy, Runs, fleets_html, fleets_text
from dstack_jupyter.rendering.offers import offers_html, offers_text
from dstack_jupyter.rendering.quantities import size_text
from dstack_jupyter.rendering.runs import Traffic, runs_html, runs_text
from dstack_jupyter.rendering.services import models_html, models_text
from dstack_jupyter.surfaces.base import Shown


def plan_shown(plan: Plan) -> Shown:
    """Return the offers and the reasons for what was refused."""
    return Shown(offers_text(plan), offers_html(plan))


def runs_shown(views: Sequence[RunView], traffic: Traffic | None = None) -> Shown:
    """Return the runs as a table."""
    now = datetime.now(timezone.utc)
    return Shown(runs_text(views, now, traffic), runs_html(views, now, traffic))


def models_shown(models: Sequence[ModelView]) -> Shown:
    """Return the models as a table."""
    return Shown(models_text(models), models_html(models))


def fleets_shown(views: Sequence[FleetView], runs: Runs) -> Shown:
    """Return the fleets as a table, a row for each machine."""
    return Shown(fleets_text(views, runs), fleets_html(views, runs))


def fleet_shown(view: FleetView, runs: Runs) -> Shown:
    """Return a fleet with all that was found on its machines."""
    copy = FleetCopy(view, runs)
    return Shown(copy.text(), copy.html())


def events_shown(events: Sequence[Event]) -> Shown:
    """Return the events as a table."""
    return Shown(events_text(events), events_html(events))


def findings_shown(findings: Sequence[Finding]) -> Shown:
    """Return what `doctor` found."""
    return Shown(findings_text(findings), findings_html(findings))


def bytes_text(count: float) -> str:
    """Return a number of bytes: ``12 kB``, ``80MB``, ``1.2GB``."""
    return size_text(count / 1024**3) if count >= 1024**2 else f"{count / 1024:.0f}kB"
