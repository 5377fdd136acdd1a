"""An answer on its way from a replica to the client, written as it comes.

`Relay` takes what a connection to a replica brings (`upstream.Receiver`) and writes it to the
client's transport in the same call: chunks keep their borders and their moment. Used by `proxy`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol, cast

from aiohttp import HttpVersion11, web

from dstack_engine.gateway.chunks import LAST_CHUNK, as_chunk
from dstack_engine.gateway.counts import Visit
from dstack_engine.gateway.headers import BODILESS, AnswerHead, BadHead, Fields, moved_under
from dstack_engine.gateway.refusals import error_body
from dstack_engine.gateway.upstream import Connection
from dstack_engine.gateway.websockets import Uplink

#: How long a client may take none of its answer before it is given up, in seconds.
CLIENT_TIME = 300.0
#: Bytes of an error answer that are told to a client whose stream has begun.
MOST_TOLD = 64 * 1024

_PLAIN, _AS_CHUNKS, _PIECES = range(3)


class Observer(Protocol):
    """Who looks at an answer as it passes: metering."""

    def head(self, status: int, headers: Fields) -> None:
        """See the head."""

    def chunk(self, data: bytes) -> None:
        """See some bytes of the body, without their framing."""

    def end(self, *, failed: bool) -> None:
        """See the end; *failed* if the answer was cut."""


class Passed(web.StreamResponse):
    """An answer that has been written already; tells the server only whether to keep on."""

    def __init__(self, *, keep: bool) -> None:
        self._kept = keep

    @property
    def keep_alive(self) -> bool:
        """Return whether the client's connection takes another request."""
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head has gone."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the body has gone."""


class Relay:
    """One answer; `settled` returns when it has passed, or will not come."""

    __slots__ = (
        "_client",
        "_connection",
        "_declared",
        "_form",
        "_host",
        "_loop",
        "_modern",
        "_observer",
        "_pending",
        "_prefix",
        "_request",
        "_stalled",
        "_told",
        "_upgrades",
        "_visit",
        "_wake",
        "begun",
        "done",
        "keep",
        "status",
        "tunnel",
        "wants_pieces",
        "why",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        visit: Visit,
        *,
        observer: Observer | None = None,
        prefix: str = "",
        host: bytes = b"",
        upgrades: bool = False,
    ) -> None:
        client = request.transport
        if client is None:
            raise ConnectionResetError("the client has gone")
        self._request = request
        self._client = client
        self._visit = visit
        self._observer = observer
        self._prefix = prefix
        self._host = host
        self._upgrades = upgrades
        self._modern = request.version >= HttpVersion11
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._connection: Connection | None = None
        self._pending: list[bytes] = []
        self._stalled = False
        self._form = _PLAIN
        self._told: list[bytes] = []
        self._declared = False
        #: Whether anything has been sent to the client: then no other replica can be asked.
        self.begun = False
        #: Whether the answer has ended, well or not.
        self.done = False
        #: Whether the client's connection takes another request.
        self.keep = request.keep_alive
        #: Of the answer; 0 before it came.
        self.status = 0
        #: Why it was cut; None if it was not.
        self.why: Exception | None = None
        #: Whether the connection has become a tunnel.
        self.tunnel: Uplink | None = None
        self.wants_pieces = observer is not None or not self._modern

    @property
    def modern(self) -> bool:
        """Return whether the client speaks HTTP/1.1: chunks, 1xx."""
        return self._modern

    def attach(self, connection: Connection) -> None:
        """Take the next answer from *connection*."""
        self._connection = connection
        self.done, self.why = False, None
        if self._wake.done():
            self._wake = self._loop.create_future()

    async def settled(self) -> None:
        """Return when the answer has ended; keep the replica no faster than the client."""
        while True:
            await self._wake
            if self.done:
                return
            self._wake = self._loop.create_future()
            if self._stalled:
                too_slow = self._loop.call_later(CLIENT_TIME, self._client.abort)
                try:
                    await self._request.writer.drain()
                finally:
                    too_slow.cancel()
                self._stalled = False
                if self._connection is not None:
                    self._connection.resume()

    def interim(self, head: AnswerHead) -> None:
        """Pass a 1xx on to who understands it."""
        if self._modern and not self._declared:
            lines = [_status_line(head), *head.lines]
            self._client.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def head(self, head: AnswerHead) -> None:
        """Take the answer's head; it is sent with the first bytes of its body."""
        if head.status == 101 and not self._upgrades:
            raise BadHead("an upgrade that nobody asked for")
        self.status = head.status
        self._visit.first_byte()
        if self._observer is not None:
            self._observer.head(head.status, head)
        if self._declared:
            self._form = _PIECES
            self.wants_pieces = True
        elif head.status == 101:
            self._pending.append(self._upgraded(head))
        else:
            self._pending.append(self._head_bytes(head))

    def body(self, raw: bytes, pieces: Sequence[bytes]) -> None:
        """Take bytes of the body."""
        if self._observer is not None:
            for piece in pieces:
                self._observer.chunk(piece)
        if self._form == _PLAIN:
            self._pending.append(raw)
        elif self._form == _AS_CHUNKS:
            self._pending += [as_chunk(piece) for piece in pieces if piece]
        elif not self._declared:
            self._pending += pieces
        elif self.status == HTTPStatus.OK:
            self._pending += [as_chunk(piece) for piece in pieces if piece]
        elif sum(map(len, self._told)) < MOST_TOLD:
            self._told += pieces

    def flush(self) -> None:
        """Send on what was taken."""
        pending = self._pending
        if pending:
            self.begun = True
            self._client.write(pending[0] if len(pending) == 1 else b"".join(pending))
            pending.clear()
            if self._client.is_closing() and self._connection is not None:
                self._connection.abort()  # nobody reads it any more
                self._settle(ConnectionResetError("the client has gone"))
            elif not self.done and self._request.protocol.writing_paused:
                self._stall()

    def end(self) -> None:
        """Send the end of the answer."""
        if self._declared:
            self._end_declared()
        elif self._form == _AS_CHUNKS:
            self._pending.append(LAST_CHUNK)
        self._settle(None)

    def cut(self, why: Exception) -> None:
        """End without the answer's end: what follows tells the client, by cutting it as well."""
        self.flush()
        self._settle(why)

    def writable(self) -> None:
        """Let the client's bytes through the tunnel again."""
        if self.tunnel is not None:
            self.tunnel.resume()

    def comment(self, text: str) -> None:
        """Send a comment to a client that waits for a stream of events, beginning it if need be."""
        if not self._declared:
            self._declared = self.begun = True
            self._client.write(_EVENTS_BEGIN)
        self._client.write(as_chunk(f": {text}\n\n".encode()))

    def tell(self, status: int, code: str, message: str) -> None:
        """End a stream of events that has begun with an error in it."""
        event = b"data: " + error_body(status, code, message) + b"\n\n"
        self._client.write(as_chunk(event) + LAST_CHUNK)

    @property
    def declared(self) -> bool:
        """Return whether a stream of events was begun before a replica answered."""
        return self._declared

    def _settle(self, why: Exception | None) -> None:
        self.flush()
        if self.done:
            return  # the client was found gone with these last bytes
        self.done = True
        self.why = why
        if self._observer is not None and (why is None or self.begun):
            self._observer.end(failed=why is not None)
        if not self._wake.done():
            self._wake.set_result(None)

    def _stall(self) -> None:
        if not self._stalled and self._connection is not None:
            self._stalled = True
            self._connection.pause()
            if not self._wake.done():
                self._wake.set_result(None)

    def _head_bytes(self, head: AnswerHead) -> bytes:
        lines = [_status_line(head), *head.lines]
        for line in head.addressed:
            lines.append(moved_under(self._prefix, line, self._host) if self._prefix else line)
        if cast(Any, self._request.protocol).ending or not self._request.content.is_eof():
            self.keep = False  # the gateway ends, or the answer has come before the request's end
        if head.length is None:
            self._frame(head, lines)
        elif head.length or (head.status not in BODILESS and self._request.method != "HEAD"):
            lines.append(b"Content-Length: %d" % head.length)
        if not self.keep:
            lines.append(b"Connection: close")
        elif not self._modern:
            lines.append(b"Connection: keep-alive")
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def _frame(self, head: AnswerHead, lines: list[bytes]) -> None:
        if not self._modern:
            self._form = _PIECES
            self.keep = False
            return
        lines.append(b"Transfer-Encoding: chunked")
        if not head.chunked:
            self._form = _AS_CHUNKS

    def _upgraded(self, head: AnswerHead) -> bytes:
        self.keep = False
        if self._connection is not None:
            self.tunnel = Uplink(self._request, self._connection)
            self._request.protocol.set_parser(cast(Any, self.tunnel))
        lines = [_status_line(head), *head.lines, *head.addressed]
        lines += (b"Connection: Upgrade", b"Upgrade: " + head.upgrade, b"\r\n")
        return b"\r\n".join(lines)

    def _end_declared(self) -> None:
        if self._told or self.status != HTTPStatus.OK:
            text = b"".join(self._told)[:MOST_TOLD] or error_body(
                self.status, "replica_error", f"The replica answered {self.status}."
            )
            event = b"".join(b"data: " + line + b"\n" for line in text.splitlines()) + b"\n"
            self._pending.append(as_chunk(event))
        self._pending.append(LAST_CHUNK)


def _status_line(head: AnswerHead) -> bytes:
    return b"HTTP/1.1 %d %b" % (head.status, head.reason)


_EVENTS_BEGIN = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache\r\n"
    b"X-Dstack-Gateway: held\r\n"
    b"Transfer-Encoding: chunked\r\n"
    b"\r\n"
)
