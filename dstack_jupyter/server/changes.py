"""Tells pages what changes, while they listen: one thread reads the engine's stream for them all.

A look at the state is what listening is; nobody watches for pages that have not looked for a
while, and watching starts no engine. What has changed is looked at anew and told as whole rows, at
most four times a second. Made by `extension`; what is emitted goes over Jupyter's event channel.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from dstack_engine.address import find_engine
from dstack_engine.client import Client
from dstack_engine.connection import Leash
from dstack_engine.errors import CursorTooOld, DstackError, NotFound
from dstack_engine.home import Home
from dstack_engine.records.jobs import Job
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import Run, RunView
from dstack_engine.records.updates import CaughtUp, RecordChanged, ServiceSeen, Update
from dstack_jupyter.replicas import is_service
from dstack_jupyter.server.rows import (
    Row,
    gone_machine,
    gone_model,
    machine_rows,
    model_row,
    run_row,
    service_row,
)
from dstack_jupyter.server.state import report_of
from dstack_jupyter.session import session

logger = logging.getLogger(__name__)

#: The schema of the events; `labextension/src/records.ts` names it as well.
CHANGES = "https://schema.dstack-jupyter/changes/v1"

#: How long a page listens after its last look, in seconds; it looks at least every five minutes.
LISTENING = 360.0
#: Between two events, and from the first change to the event that tells of it, in seconds.
PACE = 0.25
GATHERING = 0.02
#: Looks for an engine that is away come so often, in seconds.
AWAY = 0.5
#: An event that would tell more rows than this tells that the page is to look anew.
MOST_ROWS = 100
#: As many runs are looked at one by one; more are looked at all together.
FEW_RUNS = 8


def events_schema() -> Row:
    """Return the schema of the events, as Jupyter's event logger wants it."""
    rows = {"type": "array", "items": {"type": "object"}}
    return {
        "$id": CHANGES,
        "version": "1",
        "title": "What has changed among runs, services, models and machines",
        "description": "Whole rows, as GET /dstack-jupyter/state has them; no secrets.",
        "type": "object",
        "properties": {
            "engine": {"type": "string", "enum": ["running", "down"]},
            "runs": rows,
            "deleted": {"type": "array", "items": {"type": "string"}},
            "services": rows,
            "models": rows,
            "machines": rows,
            "reload": {"type": "boolean"},
        },
    }


@dataclass
class News:
    """What has changed since the last event, not looked at yet."""

    engine: bool | None = None
    #: Names of runs that changed, or whose jobs did.
    runs: set[str] = field(default_factory=set)
    #: Services' traffic, by name.
    reports: dict[str, ServiceReport] = field(default_factory=dict)
    machines: bool = False
    reload: bool = False

    def add(self, other: News) -> None:
        """Take in what is newer."""
        self.engine = self.engine if other.engine is None else other.engine
        self.runs |= other.runs
        self.reports |= other.reports
        self.machines |= other.machines
        self.reload |= other.reload

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return self != News()


def news_in(update: Update) -> News:
    """Return what an update of the engine's stream may change on a page."""
    match update:
        case RecordChanged(_, event):
            record = event.record
            if isinstance(record, Run):
                return News(runs={record.name}, machines=event.deleted)
            if isinstance(record, Job):
                return News(runs={record.run_name}, machines=True)
            return News(machines=True)
        case ServiceSeen(report):
            return News(reports={report.run: report})
    return News()


class Changes:
    """Watches while pages listen. All but the thread's own work happens on the server's loop."""

    def __init__(self, emit: Callable[[Row], None]) -> None:
        """Watch nothing yet; *emit* sends one event to all pages."""
        self._emit = emit
        self._watch: Watch | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._telling: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._news = News()
        self._scribe = Scribe()

    async def listen(self) -> None:
        """Watch for a page that is about to look; return once no change can be missed."""
        loop = asyncio.get_running_loop()
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = loop.call_later(LISTENING, self.stop)
        if self._watch is None:
            self._scribe = Scribe()
            self._watch = Watch(loop, self._take)
        await self._watch.is_live()

    def wake(self) -> None:
        """Look for the engine now: it was just started."""
        if self._watch is not None:
            self._watch.wake()

    def stop(self) -> None:
        """Watch no more, until a page listens again; may be called twice."""
        for timer in (self._lapse, self._due):
            if timer is not None:
                timer.cancel()
        if self._watch is not None:
            self._watch.end()
        if self._telling is not None:
            self._telling.cancel()
        self._watch = self._lapse = self._due = self._telling = None
        self._news = News()

    def _take(self, watch: Watch, news: News) -> None:
        if watch is self._watch:
            self._news.add(news)
            self._plan()

    def _plan(self) -> None:
        """Tell the news after a moment: at once if little was told lately."""
        if not self._news or self._due is not None or self._telling is not None:
            return
        loop = asyncio.get_running_loop()
        wait = max(GATHERING, self._told_at + PACE - loop.time())
        self._due = loop.call_later(wait, self._begin)

    def _begin(self) -> None:
        self._due = None
        news, self._news = self._news, News()
        self._telling = asyncio.get_running_loop().create_task(self._tell(news))

    async def _tell(self, news: News) -> None:
        loop = asyncio.get_running_loop()
        try:
            change = await loop.run_in_executor(None, self._scribe.write, news)
            if change:
                self._emit(change)
        except DstackError as error:
            logger.debug("what has changed could not be looked at: %s", error)
        except Exception:
            logger.exception("what has changed could not be told")
        self._told_at = loop.time()
        self._telling = None
        self._plan()


class Watch:
    """One thread that reads the engine's stream until it is ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, take: Callable[[Watch, News], None]
    ) -> None:
        """Begin; *take* is called on *loop*."""
        self._loop = loop
        self._take = take
        self._leash = Leash()
        self._woken = threading.Event()
        self._live = asyncio.Event()
        self._engine: bool | None = None
        self._cursor: str | None = None
        threading.Thread(target=self._run, name="dstack-changes", daemon=True).start()

    async def is_live(self) -> None:
        """Return once the stream is read, or there is nothing to read; soon in any case."""
        try:
            await asyncio.wait_for(self._live.wait(), 2.0)
        except asyncio.TimeoutError:
            logger.debug("the engine's stream has not begun yet")

    def wake(self) -> None:
        """Look for the engine now."""
        self._woken.set()

    def end(self) -> None:
        """End the thread, at once."""
        self._leash.cut()
        self._woken.set()

    def _run(self) -> None:
        while not self._leash.is_cut:
            try:
                self._read()
            except CursorTooOld:
                self._cursor = None
                self._tell(News(reload=True))
            except DstackError as error:
                logger.debug("the engine's stream broke off: %s", error)
            except Exception:
                logger.exception("the engine's stream could not be read")
            self._see_engine(find_engine(Home.of_user()) is not None)
            self._on_loop(self._live.set)
            self._woken.wait(AWAY)
            self._woken.clear()

    def _read(self) -> None:
        client = session().client(start=False)
        for update in client.updates(cursor=self._cursor, reconnect=False, leash=self._leash):
            if isinstance(update, (RecordChanged, CaughtUp)):
                self._cursor = update.cursor
            if isinstance(update, CaughtUp):
                self._see_engine(True)
                self._on_loop(self._live.set)
            elif news := news_in(update):
                self._tell(news)

    def _see_engine(self, runs: bool) -> None:
        before, self._engine = self._engine, runs
        if before is not None and before != runs:
            self._tell(News(engine=runs, reload=runs))

    def _tell(self, news: News) -> None:
        if not self._leash.is_cut:
            self._on_loop(lambda: self._take(self, news))

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the server has ended
            self._leash.cut()


class Scribe:
    """Looks at what has changed and writes the event; called in one thread at a time."""

    def __init__(self) -> None:
        """Know nothing that was told."""
        self._services: dict[str, RunView] = {}
        self._models: dict[str, Row] = {}
        self._machines: dict[str, Row] = {}

    def write(self, news: News) -> Row:
        """Return the event that tells *news*; {} where nothing is different for a page."""
        change: Row = {}
        if news.engine is not None:
            change["engine"] = "running" if news.engine else "down"
        if news.engine is False:
            return change
        if news.reload or len(news.runs) > MOST_ROWS:
            return {**change, "reload": True}
        client = session().client(start=False)
        views, deleted = self._look(client, news.runs)
        services = self._moved_services(client, news, views, deleted)
        change |= {
            "runs": [run_row(view, datetime.now(timezone.utc)) for view in views],
            "deleted": deleted,
            "services": self._service_rows(client, services, news.reports),
            "models": self._model_rows(client) if services or news.runs else [],
            "machines": self._machine_rows(client) if news.machines else [],
        }
        rows = sum(len(part) for part in change.values() if isinstance(part, list))
        if rows > MOST_ROWS:
            return {"reload": True}
        return {key: value for key, value in change.items() if value}

    def _look(self, client: Client, names: set[str]) -> tuple[list[RunView], list[str]]:
        """Return those of the runs that there are, and the names of the others."""
        found: dict[str, RunView] = {}
        if len(names) > FEW_RUNS:
            found = {view.name: view for view in client.runs(everything=True)}
        for name in names - found.keys():
            try:
                found[name] = client.run(name)
            except NotFound:
                logger.debug("run %s is deleted", name)
        there = [found[name] for name in sorted(names) if name in found]
        return there, sorted(names - found.keys())

    def _moved_services(
        self, client: Client, news: News, views: list[RunView], deleted: list[str]
    ) -> dict[str, RunView]:
        """Return the living services of which there is something to tell."""
        for view in views:
            if is_service(view) and not view.finished:
                self._services[view.name] = view
            else:
                self._services.pop(view.name, None)
        for name in deleted:
            self._services.pop(name, None)
        unknown, _ = self._look(client, {*news.reports} - self._services.keys() - news.runs)
        self._services.update({view.name: view for view in unknown if not view.finished})
        moved = news.runs | news.reports.keys()
        return {name: view for name, view in self._services.items() if name in moved}

    def _service_rows(
        self, client: Client, services: dict[str, RunView], reports: dict[str, ServiceReport]
    ) -> list[Row]:
        if not services:
            return []
        gateway = client.gateway()
        return [
            service_row(view, reports.get(name) or report_of(client, view), gateway)
            for name, view in services.items()
        ]

    def _model_rows(self, client: Client) -> list[Row]:
        now = {model.name: model_row(model) for model in client.models()}
        rows = _moved(self._models, now)
        rows += [gone_model(name) for name in self._models.keys() - now.keys()]
        self._models = now
        return rows

    def _machine_rows(self, client: Client) -> list[Row]:
        now = {row["name"]: row for row in machine_rows(client.instances(), client.runs())}
        rows = _moved(self._machines, now)
        rows += [gone_machine(self._machines[name]) for name in self._machines.keys() - now.keys()]
        self._machines = now
        return rows


def _moved(before: dict[str, Row], now: dict[str, Row]) -> list[Row]:
    return [row for name, row in now.items() if before.get(name) != row]
