"""The private channel on which the engine tells what is published and listens to what was seen.

HTTP over a unix socket in the home (0600), one for each worker, in the worker's own event loop::

    PUT  /publication   what is published now; {"version": what is served}, 409 for an older one
    GET  /reports       one report a second for ever, and one at once when something must be done
    GET  /usage         one report: what a sibling asks for its /metrics
    POST /stop          end the gateway, letting answers finish

Whoever can open the socket is the user: nothing more is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from dstack_engine.gateway.address import bind_control, connect_control, control_path
from dstack_engine.gateway.messages import (
    LONGEST_PUBLICATION,
    decode_publication,
    decode_report,
    encode_report,
)
from dstack_engine.gateway.state import KeptPublication
from dstack_engine.gateway.table import Table
from dstack_engine.home import Home
from dstack_engine.records.publication import GatewayReport, ModelUsage, Publication

logger = logging.getLogger(__name__)

#: Seconds between two reports while nothing happens.
REPORT_EVERY = 1.0
#: What happens within so many seconds goes into one urgent report.
URGENT_PAUSE = 0.02
#: How long a sibling may take to answer, in seconds.
SIBLING_TIMEOUT = 1.0


class Control:
    """One worker's ear and mouth towards the engine."""

    def __init__(
        self,
        home: Home,
        table: Table,
        *,
        port: int,
        worker: int = 0,
        processes: int = 1,
        usage: Callable[[], tuple[ModelUsage, ...]] = tuple,
        on_stop: Callable[[], None] = lambda: None,
        pid: int | None = None,
    ) -> None:
        self._home = home
        self._table = table
        self._port = port
        self._worker = worker
        self._processes = processes
        self._usage = usage
        self._on_stop = on_stop
        self._pid = os.getpid() if pid is None else pid
        self._kept = KeptPublication(home.gateway / "publication.json")
        self._path = control_path(home, worker)
        self._told: Publication | None = None
        self._runner: web.AppRunner | None = None
        self._listeners: set[asyncio.Event] = set()
        table.on_urgent = self._wake

    @property
    def heard(self) -> bool:
        """Return whether anybody listens to the reports."""
        return bool(self._listeners)

    def load(self) -> None:
        """Begin with what was published last."""
        publication = self._told = self._kept.load()
        if publication is not None:
            self._table.apply(publication)

    async def start(self) -> None:
        """Listen."""
        app = web.Application(client_max_size=LONGEST_PUBLICATION)
        app.router.add_put("/publication", self._publish)
        app.router.add_get("/reports", self._report_on)
        app.router.add_get("/usage", self._tell_usage)
        app.router.add_post("/stop", self._stop)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        listener = bind_control(self._path)
        self._mark = self._path.stat()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Listen no longer; whoever hears the reports sees their end."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        with suppress(OSError):
            if os.path.samestat(self._mark, self._path.stat()):  # and not a successor's
                self._path.unlink()
        self._wake()  # the streams of reports end by themselves
        await runner.cleanup()

    def report(self) -> GatewayReport:
        """Return what this worker saw."""
        table = self._table
        return GatewayReport(table.version, self._pid, self._port, table.reports(), self._usage())

    async def siblings_usage(self) -> list[GatewayReport]:
        """Return what the other workers saw; one that does not answer is left out."""
        others = [number for number in range(self._processes) if number != self._worker]
        answers = await asyncio.gather(*(self._ask(number) for number in others))
        return [answer for answer in answers if answer is not None]

    async def _publish(self, request: web.Request) -> web.Response:
        try:
            publication = decode_publication(await request.read())
            instead = request.query.get("instead")
            instead_of = None if instead is None else int(instead)
        except ValueError as error:
            return web.json_response({"error": str(error).partition("\n")[0]}, status=400)
        table = self._table
        served = table.version
        if publication.version < served and instead_of != served:
            return web.json_response({"version": served}, status=409)
        if publication != self._told:
            table.apply(publication, instead_of=instead_of)
            self._told = publication
            if self._worker == 0:
                self._kept.save(publication)
        return web.json_response({"version": table.version})

    async def _report_on(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await answer.prepare(request)
        urgent = asyncio.Event()
        self._listeners.add(urgent)
        try:
            while self._runner is not None:
                await answer.write(encode_report(self.report()) + b"\n")
                await asyncio.sleep(URGENT_PAUSE)
                rung = asyncio.ensure_future(urgent.wait())
                await asyncio.wait([rung], timeout=REPORT_EVERY - URGENT_PAUSE)
                rung.cancel()
                urgent.clear()
            return answer
        except ConnectionError:
            return answer
        finally:
            self._listeners.discard(urgent)

    async def _tell_usage(self, request: web.Request) -> web.Response:
        return web.Response(body=encode_report(self.report()), content_type="application/json")

    async def _stop(self, request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_soon(self._on_stop)
        return web.json_response({"stopping": True}, status=202)

    def _wake(self) -> None:
        for urgent in self._listeners:
            urgent.set()

    async def _ask(self, worker: int) -> GatewayReport | None:
        try:
            return await asyncio.wait_for(self._ask_for_usage(worker), SIBLING_TIMEOUT)
        except (OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            logger.debug("worker %d tells nothing: %s", worker, error)
            return None

    async def _ask_for_usage(self, worker: int) -> GatewayReport:
        connection = connect_control(control_path(self._home, worker), 0)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            writer.write(b"GET /usage HTTP/1.0\r\nHost: gateway\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
        return decode_report(answer.partition(b"\r\n\r\n")[2])
