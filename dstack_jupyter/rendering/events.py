"""Events as text and HTML: what happened, when, to what. Called by `%dstack events`."""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.records.events import Event
from dstack_engine.records.fleets import Fleet
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_jupyter.rendering.markup import Table, muted, section
from dstack_jupyter.rendering.quantities import counted, moment_text

_HEADINGS = ("time", "what", "name", "status", "reason")


def events_text(events: Sequence[Event]) -> str:
    """Return the events as an aligned table, in the order they are given."""
    return _table(events).text() if events else "No events."


def events_html(events: Sequence[Event]) -> str:
    """Return the events as a table with a caption."""
    if not events:
        return section(muted("No events."))
    return section(_table(events).html(counted(len(events), "event")))


def _table(events: Sequence[Event]) -> Table:
    return Table(_HEADINGS, [_row(event) for event in events])


def _row(event: Event) -> tuple[str, ...]:
    record = event.record
    status = "deleted" if event.deleted else str(record.status)
    at = moment_text(event.at).removesuffix(" UTC") + "Z"
    if isinstance(record, Job):
        reason = record.reason.sentence if record.reason else record.waiting or ""
        detail = f" ({record.detail})" if record.detail and record.reason else ""
        return at, "job", record.id, status, reason + detail
    if isinstance(record, Instance):
        return at, "instance", record.name, status, record.unreachable_why or record.reason or ""
    if isinstance(record, Fleet):
        return at, "fleet", record.name, status, ""
    reason = str(record.reason).replace("_", " ") if record.reason else ""
    return at, "run", record.name, status, reason
