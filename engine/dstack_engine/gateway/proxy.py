"""A request's way to a replica and back: choice, hold, sending, a second try where it is safe.

`app` calls `forward` for what goes to a service, and the models' routes call it with a body that
they have read; `exchange` is for an adapter that asks a replica a question of its own.
"""

from __future__ import annotations

import asyncio
import re

from aiohttp import HttpVersion11, web

from dstack_engine.gateway.auth import ours
from dstack_engine.gateway.chunks import LAST_CHUNK, as_chunk
from dstack_engine.gateway.counts import Visit
from dstack_engine.gateway.exchange import Exchange, exchange
from dstack_engine.gateway.headers import BadHead, RequestHead, request_head
from dstack_engine.gateway.holding import NoReplica
from dstack_engine.gateway.peers import BodyFault, Patience
from dstack_engine.gateway.reach import IDEMPOTENT, UNWELL, reach
from dstack_engine.gateway.refusals import refusal
from dstack_engine.gateway.relay import Observer, Passed, Relay
from dstack_engine.gateway.replicas import Replica
from dstack_engine.gateway.table import Service
from dstack_engine.gateway.upstream import Connection, Cut, pool

_asks_for_stream = re.compile(rb'(?<!\\)"stream"\s*:\s*true').search

__all__ = ["Exchange", "Observer", "exchange", "forward"]


async def forward(
    request: web.BaseRequest,
    service: Service,
    target: str,
    *,
    body: bytes | None = None,
    observer: Observer | None = None,
    visit: Visit | None = None,
    prefix: str = "",
    stream: bool | None = None,
) -> web.StreamResponse:
    """Pass *request* to a replica of *service* and its answer to the client.

    *target* is the path and query at the replica. *body*, where given, has been read already;
    without it the request's own is streamed. *observer* sees the answer pass. *prefix* is the path
    under which the client sees the service. *stream* tells whether a stream of events is asked for,
    where the body has been understood already. Answers that nobody gave are refusals of our own.
    """
    visit = visit or service.arrive()
    failed = True
    try:
        try:
            head = request_head(
                request.method,
                request.raw_headers,
                remote=request.remote or "",
                secret=ours(request),
                identity=observer is not None,
                may_upgrade=body is None
                and request.method == "GET"
                and request.version >= HttpVersion11,
            )
        except BadHead as error:
            return refusal(400, "bad_request", f"The request has {error}.", close=True)
        passage = _Passage(request, service, visit, head, target, body, observer, prefix)
        passage.stream = stream
        answer = await passage.take()
        failed = passage.failed
        return answer
    except (asyncio.CancelledError, ConnectionResetError):
        failed = False  # the client has gone: no fault of the service
        raise
    finally:
        visit.close(failed=failed)


def _is_over(pump: asyncio.Task[None]) -> bool:
    """Return whether the whole body has been sent; one that is still on its way is ended."""
    if not pump.done():
        pump.cancel()
        return False
    return not pump.cancelled() and pump.exception() is None


class _Passage:
    """One request on its way; made for `forward`."""

    __slots__ = (
        "body",
        "failed",
        "head",
        "prefix",
        "relay",
        "repeatable",
        "request",
        "service",
        "stream",
        "target",
        "visit",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        service: Service,
        visit: Visit,
        head: RequestHead,
        target: str,
        body: bytes | None,
        observer: Observer | None,
        prefix: str,
    ) -> None:
        self.request = request
        self.service = service
        self.visit = visit
        self.head = head
        self.target = target
        self.prefix = prefix
        if body is None and not head.upgrade and request.content.is_eof():
            body = request.content.read_nowait()  # small, and here already
        self.body = body
        self.repeatable = request.method in IDEMPOTENT and body is not None
        self.relay = Relay(
            request,
            visit,
            observer=observer,
            prefix=prefix,
            host=head.host,
            upgrades=head.upgrade,
        )
        self.failed = True
        self.stream: bool | None = None

    async def take(self) -> web.StreamResponse:
        """Ask replicas until one answers; return what was answered, or a refusal."""
        avoid: list[Replica] = []
        tried = fresh = False
        while True:
            try:
                replica, connection = await reach(
                    self.service,
                    self.visit,
                    avoid,
                    self._on_wait,
                    repeatable=self.repeatable,
                    fresh=fresh,
                )
            except NoReplica as refused:
                return self._refused(503, "no_replica", refused.message, refused.retry_after)
            except TimeoutError as error:
                return self._refused(504, "replica_unreachable", str(error))
            except OSError as error:
                return self._refused(502, "replica_unreachable", str(error))
            used = connection.used
            why = await self._ask(replica, connection)
            if why is None or self.relay.begun or not self.repeatable or tried:
                return self._answered(why)
            fresh = True
            if not used:
                tried = True
                avoid.append(replica)

    async def _ask(self, replica: Replica, connection: Connection) -> Exception | None:
        """Send the request and pass the answer on; return why that failed, or None."""
        relay = self.relay
        pump: asyncio.Task[None] | None = None
        whole = unwell = False
        used = connection.used
        try:
            relay.attach(connection)
            data = self.head.rendered(self.target, body=self.body, prefix=self.prefix)
            bodiless = self.head.method == "HEAD"
            connection.ask(data + self.body if self.body else data, relay, bodiless=bodiless)
            if self.body is None and not self.head.upgrade:
                pump = asyncio.ensure_future(self._pump(connection))
            await (relay.settled() if pump is None else self._settled_upload(pump))
            whole = relay.why is None
            unwell = not whole or relay.status in UNWELL
        except Cut as error:
            relay.why, unwell = error, True
        except BodyFault as fault:
            relay.why = fault
        finally:
            if pump is not None and not _is_over(pump):
                whole = False  # answered before the request's end: no next request may follow it
            stale = used and not connection.answered
            replica.end(failed=unwell and not stale)
            if relay.tunnel is not None:
                connection.close()
            elif whole:
                pool().give(connection)
            else:
                connection.abort()
        return relay.why

    async def _settled_upload(self, pump: asyncio.Task[None]) -> None:
        """Wait for the answer while the body goes up; a body that ends badly ends the answer."""
        answer = asyncio.ensure_future(self.relay.settled())
        try:
            await asyncio.wait((answer, pump), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                error = pump.exception()
                # One who stops reading may have answered before: then that answer counts.
                if error is not None and not isinstance(error, Cut):
                    raise error
            await answer
        finally:
            answer.cancel()

    async def _pump(self, connection: Connection) -> None:
        """Send the client's body as it comes, no faster than the replica takes it."""
        content = self.request.content
        patience = Patience(self.request)
        try:
            while data := await content.readany():
                connection.write(as_chunk(data) if self.head.chunked else data)
                if connection.full:
                    patience.reading = False
                    await connection.drain()
                    patience.reading = True
        finally:
            patience.end()
        if self.head.chunked:
            connection.write(LAST_CHUNK)

    async def _on_wait(self, seconds: float) -> None:
        """Comfort a client that waits for a stream of events."""
        if self.relay.modern and (self.relay.declared or self._wants_events()):
            self.relay.comment(f"waiting for a replica of {self.service.told.run}, {seconds:.0f} s")

    def _wants_events(self) -> bool:
        if "text/event-stream" in self.request.headers.get("Accept", ""):
            return True
        if self.stream is not None:
            return self.stream
        return self.body is not None and _asks_for_stream(self.body) is not None

    def _answered(self, why: Exception | None) -> web.StreamResponse:
        relay = self.relay
        if why is None:
            self.failed = relay.status >= 500
            return Passed(keep=relay.keep)
        if not relay.begun:
            if isinstance(why, BodyFault):
                self.failed = False
                return refusal(why.status, why.code, str(why), close=True)
            if isinstance(why, Cut):
                return refusal(502, "replica_closed", f"{self._whose()} closed the connection.")
            return refusal(502, "bad_answer", f"{self._whose()} gave no valid answer: {why}.")
        # The client must see that the answer is not whole: no end of the body, but of the line.
        return Passed(keep=False)

    def _refused(
        self, status: int, code: str, message: str, retry_after: float | None = None
    ) -> web.StreamResponse:
        if self.relay.declared:
            self.relay.tell(status, code, message)
            return Passed(keep=False)
        return refusal(status, code, message, retry_after=retry_after)

    def _whose(self) -> str:
        return f"The replica of {self.service.told.run}"
