"""REST for the page: what runs is listed, stopped, started again, under Jupyter's login.

The routes below `/dstack-jupyter/` and nothing else; `labextension/src/records.ts` says what they
answer. A look never starts an engine.
"""

from __future__ import annotations

from datetime import datetime, timezone

from jupyter_server.auth.decorator import authorized
from tornado import web

from dstack_engine import __version__
from dstack_engine.client import Client
from dstack_engine.errors import EngineDown, EngineError
from dstack_jupyter.server.asking import DstackHandler, flag_of, in_thread, text_of
from dstack_jupyter.server.cells import cell_of
from dstack_jupyter.server.checking import MAX_CELL, problems_in
from dstack_jupyter.server.output import LogsHandler
from dstack_jupyter.server.planning import wanted_in
from dstack_jupyter.server.reference import reference
from dstack_jupyter.server.rows import Row, offers_answer, run_row
from dstack_jupyter.server.state import DOWN, look


class VersionHandler(DstackHandler):
    """`GET version`: this package's version, and the engine's where one runs."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer ``{"version", "engine"}``; `engine` is null while none runs."""
        try:
            engine = (await self.ask(lambda client: client.engine())).version
        except EngineError:
            engine = None
        self.answer({"version": __version__, "engine": engine})


class StateHandler(DstackHandler):
    """`GET state`: everything as it stands; from then on, the page is told what changes."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer an `IState`; that no engine runs is no error."""
        await self.changes.listen()
        try:
            state = await self.ask(look)
        except EngineDown:
            state = DOWN
        self.answer(state)


class EngineHandler(DstackHandler):
    """`POST engine/start`."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start the engine if none runs; answer its version once it answers."""
        info = await self.ask(lambda client: client.engine(), start=True)
        self.changes.wake()
        self.answer({"version": __version__, "engine": info.version})


class RunsHandler(DstackHandler):
    """`GET runs[?everything=true]`: the runs, the newest first."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer ``{"runs": […]}``; 503 while no engine runs."""
        everything = self.read_switch("everything")
        views = await self.ask(lambda client: client.runs(everything=everything))
        now = datetime.now(timezone.utc)
        self.answer({"runs": [run_row(view, now) for view in views]})


class RunHandler(DstackHandler):
    """`DELETE runs/<name>`."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Forget an ended run with its logs; answer nothing."""
        await self.ask(lambda client: client.delete(name))
        self.set_status(204)
        self.finish()


class StopHandler(DstackHandler):
    """`POST runs/<name>/stop` with ``{"abort": false}``."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Ask the run to end; answer the run as it is then, which is before it has ended."""
        abort = flag_of(self.read_object(), "abort")
        view = await self.ask(lambda client: client.stop(name, abort=abort), start=True)
        self.answer(run_row(view, datetime.now(timezone.utc)))


class RerunHandler(DstackHandler):
    """`POST runs/<name>/rerun`."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Submit the run's configuration anew; answer the new run."""
        view = await self.ask(lambda client: client.rerun(name), start=True)
        self.changes.wake()
        self.answer(run_row(view, datetime.now(timezone.utc)))


class FleetHandler(DstackHandler):
    """`DELETE fleets/<name>[?instance=<number>]`."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        """Let a fleet go, or one of its machines; answer nothing, before they are gone."""
        number = self.read_number("instance")
        numbers = () if number is None else (number,)
        await self.ask(lambda client: client.delete_fleet(name, instances=numbers))
        self.set_status(204)
        self.finish()


class ExamineHandler(DstackHandler):
    """`POST fleets/<name>/examine`."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Have a fleet's machines looked into now; answer nothing, before they were."""
        await self.ask(lambda client: client.examine_fleet(name), start=True)
        self.set_status(204)
        self.finish()


class CellHandler(DstackHandler):
    """`GET runs/<name>/cell`."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Answer ``{"text"}``: a cell that starts such a run; values of variables left out."""
        view = await self.ask(lambda client: client.run(name))
        self.answer({"text": cell_of(view.run)})


class OffersHandler(DstackHandler):
    """`POST offers` with a cell's text, YAML, or resources."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer what could be rented for it now, and why the rest does not fit."""
        body = self.read_object(MAX_CELL)

        def plan(client: Client) -> Row:
            return offers_answer(client.plan(wanted_in(body)))

        self.answer(await self.ask(plan))


class CheckHandler(DstackHandler):
    """`POST check` with ``{"text": cell}``."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Answer a list of what is wrong with the cell; nothing of it is run."""
        body = self.read_object(MAX_CELL)
        text = text_of(body, "text")
        self.answer(await in_thread(lambda: problems_in(text)))


class ReferenceHandler(DstackHandler):
    """`GET reference`."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the help for every key: by command, then by key path."""
        self.answer(await in_thread(reference))


_RUN = r"runs/([a-z][a-z0-9-]{1,40})"
_FLEET = r"fleets/([a-z][a-z0-9-]{1,40})"

#: What answers which path below the namespace.
ROUTES: list[tuple[str, type[DstackHandler]]] = [
    ("version", VersionHandler),
    ("state", StateHandler),
    ("engine/start", EngineHandler),
    ("runs", RunsHandler),
    (_RUN, RunHandler),
    (f"{_RUN}/stop", StopHandler),
    (f"{_RUN}/rerun", RerunHandler),
    (f"{_RUN}/cell", CellHandler),
    (f"{_RUN}/logs", LogsHandler),
    (_FLEET, FleetHandler),
    (f"{_FLEET}/examine", ExamineHandler),
    ("offers", OffersHandler),
    ("check", CheckHandler),
    ("reference", ReferenceHandler),
]
