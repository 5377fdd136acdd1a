"""REST for the page: runs listed and stopped under Jupyter's login, also while kernels are busy.

The engine's token stays here; a page sends Jupyter's. Every handler is authenticated, and
authorized for the resource `dstack`. Whatever the engine refuses comes back as
``{"message", "hint", "code"}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from dstack_engine import __version__
from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError, DstackError, EngineDown, EngineError
from dstack_engine.records.runs import RunView
from dstack_jupyter.session import session

AUTH_RESOURCE = "dstack"
NAMESPACE = "dstack-jupyter"
#: What the page sends is a wish of a few words, in bytes.
MAX_BODY = 10_000

T = TypeVar("T")


class DstackHandler(APIHandler):
    """What all handlers share: the engine is asked in a thread, and its errors become JSON."""

    auth_resource = AUTH_RESOURCE

    async def ask(self, question: Callable[[Client], T], *, start: bool) -> T:
        """Return the engine's answer; *start* an engine for it if none runs."""

        def work() -> T:
            return question(session().client(start=start))

        return await asyncio.get_running_loop().run_in_executor(None, work)

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer an error as the page reads it."""
        _, error, _ = details.get("exc_info", (None, None, None))
        if not isinstance(error, DstackError):
            super().write_error(status_code, **details)
            return
        down = isinstance(error, EngineDown)
        self.set_status(503 if down else error.http_status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"message": error.message, "hint": error.hint, "code": error.code}))

    def log_exception(self, kind: Any, error: Any, traceback: Any) -> None:
        """Log what was not foreseen; what the engine refuses is said to the page alone."""
        if not isinstance(error, DstackError):
            super().log_exception(kind, error, traceback)

    def read_flag(self, name: str) -> bool:
        """Return a yes or no of the request's body, no where it is left out.

        Raises `ArgumentError` for a body that says anything else.
        """
        if len(self.request.body) > MAX_BODY:
            raise ArgumentError("the request is too long")
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise ArgumentError("the request is no JSON") from error
        value = body.get(name, False) if isinstance(body, dict) else None
        if not isinstance(value, bool):
            raise ArgumentError(f'the request must be {{"{name}": true}} or {{"{name}": false}}')
        return value


class VersionHandler(DstackHandler):
    """`GET /dstack-jupyter/version`: this package's version, and the engine's where one runs."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer ``{"version", "engine"}``; `engine` is null while none runs."""
        try:
            engine = (await self.ask(lambda client: client.engine(), start=False)).version
        except EngineError:
            engine = None
        self.finish(json.dumps({"version": __version__, "engine": engine}))


class RunsHandler(DstackHandler):
    """`GET /dstack-jupyter/runs[?everything=true]`: the runs, the newest first."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer ``{"runs": […]}``; 503 while no engine runs, for a look must not start one."""
        everything = self.get_query_argument("everything", "false") == "true"
        views = await self.ask(lambda client: client.runs(everything=everything), start=False)
        self.finish(json.dumps({"runs": [describe_run(view) for view in views]}))


class StopHandler(DstackHandler):
    """`POST /dstack-jupyter/runs/<name>/stop` with ``{"abort": false}``."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """Ask the run to end; answer the run as it is then, which is before it has ended."""
        abort = self.read_flag("abort")
        view = await self.ask(lambda client: client.stop(name, abort=abort), start=True)
        self.finish(json.dumps(describe_run(view)))


def describe_run(view: RunView) -> dict[str, Any]:
    """Return what the page shows of a run; nothing of its environment."""
    job = view.job
    return {
        "name": view.name,
        "status": view.status.value,
        "finished": view.finished,
        "reason": job.reason.sentence if job and job.reason else None,
        "detail": job.detail if job else None,
        "submitted_at": view.run.submitted_at.isoformat(),
        "finished_at": view.run.finished_at.isoformat() if view.run.finished_at else None,
        "price": view.price,
        "ports": [{**asdict(route), "url": route.url} for route in job.routes] if job else [],
    }


def add_handlers(app: web.Application) -> None:
    """Add the handlers to Jupyter Server's application."""
    base = app.settings["base_url"]
    run = r"([a-z][a-z0-9-]{1,40})"
    routes: list[tuple[str, type[DstackHandler]]] = [
        ("version", VersionHandler),
        ("runs", RunsHandler),
        (f"runs/{run}/stop", StopHandler),
    ]
    app.add_handlers(
        ".*$", [(url_path_join(base, NAMESPACE, path), handler) for path, handler in routes]
    )
