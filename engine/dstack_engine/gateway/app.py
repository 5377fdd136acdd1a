"""The gateway's HTTP server: what comes in, and who answers it.

aiohttp's low-level server without routes or middleware, for each request takes this way. `serving`
makes the sockets; the table says what is published; `proxy` and `models` answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from dstack_engine.gateway import limits
from dstack_engine.gateway.auth import identify, unauthorized
from dstack_engine.gateway.limits import RateLimiter
from dstack_engine.gateway.peers import BodyFault, Patience, watch_for_dead_peer
from dstack_engine.gateway.proxy import forward
from dstack_engine.gateway.refusals import refusal
from dstack_engine.gateway.relay import Passed
from dstack_engine.gateway.router import NotHere, Place, place_of
from dstack_engine.gateway.table import Service, Table

log = logging.getLogger(__name__)

#: How long a server that ends keeps connections on which nothing is asked, in seconds: a request
#: may be on its way on them, and its client would not know whether it was heeded.
GRACE = 1.0

#: Answers a request for a model, given the name of the token that came with it.
ModelsDoor = Callable[[web.BaseRequest, str | None], Awaitable[web.StreamResponse]]
#: Answers `/metrics`.
MetricsDoor = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Front:
    """Sends every request where it belongs; one in each gateway process."""

    def __init__(
        self,
        table: Table,
        *,
        models: ModelsDoor | None = None,
        metrics: MetricsDoor | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._table = table
        self._models = models
        self._metrics = metrics
        self._limiter = limiter or RateLimiter()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            place = place_of(request.headers.get("Host", ""), request.raw_path)
        except NotHere as error:
            return refusal(error.status, error.code, error.message, close=True)
        if place.run is None:
            return await self._handle_own(request, place)
        service = self._table.services.get(place.run)
        if service is None:
            return refusal(404, "service_not_found", f"There is no service {place.run[:100]!r}.")
        if not place.target.startswith("/"):
            return _with_slash(place)
        refused = self._refused(request, service, place)
        if refused is not None:
            return refused
        return await forward(request, service, place.target, prefix=place.prefix)

    def _refused(
        self, request: web.BaseRequest, service: Service, place: Place
    ) -> web.Response | None:
        """Return why *request* is not let through to *service*, or None."""
        token = identify(request, self._table)
        told = service.told
        if told.auth and token is None:
            return unauthorized(request)
        if told.rate_limits:
            wait = self._limiter.wait(
                told, place.target, request.remote or "", cast(Any, request.headers)
            )
            if wait:
                self._limiter.keep(self._table.services)
                return refusal(
                    429,
                    "rate_limited",
                    f"Too many requests for {told.run}; try again in {wait:.1f} s.",
                    retry_after=wait,
                )
        return None

    async def _handle_own(self, request: web.BaseRequest, place: Place) -> web.StreamResponse:
        path = place.target.partition("?")[0]
        if self._models is not None and (path == "/v1" or path.startswith("/v1/")):
            token = identify(request, self._table)
            if request.content.is_eof():
                return await self._models(request, token)
            return await self._answer_slowly(self._models, request, token)
        if self._metrics is not None and path == "/metrics":
            return await self._metrics(request)
        return refusal(
            404,
            "not_found",
            "The gateway has /services/<run>/, /v1 and /metrics here; a service itself is at"
            " http://<run>.localhost and the gateway's port.",
        )

    async def _answer_slowly(
        self, models: ModelsDoor, request: web.BaseRequest, token: str | None
    ) -> web.StreamResponse:
        """Have a request answered whose body is still on its way."""
        _welcome_body(request)
        patience = Patience(request)
        try:
            return await models(request, token)
        except BodyFault as fault:
            return refusal(fault.status, fault.code, str(fault), close=True)
        finally:
            patience.end()


def _with_slash(place: Place) -> web.Response:
    """Send `/services/<run>` to `/services/<run>/`, below which relative links work."""
    return web.Response(status=308, headers={"Location": f"{place.prefix}/{place.target}"})


def _welcome_body(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (`Expect: 100-continue`) to send the body."""
    if request.version < HttpVersion11 or request.transport is None:
        return
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class _Line(web.RequestHandler):
    """A client's connection, with bounds and with refusals in our own shape."""

    __slots__ = ("_first_request", "_server", "_unasked_since")

    def __init__(self, server: Doors, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._unasked_since: float | None = None

    @property
    def ending(self) -> bool:
        """Return whether no more requests than those that have come are to be answered here."""
        return self._server.ending

    def close_if_unasked(self) -> None:
        """Close it if for a while nothing was asked on it; to be called again and again."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._unasked_since = None
        elif self._unasked_since is None:
            self._unasked_since = monotonic()
        elif monotonic() - self._unasked_since >= GRACE:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; it is the connection's last if the server ends."""
        if self.ending and not isinstance(resp, Passed):
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch_for_dead_peer(transport)
        self._first_request = asyncio.get_running_loop().call_later(
            limits.FIRST_REQUEST_TIME, self._close_if_silent
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        self._first_request.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and self._current_request is not None:
            self._tell_reader_of_nonsense(self._current_request.content)

    def _tell_reader_of_nonsense(self, content: StreamReader) -> None:
        """Tell who reads a body that no more of it comes: what came instead is no HTTP."""
        broken = not isinstance(self._messages[-1][0], RawRequestMessage)
        if broken and not content.is_eof() and content.exception() is None:
            content.set_exception(BodyFault(400, "bad_request", "The body is not valid HTTP."))

    def _close_if_silent(self) -> None:
        if not self._request_count:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the refusal of a request that could not be read, or was answered with a bug."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun: it can only be cut")
        if isinstance(exc, LineTooLong):
            return refusal(431, "head_too_large", "A line or header is too long.", close=True)
        if status >= 500:
            log.error("A request failed within the gateway.", exc_info=exc)
            return refusal(
                500, "gateway_error", "The gateway failed; its log says how.", close=True
            )
        if exc is not None and "Too many headers" in str(exc):
            return refusal(431, "head_too_large", "There are too many headers.", close=True)
        return refusal(400, "bad_request", "The request is not valid HTTP.", close=True)


class Doors(web.Server):
    """Makes a protocol for every client's connection; `drain` ends them kindly."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(handler, **options)
        #: Whether answers tell their clients to ask elsewhere from now on.
        self.ending = False

    def __call__(self) -> web.RequestHandler:
        return _Line(self, loop=self._loop, **self._kwargs)

    async def drain(self, overdue: Callable[[], bool]) -> None:
        """Let answers finish that are under way, and take nothing more; cut what is *overdue*.

        aiohttp's own `pre_shutdown` reads nothing more at once: a request that was just sent, and
        the rest of an upload, would wait in vain for as long as others take.
        """
        self.ending = True
        while self.connections and not overdue():
            for line in self.connections:
                cast(_Line, line).close_if_unasked()
            await asyncio.sleep(0.05)
        await self.shutdown(0.0)


def make_server(front: Front) -> Doors:
    """Return the factory of protocols for `loop.create_server`; needs a running loop."""
    return Doors(
        front.handle,
        handler_cancellation=True,
        access_log=None,
        logger=log,
        auto_decompress=False,
        keepalive_timeout=limits.IDLE_TIME,
        lingering_time=limits.LINGERING_TIME,
        max_line_size=limits.MOST_LINE,
        max_field_size=limits.MOST_FIELD,
        max_headers=limits.MOST_HEADERS,
    )
