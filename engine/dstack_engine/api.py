"""The engine's HTTP API, on loopback: its endpoints with OpenAPI, and one event stream.

Every request brings the token of `engine.json`, `/openapi.json` and `/docs` too. Host and Origin
are checked, so that no web page reaches the engine by a name that it made point here
(DNS rebinding) or by a form (CSRF).
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from dstack_engine import __version__, feeds
from dstack_engine.engine import Engine
from dstack_engine.errors import ConfigurationError, DstackError, EngineUnauthorized, TooLarge
from dstack_engine.fleet_api import add_fleets
from dstack_engine.housekeeping import Housekeeping
from dstack_engine.records.events import Event
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.offers import OfferId, Plan
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import (
    EngineInfo,
    EngineSettings,
    GatewayView,
    ModelView,
    PruneReport,
)
from dstack_engine.spec.configurations import Runnable
from dstack_engine.streams import Feed

logger = logging.getLogger(__name__)

#: The largest JSON body that is read, in bytes; project files come by a streamed endpoint.
BODY_LIMIT = 4 << 20

#: The largest manifest of a project's files.
MANIFEST_LIMIT = 64 << 20


#: A number of bytes into something.
Place = Annotated[int, Query(ge=0)]


class PlanRequest(BaseModel):
    """What to plan."""

    model_config = ConfigDict(extra="forbid")
    configuration: Runnable


class SubmitRequest(BaseModel):
    """What to run."""

    model_config = ConfigDict(extra="forbid")
    #: Made by the client, so that a request sent twice is one run.
    submission: str = Field(min_length=8, max_length=64)
    configuration: Runnable
    offers: list[OfferId] = Field(default=[], max_length=1000)
    environment: dict[str, str] = Field(default={}, repr=False)
    files: str | None = Field(default=None, max_length=128)
    project: str | None = Field(default=None, max_length=4096)


class RerunRequest(BaseModel):
    """What to run again."""

    #: As that of a `SubmitRequest`.
    submission: str = Field(min_length=8, max_length=64)


class StopRequest(BaseModel):
    """How to stop a run."""

    abort: bool = False


class PruneRequest(BaseModel):
    """What to take away."""

    everything: bool = False


class StopEngineRequest(BaseModel):
    """How to stop the engine."""

    stop_runs: bool = False


class ExecRequest(BaseModel):
    """A command to run in a container."""

    command: list[str] = Field(min_length=1, max_length=10_000)


def create_app(
    engine: Engine, housekeeping: Housekeeping, *, token: str, shut_down: Callable[[], None]
) -> FastAPI:
    """Return the API of *engine*; *shut_down* ends the process's server."""
    app = FastAPI(title="dstack-jupyter engine", version=__version__)
    app.add_exception_handler(DstackError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    _add_engine(app, engine, housekeeping, shut_down)
    _add_runs(app, engine)
    _add_services(app, engine)
    _add_containers(app, engine)
    _add_files(app, engine)
    _add_events(app, engine)
    add_fleets(app, engine.fleets)
    app.add_middleware(Guard, token=token)
    return app


class Guard:
    """Lets through only requests of this computer's own programs that know the token."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        """Stand before *app*."""
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await _error_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> DstackError | None:
        headers = dict(scope["headers"])
        port = scope["server"][1]
        allowed = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if headers.get(b"host", b"").decode("latin-1") not in allowed:
            return EngineUnauthorized("This address is not the engine's.")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in {f"http://{a}" for a in allowed}:
            return EngineUnauthorized("Requests of other web pages are not answered.")
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return EngineUnauthorized("The token is missing or wrong.")
        if scope["path"].startswith("/v1/files/"):
            return None  # these read a stream, within their own limits
        if b"transfer-encoding" in headers:
            return TooLarge("The request does not say how large it is.")
        if int(headers.get(b"content-length") or 0) > BODY_LIMIT:
            return TooLarge(f"The request is larger than {BODY_LIMIT} bytes.")
        return None


def _error_response(error: DstackError) -> JSONResponse:
    body: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, ConfigurationError):
        body["problems"] = [asdict(problem) for problem in error.problems]
    return JSONResponse({"error": body}, status_code=error.http_status)


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DstackError)
    return _error_response(error)


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return JSONResponse(
        {"error": {"code": "argument", "message": f"The request is wrong: {told}", "hint": None}},
        status_code=422,
    )


def _json(adapter: TypeAdapter[Any], value: object) -> Response:
    return Response(adapter.dump_json(value, exclude_unset=True), media_type="application/json")


_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
_RUN: TypeAdapter[RunView] = TypeAdapter(RunView)
_RUNS: TypeAdapter[list[RunView]] = TypeAdapter(list[RunView])
_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(list[Event])
_INSTANCES: TypeAdapter[list[Instance]] = TypeAdapter(list[Instance])
_MODELS: TypeAdapter[list[ModelView]] = TypeAdapter(list[ModelView])
_SERVICE: TypeAdapter[ServiceReport | None] = TypeAdapter(ServiceReport | None)


def _add_engine(
    app: FastAPI, engine: Engine, housekeeping: Housekeeping, shut_down: Callable[[], None]
) -> None:
    @app.get("/v1/engine")
    def describe_engine() -> EngineInfo:
        """The engine's version, process and load."""
        return engine.describe()

    @app.get("/v1/settings")
    def read_settings() -> EngineSettings:
        """The settings that clients must know."""
        return engine.client_settings()

    @app.get("/v1/doctor")
    def look_for_trouble() -> list[Finding]:
        """What is well and what is missing on this computer."""
        return housekeeping.doctor()

    @app.post("/v1/prune")
    def prune(request: PruneRequest) -> PruneReport:
        """Take away ended runs' containers, logs and files."""
        return housekeeping.prune(everything=request.everything)

    @app.post("/v1/engine/stop", status_code=202)
    def stop_engine(request: StopEngineRequest) -> dict[str, bool]:
        """End the engine; its runs go on, unless they are to be stopped first."""
        if request.stop_runs:
            housekeeping.stop_all_runs()
        threading.Timer(0.05, shut_down).start()
        return {"stopping": True}


def _add_runs(app: FastAPI, engine: Engine) -> None:
    @app.post("/v1/plan", response_model=Plan)
    def plan(request: PlanRequest) -> Response:
        """The offers for a configuration, and why others were refused."""
        return _json(_PLAN, engine.plan(request.configuration))

    @app.post("/v1/runs", response_model=RunView)
    def submit(request: SubmitRequest) -> Response:
        """Start a run."""
        view = engine.submit(
            request.configuration,
            submission=request.submission,
            offers=request.offers,
            environment=request.environment,
            files=request.files,
            project=request.project,
        )
        return _json(_RUN, view)

    @app.get("/v1/runs", response_model=list[RunView])
    def list_runs(everything: bool = False) -> Response:
        """The active runs, the newest first."""
        return _json(_RUNS, engine.runs(everything=everything))

    @app.get("/v1/runs/{name}", response_model=RunView)
    def read_run(name: str) -> Response:
        """One run."""
        return _json(_RUN, engine.run(name))

    @app.delete("/v1/runs/{name}", status_code=204)
    def delete_run(name: str) -> None:
        """Forget an ended run."""
        engine.delete_run(name)

    @app.post("/v1/runs/{name}/stop", response_model=RunView)
    def stop_run(name: str, request: StopRequest) -> Response:
        """Ask a run to end."""
        return _json(_RUN, engine.stop_run(name, abort=request.abort))

    @app.post("/v1/runs/{name}/rerun", response_model=RunView)
    def run_again(name: str, request: RerunRequest) -> Response:
        """Submit a run's configuration anew."""
        return _json(_RUN, engine.rerun(name, submission=request.submission))

    @app.get("/v1/instances", response_model=list[Instance])
    def list_instances() -> Response:
        """The machines that are not gone."""
        return _json(_INSTANCES, engine.instances())

    @app.get("/v1/history", response_model=list[Event])
    def read_events(
        after: int = 0, run: str | None = None, limit: Annotated[int, Query(le=5000)] = 200
    ) -> Response:
        """What happened, in order."""
        return _json(_EVENTS, engine.history(after=after, run=run, limit=limit))


def _add_services(app: FastAPI, engine: Engine) -> None:
    @app.get("/v1/gateway")
    def describe_gateway() -> GatewayView:
        """Where services and models are reached."""
        return engine.gateway()

    @app.get("/v1/models", response_model=list[ModelView])
    def list_models() -> Response:
        """The models that are served, with what was asked of each."""
        return _json(_MODELS, engine.models())

    @app.get("/v1/runs/{name}/service", response_model=ServiceReport | None)
    def read_service(name: str) -> Response:
        """The traffic of a service, as its gateway saw it last."""
        return _json(_SERVICE, engine.service_report(name))


def _add_containers(app: FastAPI, engine: Engine) -> None:
    @app.get("/v1/runs/{name}/logs")
    def read_logs(
        name: str,
        offset: Place = 0,
        follow: bool = False,
        tail: Place | None = None,
        replica: Place | None = None,
        node: Place | None = None,
    ) -> Response:
        """The output of the run's newest job, a JSON object a line; followed from its beginning."""
        if follow and engine.find_job(name, replica, node) is None:
            waiting = feeds.follow_log(engine, name, None, offset, replica, node)
            return StreamingResponse(waiting, media_type="application/x-ndjson")
        job = engine.newest_job(name, replica, node)
        start = engine.log(job).tail_offset(tail) if tail is not None else offset
        frames: AsyncIterator[bytes]
        if follow:
            frames = feeds.follow_log(engine, name, job, start, job.replica, job.node)
        else:
            lines = feeds.read_log(engine, job, start)
            frames = iterate_in_threadpool(lines)
        return StreamingResponse(frames, media_type="application/x-ndjson")

    @app.post("/v1/runs/{name}/exec")
    def execute(name: str, request: ExecRequest) -> Response:
        """Run a command in the run's container; its output, then its exit code, a line each."""
        engine.require_running(name)
        lines = feeds.run_command(engine, name, request.command)
        return StreamingResponse(iterate_in_threadpool(lines), media_type="application/x-ndjson")

    @app.get("/v1/runs/{name}/shell")
    def shell(name: str) -> list[str]:
        """The command that opens a shell in the run, from a terminal on this computer."""
        return list(engine.shell_command(name))

    @app.get("/v1/runs/{name}/files")
    def read_files(name: str, path: str) -> Response:
        """A file or folder of the run, as a tar."""
        chunks = engine.read_files(name, path)
        first = next(chunks, b"")  # the errors of the beginning are answered as errors
        body = iterate_in_threadpool(itertools.chain([first], chunks))
        return StreamingResponse(body, media_type="application/x-tar")


def _add_files(app: FastAPI, engine: Engine) -> None:
    blobs = engine.world.blobs

    @app.post("/v1/files/missing")
    async def missing(request: Request) -> list[str]:
        """Which files of a manifest the engine does not have yet."""
        manifest = await _bounded_body(request)
        return await run_in_threadpool(lambda: list(blobs.missing(manifest)))

    @app.post("/v1/files/blobs")
    async def receive(request: Request) -> list[str]:
        """Files, in the form of `dstack_engine.files`; answers which of them did not match."""
        chunks: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        work = asyncio.ensure_future(run_in_threadpool(blobs.receive, iter(chunks.get, None)))
        try:
            async for chunk in request.stream():
                while not work.done():
                    try:
                        chunks.put_nowait(chunk)
                        break
                    except queue.Full:
                        await asyncio.sleep(0.001)
        finally:
            while not work.done():
                try:
                    chunks.put_nowait(None)
                    break
                except queue.Full:
                    await asyncio.sleep(0.001)
        return list(await work)

    @app.post("/v1/files/trees")
    async def keep_tree(request: Request) -> str:
        """Keep a manifest; its digest is what a run's `files` names."""
        manifest = await _bounded_body(request)
        return await run_in_threadpool(blobs.keep_tree, manifest)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MANIFEST_LIMIT:
            raise TooLarge("The project has too many files.")
    return bytes(body)


def _add_events(app: FastAPI, engine: Engine) -> None:
    @app.get("/v1/events")
    async def stream_events(
        cursor: str | None = None,
        logs: Annotated[list[str], Query(max_length=1000)] = [],  # noqa: B006
    ) -> Response:
        """Everything that happens, and the output of the runs in `logs`, as server-sent events.

        `cursor` is the id of the last event seen: the stream goes on from there without gap or
        repeat, or answers `cursor-too-old`. Without it, it begins with the present.
        """
        store = engine.world.store
        feed = Feed(
            cursor=await run_in_threadpool(engine.find_cursor, cursor),
            logs=logs,
            read_events=lambda after, limit: store.events(after=after, limit=limit),
            list_logs=engine.logs_of,
            read_log=engine.read_log,
        )
        return StreamingResponse(feeds.stream_events(engine, feed), media_type="text/event-stream")
